"""What callers ask of sessions and runs, and what they get: plain data shared by the programmatic API, the wire
and the store. Results are bounded as in the wire contract; `cursor` values are opaque to callers."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

import attrs

from engine.runs.record import Run
from engine.transcript.session import Session

T = TypeVar("T")
WhenBusy = Literal["reject", "queue", "steer", "interrupt"]


@attrs.frozen(slots=True, kw_only=True)
class NewSession:
    """Absent fields get the daemon's defaults; `metadata` is an encoded JSON object, `cwd` absolute."""

    title: str | None = None
    model: str | None = None
    instructions: str | None = None
    cwd: str | None = None
    toolsets: tuple[str, ...] | None = None
    metadata: bytes | None = None
    idempotency_key: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class SessionChanges:
    """Absent fields stay as they are."""

    title: str | None = None
    model: str | None = None
    instructions: str | None = None
    toolsets: tuple[str, ...] | None = None
    metadata: bytes | None = None
    expected_revision: int | None = None


@attrs.frozen(slots=True, kw_only=True)
class ForkSession:
    """A copy of a session up to and including a message, absent the whole."""

    session_id: str
    message_id: str | None = None
    idempotency_key: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class InputFile:
    """A file of a user message: by `path` (inside the session's folder) or inline. Exactly one is given."""

    path: str | None = None
    data_base64: str | None = None
    mime: str | None = None
    name: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class StartRun:
    """A user message that starts a run: texts and files in order."""

    session_id: str
    input: tuple[str | InputFile, ...]
    model: str | None = None
    when_busy: WhenBusy = "reject"
    idempotency_key: str | None = None
    expected_revision: int | None = None


@attrs.frozen(slots=True)
class Page(Generic[T]):
    """One page of a list; `next_cursor` is absent on the last."""

    items: tuple[T, ...]
    next_cursor: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class MessagesPage:
    """Messages in chronological order, each encoded as the wire shows it (long strings cut, with handles)."""

    messages: tuple[bytes, ...]
    revision: int
    next_cursor: str | None = None


@attrs.frozen(slots=True, kw_only=True)
class OutputPiece:
    """A piece of a stored string: `text`, cut on a character boundary. Offsets and `total` are bytes of UTF-8."""

    text: str
    total: int
    next_offset: int | None = None


SessionPage = Page[Session]
RunPage = Page[Run]
