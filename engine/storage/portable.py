"""A session as lines of JSON: what an export writes and an import reads.

    {"greenroom":"session","version":1,"session":{…}}
    {"blob":{"hash":"…","size":100000}}              content that parts refer to; behind it, until there are so many
    {"data":"…"}                                     bytes, its base64 in lines
    {"message":{"role":"user","id":"…",…}}           in order
    {"part":{"kind":"text","id":"…","text":"…"}}     of the message before it, in order
    {"part":{"kind":"text","id":"…"},"long":{"text":100000}}
    {"piece":"…"}                                    a long string in lines, until there are so many characters
    {"end":{"messages":1,"parts":2,"blobs":1}}       the last line: a file without it is cut

Fields are those of the records (engine.transcript.records), absent ones left out. The input of a tool call is the text
of its JSON. Ids are those that the session had; an import makes new ones and keeps what refers to what. What a person
allowed for a session is not in it: a file must not bring permissions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

import attrs

from engine import ids
from engine.codec import Check
from engine.limits import KIB, MIB
from engine.transcript.records import NO_USAGE, Failure, MessageInfo, Part, Usage
from engine.transcript.todo import TODO_CHARACTERS, TODOS_MAX, Todo
from engine.wire.bounds import (
    INTEGER_MAX,
    NAME_MAX,
    AbsolutePath,
    Id,
    Instructions,
    Metadata,
    Name,
    Names,
    Revision,
    Title,
)

VERSION: Final = 1
# A line is read whole. The longest that is written is below it: four strings that are just not long, and the
# instructions of a session, with every character escaped.
LINE_BYTES: Final = MIB
# A longer string is divided; pieces have as many characters.
PIECE_CHARACTERS: Final = 16 * KIB
# Of a blob in one line; a multiple of 3, so that the lines' base64 put together is the blob's.
BLOB_PIECE_BYTES: Final = 48 * KIB
COST_MAX: Final = 1e12  # of any currency, far beyond what tokens cost
_IDS: Final = frozenset({"id", "parent_id", "run_id", "call_id", "kept_from"})


def is_usage(usage: Usage) -> bool:
    counts = attrs.astuple(usage, filter=attrs.filters.exclude("cost"))
    return all(is_count(count) for count in counts) and (usage.cost is None or 0 <= usage.cost <= COST_MAX)


def is_count(value: int) -> bool:
    return 0 <= value <= INTEGER_MAX


def mistakes(record: MessageInfo | Part) -> Iterator[str]:
    """What the rest of the program relies on in a record and its types do not say: what makes it sees to it, and an
    import has to."""
    for field in attrs.fields(type(record)):
        value = getattr(record, field.name)
        if isinstance(value, int) and not is_count(value):
            yield f"{field.name}: expected 0 to {INTEGER_MAX}"
        elif isinstance(value, Usage) and not is_usage(value):
            yield f"{field.name}: expected counts of tokens"
        elif isinstance(value, Failure) and len(value.code) > NAME_MAX:
            yield f"{field.name}.code: expected at most {NAME_MAX} characters"
        elif field.name in ("model", "tool") and isinstance(value, str) and not 1 <= len(value) <= NAME_MAX:
            yield f"{field.name}: expected 1 to {NAME_MAX} characters"
        elif field.name in _IDS and isinstance(value, str) and not ids.is_well_formed(value):
            yield f"{field.name}: expected an id"


def _are_todos(todos: tuple[Todo, ...]) -> bool:
    return len(todos) <= TODOS_MAX and all(len(todo.text) <= TODO_CHARACTERS for todo in todos)


@attrs.frozen(slots=True, kw_only=True)
class PortableSession:
    """What a session has beside its transcript and goes with it."""

    id: Id
    title: Title
    model: Name
    cwd: AbsolutePath
    created_at: Revision
    instructions: Instructions | None = None
    toolsets: Names = ()
    metadata: Metadata = b"{}"
    usage: Annotated[Usage, Check("counts of tokens", is_usage)] = NO_USAGE
    todos: Annotated[tuple[Todo, ...], Check(f"at most {TODOS_MAX} short lines", _are_todos)] = ()


@attrs.frozen(slots=True, kw_only=True)
class Counts:
    """Of the last line."""

    messages: int = 0
    parts: int = 0
    blobs: int = 0
