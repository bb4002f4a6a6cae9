"""What tools write while they work, as a few lines each on standard error."""

from __future__ import annotations

import re
from typing import Final

import attrs

from actors.cli.output import line, note

# Of one call: enough to see that it goes on and what it is at. The result is the model's, and not repeated.
LINES_MOST: Final = 8
COLUMNS: Final = 96
# Of a line whose end has not come.
_REST_CHARACTERS: Final = 400
_ENDS: Final = re.compile(r"\r\n|[\r\n]")  # a return begins a line anew: progress bars


@attrs.define
class _Call:
    rest: str = ""
    lines: int = 0


class Previews:
    """Of one run. Calls at the same time may take turns: each line is whole."""

    def __init__(self) -> None:
        self._calls: dict[str, _Call] = {}

    def take(self, call_id: str, text: str) -> None:
        call = self._calls.setdefault(call_id, _Call())
        *lines, rest = _ENDS.split(call.rest + text)
        for each in lines:
            self._tell(call, each)
        call.rest = rest[-_REST_CHARACTERS:]

    def end(self, call_id: str) -> None:
        """The call has ended."""
        call = self._calls.pop(call_id, None)
        if call is None:
            return
        self._tell(call, call.rest)
        if call.lines > LINES_MOST:
            note(f"  … {call.lines - LINES_MOST} more lines")

    def forget(self) -> None:
        """No call is at work."""
        self._calls.clear()

    def _tell(self, call: _Call, text: str) -> None:
        if text.strip():
            call.lines += 1
            if call.lines <= LINES_MOST:
                note(f"  {line(text, COLUMNS)}")
