"""What was found in a shell command: its simple commands, and what is in doubt. Made by engine.tools.shell_words."""

from __future__ import annotations

from typing import Final

import attrs

from engine.tools.wildcard import ANY

COMMANDS_MAX: Final = 1000
_DOUBTS_MAX: Final = 8


@attrs.frozen(slots=True)
class Command:
    """One simple command: its words unquoted, without assignments and redirections. A carrier runs a command that
    its arguments name, which may begin at any of them; with `more`, arguments follow that are read from its input."""

    words: tuple[str, ...]
    carrier: bool = False
    more: bool = False


UNKNOWN: Final = Command((ANY,), True)


@attrs.frozen(slots=True)
class Script:
    """`doubts` say why it is not sure that the commands are all that happens, `unknown` why UNKNOWN is among them;
    both complete a sentence with "because"."""

    commands: tuple[Command, ...]
    doubts: tuple[str, ...]
    unknown: str | None = None


class Lost(Exception):
    """The reader does not know any more where it stands."""


class Found:
    """Collects commands and doubts. `again` counts the characters that were read a second time."""

    def __init__(self) -> None:
        self.again = 0
        self._commands: dict[Command, None] = {}
        self._doubts: list[str] = []
        self._unknown: str | None = None

    def doubt(self, why: str) -> None:
        if why not in self._doubts and len(self._doubts) < _DOUBTS_MAX:
            self._doubts.append(why)

    def unknown(self, why: str) -> None:
        self.doubt(why)
        self._commands[UNKNOWN] = None
        self._unknown = self._unknown or why

    def command(self, command: Command) -> None:
        """Raises Lost beyond COMMANDS_MAX."""
        if len(self._commands) >= COMMANDS_MAX:
            raise Lost(f"it has more than {COMMANDS_MAX:,} commands")
        self._commands[command] = None

    def script(self) -> Script:
        return Script(tuple(self._commands), tuple(self._doubts), self._unknown)
