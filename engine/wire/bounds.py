"""The bounds of request parameters, as types: a broken one is reported with its field, like a wrong type.

Lengths of text are in characters unless they say bytes. PROTOCOL.md's table of parameters is held against the
texts here by a test.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sized
from typing import Annotated, Any, Final

from engine import ids
from engine.codec import Check
from engine.limits import DEFAULT, KIB
from engine.transcript.titles import TITLE_MAX, is_title

INTEGER_MAX: Final = 2**53 - 1  # what every JSON reader keeps exact

NAME_MAX: Final = 200  # models, toolsets, programs: a line on a screen
PATH_MAX: Final = 4096  # PATH_MAX of Linux
INSTRUCTIONS_BYTES: Final = 64 * KIB  # above known system prompts
METADATA_BYTES: Final = 16 * KIB  # for a program's own labels, not for content
TOOLSETS_MAX: Final = 32
KEY_MAX: Final = 128  # an idempotency key: a UUID and room for a prefix
CURSOR_MAX: Final = 512
HANDLE_MAX: Final = 2 * ids.ID_MAX
REASON_MAX: Final = 500  # shown beside a run's status
INPUTS_MAX: Final = 64  # texts and files of one message
LIST_MAX: Final = 100
MESSAGES_MAX: Final = 200
PAGE_DEFAULT: Final = 50
OUTPUT_READ_MAX: Final = 64 * KIB
STATE_MAX: Final = 4 * KIB  # of Markdown that goes on; engine/rendering/html.py makes none of half of it
CONTENT_BYTES: Final = 64 * KIB  # the answer to a tool server's question

_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)


def _length(least: int, most: int) -> Check:
    def holds(value: Sized) -> bool:
        return least <= len(value) <= most

    return Check(f"{least} to {most} characters" if least else f"at most {most} characters", holds)


def _range(least: int, most: int) -> Check:
    return Check(f"{least} to {most}", lambda value: least <= value <= most)


def _at_least(least: int) -> Check:
    return Check(f"{least} or more", lambda value: least <= value <= INTEGER_MAX)


def _items(most: int) -> Check:
    return Check(
        f"at most {most} of them, none twice", lambda value: len(value) <= most and len(set(value)) == len(value)
    )


def _encoded_object(most: int) -> Check:
    return Check(f"an object of at most {most} bytes", lambda data: data[:1] == b"{" and len(data) <= most)


def _is_path(path: str) -> bool:
    return 1 <= len(path) <= PATH_MAX and "\0" not in path


def _is_base64(text: str) -> bool:
    return len(text) % 4 == 0 and _BASE64.fullmatch(text) is not None


ID: Final = Check("an id", ids.is_well_formed)
AFTER: Final = Check(
    f"at most {DEFAULT.watches_per_connection} runs with a cursor of 0 or more each",
    lambda after: (
        len(after) <= DEFAULT.watches_per_connection
        and all(ids.is_well_formed(run_id) and 0 <= seq <= INTEGER_MAX for run_id, seq in after.items())
    ),
)
ABSOLUTE: Final = Check(
    f"an absolute path of at most {PATH_MAX} characters", lambda p: _is_path(p) and os.path.isabs(p)
)
PATH: Final = Check(f"a path of 1 to {PATH_MAX} characters", _is_path)
INPUTS: Final = Check(f"1 to {INPUTS_MAX} texts and files", lambda items: 1 <= len(items) <= INPUTS_MAX)
TEXT: Final = Check("text that is not blank", lambda text: bool(text.strip()))

Id = Annotated[str, ID]
Name = Annotated[str, _length(1, NAME_MAX)]
Title = Annotated[str, Check(f"one line of at most {TITLE_MAX} characters, none of them a control", is_title)]
Instructions = Annotated[
    str, Check(f"at most {INSTRUCTIONS_BYTES} bytes", lambda text: len(text.encode()) <= INSTRUCTIONS_BYTES)
]
AbsolutePath = Annotated[str, ABSOLUTE]
Path = Annotated[str, PATH]
Names = Annotated[tuple[Name, ...], _items(TOOLSETS_MAX)]
Metadata = Annotated[bytes, _encoded_object(METADATA_BYTES)]
Key = Annotated[str, _length(1, KEY_MAX)]
Cursor = Annotated[str, _length(1, CURSOR_MAX)]
Query = Annotated[str, _length(0, NAME_MAX)]
ListLimit = Annotated[int, _range(1, LIST_MAX)]
MessagesLimit = Annotated[int, _range(1, MESSAGES_MAX)]
OutputLimit = Annotated[int, _range(1, OUTPUT_READ_MAX)]
Revision = Annotated[int, _at_least(0)]
Seq = Annotated[int, _at_least(0)]
Offset = Annotated[int, _at_least(0)]
After = Annotated[dict[str, int], AFTER]
Text = Annotated[str, TEXT]
Base64 = Annotated[str, Check("base64 text", _is_base64)]
Handle = Annotated[str, _length(1, HANDLE_MAX)]
Reason = Annotated[str, _length(0, REASON_MAX)]
Content = Annotated[bytes, Check(f"at most {CONTENT_BYTES} bytes of JSON", lambda data: len(data) <= CONTENT_BYTES)]
AnyText = Annotated[str, Check("any text", lambda text: True)]
State = Annotated[str, _length(0, STATE_MAX)]
Protocol = Annotated[int, _at_least(0)]


def says(kind: Any) -> str | None:
    """The bound that a field's type has, as text; None if the type says all."""
    notes = [note.says for note in getattr(kind, "__metadata__", ()) if isinstance(note, Check)]
    return notes[0] if notes else None
