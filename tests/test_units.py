"""The files for systemd and logrotate: what they say agrees with the program, and systemd understands them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from actors.cli.exits import HELD, USAGE
from actors.composition import ROOT_GRACE
from engine.config_values import parse_listen, parse_quantity
from engine.limits import Limits

SCRIPTS = Path(__file__).parents[1] / "scripts"
SYSTEMD = SCRIPTS / "systemd"
LIMITS = Limits()


def settings(name: str) -> dict[str, list[str]]:
    """`Section.Key` and its values in order, as systemd reads them: an empty one forgets those before it."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (SYSTEMD / name).read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line.strip("[]")
            continue
        key, equals, value = line.partition("=")
        assert equals, line
        assert key == key.strip(), line
        values = found.setdefault(f"{section}.{key}", [])
        if value:
            values.append(value)
        else:
            values.clear()
    return found


def size(text: str) -> int:
    return int(parse_quantity(text + "iB", "bytes"))


def test_the_service_leaves_the_daemon_the_time_and_memory_that_it_takes() -> None:
    service = settings("greenroom.service")
    assert service["Service.Type"] == ["notify"]
    # Else a SIGTERM for all ends the tools while their runs have time to end.
    assert service["Service.KillMode"] == ["mixed"]
    (stop,) = service["Service.TimeoutStopSec"]
    assert int(stop) > LIMITS.drain_timeout + ROOT_GRACE
    (high,), (most,) = service["Service.MemoryHigh"], service["Service.MemoryMax"]
    assert LIMITS.memory_hard < size(high) < size(most)
    (files,) = service["Service.LimitNOFILE"]
    assert int(files) >= 4 * LIMITS.connections_max
    assert service["Service.RestartPreventExitStatus"] == [f"{USAGE} {HELD}"]
    assert service["Service.Sockets"] == service["Install.Also"] == ["greenroom.socket"]


def test_the_socket_is_one_that_the_daemon_takes() -> None:
    socket = settings("greenroom.socket")
    for where in socket["Socket.ListenStream"]:
        assert parse_listen(where).loopback


def test_the_system_wide_part_takes_the_place_of_the_users() -> None:
    system = settings("system.conf")
    (command,) = system["Service.ExecStart"]
    assert "%h" not in command
    folder = command.split("--data ")[1].split()[0]
    assert folder == f"/var/lib/{system['Service.StateDirectory'][0]}"
    assert folder in system["Service.ReadWritePaths"][0].split()
    assert system["Install.WantedBy"] == ["multi-user.target"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_them(tmp_path: Path) -> None:
    for name in ("greenroom.service", "greenroom.socket"):
        text = (SYSTEMD / name).read_text().replace("%h/.local/bin/greenroom", "/bin/true")
        (tmp_path / name).write_text(text)
    drop_in = tmp_path / "greenroom.service.d"
    drop_in.mkdir()
    text = (SYSTEMD / "system.conf").read_text().replace("/opt/greenroom/bin/greenroom", "/bin/true")
    (drop_in / "system.conf").write_text(text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "greenroom.service", "greenroom.socket"],
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "greenroom" not in verified.stderr + verified.stdout
    assert verified.returncode == 0, verified.stderr


def test_a_log_file_is_emptied_in_place() -> None:
    # The daemon keeps the file open: tests/e2e/test_supervision.py shows that it goes on at its beginning.
    assert "    copytruncate\n" in (SCRIPTS / "logrotate" / "greenroom").read_text()
