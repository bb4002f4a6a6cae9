"""What a tool is to the rest of the program: its description for a model, its context, its result.

A tool's full name is `toolset.tool` in events, transcript, rules and configuration. Towards a provider that
allows only `[A-Za-z0-9_-]{1,64}` it is `toolset__tool` (engine.tools.names).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol

import attrs

from engine.codec import Json
from engine.transcript.records import Failure, FilePart

# stopped     not started, or stopped; it can be started
# starting    it is being opened
# ready       it takes calls
# degraded    it takes calls, but part of it does not work; `error` says what
# restarting  it waits for its next attempt to start
# failed      it could not be started, or ended too often; calls are refused
# stopping    calls are refused, it is being closed
ToolsetState = Literal["stopped", "starting", "ready", "degraded", "restarting", "failed", "stopping"]


@attrs.frozen(slots=True, kw_only=True)
class ToolSpec:
    """`input_schema` is a JSON Schema of an object, encoded."""

    name: str  # toolset.tool
    description: str
    input_schema: bytes


@attrs.frozen(slots=True, kw_only=True)
class Question:
    """What a tool asks of a person in the middle of a call. `schema` is the JSON Schema of the content that it wants,
    for people to read; `mistakes` gives what is wrong with a content as (path, message), nothing if it fits."""

    message: str
    schema: Json
    mistakes: Callable[[Json], Sequence[tuple[str, str]]] = attrs.field(repr=False)


@attrs.frozen(slots=True, kw_only=True)
class Answer:
    """Of a person, or of whoever decides in the place of one. `content` is there with `accept`, and fits."""

    action: Literal["accept", "decline", "cancel"]
    content: Json = None


Ask = Callable[[Question], Awaitable[Answer]]


@attrs.frozen(slots=True, kw_only=True)
class ToolContext:
    """Where a call happens. `cwd` is the session's folder, absolute: built-in tools are confined to it. `ask` asks a
    person and waits for the answer, however long that takes; cancelled, the question is withdrawn. Absent where nobody
    can be asked."""

    session_id: str
    run_id: str
    call_id: str
    cwd: str
    ask: Ask | None = attrs.field(default=None, eq=False, repr=False)


@attrs.frozen(slots=True, kw_only=True)
class FileChange:
    """A file that a call wrote, as a PatchPart says it. `path` is below the session's folder; `before` and `after` are
    SHA-256 of the whole content in hex, `before` absent of a new file; `size` is the new one in bytes."""

    path: str
    before: str | None
    after: str
    size: int


class Whole(Protocol):
    """All that a tool gave, on the disk: a spool file (engine.storage.spool), then a blob of the store. `hash` is its
    SHA-256 in hex, `size` in bytes."""

    @property
    def handle(self) -> str: ...
    @property
    def hash(self) -> str: ...
    @property
    def size(self) -> int: ...


@attrs.frozen(slots=True, kw_only=True)
class Media:
    """A file that a call gave, such as an image: its bytes, or a spool file that is the taker's to discard."""

    mime: str
    name: str
    data: bytes | Whole = attrs.field(repr=False)


@attrs.frozen(slots=True, kw_only=True)
class ToolResult:
    """What a call gave, already bounded (`limits.tool_result_bytes`, `.tool_result_lines`).

    `text` is what the model sees; with `is_error` it says what went wrong. `title` is one line for a person.
    `whole` is there if `text` is head and tail of more; a spool file is the taker's to discard.
    """

    text: str
    title: str | None = None
    is_error: bool = False
    whole: Whole | None = None
    change: FileChange | None = None
    media: tuple[Media, ...] = ()
    files: tuple[FilePart, ...] = ()  # the media as parts of a transcript


@attrs.frozen(slots=True, kw_only=True)
class ToolLine:
    """A tool in a list: without its schema."""

    name: str  # inside its toolset
    description: str


@attrs.frozen(slots=True, kw_only=True)
class ResourceLine:
    """A resource of a tool server in a list."""

    uri: str
    name: str
    description: str


@attrs.frozen(slots=True, kw_only=True)
class Offer:
    """What a tool server has beside its tools, as it was listed last."""

    prompts: tuple[ToolLine, ...] = ()
    resources: tuple[ResourceLine, ...] = ()


@attrs.frozen(slots=True, kw_only=True)
class ToolsetStatus:
    """A toolset as the wire shows it. `leases` are the calls at work; `restarts` counts those since the start.
    `prompts` and `resources` are there for a toolset that can have any."""

    name: str
    kind: str
    state: ToolsetState
    tools: tuple[ToolLine, ...]
    leases: int
    restarts: int
    error: Failure | None = None
    prompts: tuple[ToolLine, ...] | None = None
    resources: tuple[ResourceLine, ...] | None = None
