"""Commands for whoever operates a daemon, against real ones: page, config."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.raw import token_of
from tests.e2e.test_cli import COMMAND, answer, environment, greenroom
from tests.e2e.wire import DaemonProcess, daemon


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with daemon(tmp_path_factory.mktemp("operating") / "data") as process:
        yield process


# ------------------------------------------------------------------ page
def test_the_address_signs_a_browser_in(server: DaemonProcess) -> None:
    ended = greenroom(server.folder, "page")
    (url,) = answer(ended).splitlines()
    assert url.startswith(f"{server.url}/?token=")
    assert "is a key" in ended.stderr
    assert token_of(server.folder) not in ended.stderr
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    connection.request("GET", f"{parts.path}?{parts.query}")
    reply = connection.getresponse()
    reply.read()
    cookie = (reply.getheader("set-cookie") or "").partition(";")[0]
    connection.request("GET", "/", headers={"Cookie": cookie})
    assert connection.getresponse().status == 200
    connection.close()


def test_a_browser_is_opened(server: DaemonProcess, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    ended = _page(server, BROWSER=str(browser))
    assert ended == 0
    assert (tmp_path / "opened").read_text().startswith(f"{server.url}/?token=")
    assert _page(server, BROWSER="/nonexistent %s", PATH="/nonexistent", DISPLAY="") == 1


def _page(server: DaemonProcess, **variables: str) -> int:
    env = {**environment(GREENROOM_DATA=str(server.folder)), **variables}
    return subprocess.run(
        [*COMMAND, "page", "--open"], env=env, capture_output=True, timeout=60, check=False
    ).returncode


def test_no_daemon_no_page(tmp_path: Path) -> None:
    ended = greenroom(tmp_path / "none", "page")
    assert answer(ended, 3) == ""
    assert "greenroom serve" in ended.stderr


def test_a_unix_socket_has_no_page(tmp_path: Path) -> None:
    with daemon(tmp_path / "data", None, "--listen", f"unix:{tmp_path}/socket"):
        ended = greenroom(tmp_path / "data", "page")
    assert answer(ended, 1) == ""
    assert "no browser reaches" in ended.stderr


# ------------------------------------------------------------------ config
def test_the_printed_file_is_one_that_is_right(tmp_path: Path) -> None:
    file = tmp_path / "greenroom.toml"
    file.write_text(answer(greenroom(tmp_path, "config")))
    said = answer(greenroom(tmp_path, "config", "check", str(file)))
    assert said.splitlines()[0] == f"{file}: right"
    file.write_text('[models.local]\nprovider = "openai"\nbase_url = "http://x/v1"\nmodel = "m"\n')
    checked = json.loads(answer(greenroom(tmp_path, "config", "check", "--json", "--config", str(file))))
    assert (checked["file"], checked["default_model"], checked["models"]) == (str(file), "local", ["local", "demo"])


def test_each_mistake_of_a_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "greenroom.toml"
    file.write_text('lisen = "x"\n[limits]\nrun_log_bytes = "much"\n')
    ended = greenroom(tmp_path, "config", "check", str(file))
    assert answer(ended, 2) == ""
    assert [line.split(": ")[1] for line in ended.stderr.splitlines()] == ["limits.run_log_bytes", "lisen"]
    assert answer(greenroom(tmp_path, "config", "check", str(tmp_path / "none")), 2) == ""
    assert "no such file" in answer(greenroom(tmp_path, "config", "check"))  # the platform's: none is needed


def test_the_document_is_printed(tmp_path: Path) -> None:
    printed = answer(greenroom(tmp_path, "config", "--markdown"))
    assert printed == (Path(__file__).parents[2] / "engine" / "CONFIG.md").read_text()
