"""The chat line by line, in a terminal of its own, against a real daemon and a model's service."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks import ATTACKS
from tests.e2e.screen import Screen, sequences
from tests.e2e.test_cli import COMMAND, environment
from tests.e2e.wire import daemon
from tests.model_server import ModelServer, model_server

INTERRUPT, END = "\x03", "\x04"
PROMPT = re.compile(r"^> ?\Z", re.M)  # the last line: nothing was typed behind it


@pytest.fixture(scope="module")
def service() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


def config(service: ModelServer) -> str:
    return f"""
        default_model = "real"
        [models.real]
        provider = "openai"
        base_url = "{service.url}"
        model = "theirs"
    """


def chat(folder: Path, *words: str, term: str = "xterm-256color") -> Screen:
    return Screen([*COMMAND, "chat", *words], environment(GREENROOM_DATA=str(folder), TERM=term), folder.parent)


def prompted(screen: Screen) -> None:
    """Until the next message may be written."""
    screen.until(lambda: PROMPT.search(screen.text.rstrip("\n")) is not None, "a prompt")


def leave(screen: Screen) -> None:
    """Nothing that a terminal obeys was written, but ends of lines."""
    screen.type(END)
    assert screen.wait() == 0
    assert set(sequences(screen.raw)) <= {("control", "\r"), ("control", "\n"), ("control", "\t")}


def test_a_daemon_that_is_killed_and_started_again_is_come_back_to(tmp_path: Path, service: ModelServer) -> None:
    folder = tmp_path / "data"
    with daemon(folder, config(service)) as first, chat(folder, "--plain") as screen:
        prompted(screen)
        screen.type("!stream n=3 text=before{n}_\n")
        screen.expect("before0_before1_before2_")
        prompted(screen)
        screen.type("!silence n=3\n")
        screen.expect("partial partial partial")  # as it streams: it has no end
        first.signal(signal.SIGKILL)
        first.wait()
        with daemon(folder, config(service), "--listen", first.url.removeprefix("http://")) as second:
            screen.expect("interrupted")
            prompted(screen)
            assert screen.text.count("partial partial partial") == 1
            screen.type("!stream n=3 text=after{n}_\n")
            screen.expect("after0_after1_after2_")
            prompted(screen)
            # Once more, and nobody has asked for anything.
            second.signal(signal.SIGKILL)
            second.wait()
            with daemon(folder, config(service), "--listen", first.url.removeprefix("http://")):
                screen.type("!stream n=3 text=last{n}_\n")
                screen.expect("last0_last1_last2_")
                prompted(screen)
                screen.type("/sessions\n")
                screen.expect("SESSION", re.compile(r"ses_\S+ .* !stream n=3 text=before"))
                assert screen.text.count("ses_") == 1  # it is the same conversation
                prompted(screen)
                leave(screen)


def test_hostile_answers_streams_and_interrupts(tmp_path: Path, service: ModelServer) -> None:
    # On a terminal that says that it is dumb the chat is this one.
    with daemon(tmp_path / "data", config(service)), chat(tmp_path / "data", term="dumb") as screen:
        before = screen.mode()
        prompted(screen)
        screen.type("!attack size=1\n")
        screen.expect("the attack is over")
        prompted(screen)
        assert all(f"{name}: ".encode() in screen.raw for name in ATTACKS if "halves" not in name)
        screen.type("!silence n=3\n")
        screen.expect("partial partial partial")
        screen.resize(60, 20)
        screen.type(INTERRUPT)
        screen.expect("cancelled: stopped by a client")
        assert b"[stopping]" in screen.raw
        prompted(screen)
        leave(screen)
        assert screen.mode() == before
