"""`greenroom stop`: end the daemon of a data directory."""

from __future__ import annotations

from actors.cli.arguments import Arguments
from actors.cli.exits import FAILED, NO_DAEMON, Exit
from actors.cli.output import note
from actors.cli.processes import end, holder
from actors.cli.settings import seconds
from actors.places import data_dir


def main(arguments: Arguments) -> None:
    timeout = seconds("--timeout", arguments.timeout)
    folder = data_dir(arguments.data)
    pid = holder(folder)
    if pid is None:
        raise Exit(NO_DAEMON, f"no daemon runs on {folder}")
    if not end(folder, pid, timeout):
        raise Exit(FAILED, f"the daemon (pid {pid}) was asked to end and has not after {timeout:g} s")
    note(f"the daemon (pid {pid}) has ended")
