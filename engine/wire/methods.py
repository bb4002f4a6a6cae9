"""The methods of the wire contract: what each takes, what it gives, and whether this version serves it.

One record per method's parameters; optional ones default to None or to the contract's value. Decoding reports all
mistakes at once. METHODS is the one table; PROTOCOL.md shows it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal

import attrs

from engine import codec
from engine.codec import DecodeError, Json
from engine.commands import ForkSession, InputFile, NewSession, SessionChanges, StartRun, WhenBusy
from engine.runs.events import Decision
from engine.wire import bounds
from engine.wire.bounds import (
    PAGE_DEFAULT,
    AbsolutePath,
    After,
    AnyText,
    Base64,
    Content,
    Cursor,
    Handle,
    Id,
    Instructions,
    Key,
    ListLimit,
    MessagesLimit,
    Metadata,
    Name,
    Names,
    Offset,
    OutputLimit,
    Path,
    Protocol,
    Query,
    Reason,
    Revision,
    Seq,
    State,
    Text,
    Title,
)

PROTOCOL_VERSIONS: Final = (1,)
SUBPROTOCOL: Final = "greenroom.v1"


class Params:
    """Base of all parameters. `one_of` names fields of which exactly one is given."""

    __slots__ = ()
    one_of: ClassVar[tuple[str, ...]] = ()


@attrs.frozen(slots=True, kw_only=True)
class NoParams(Params):
    pass


@attrs.frozen(slots=True, kw_only=True)
class ClientInfo:
    name: Name
    version: Name


@attrs.frozen(slots=True, kw_only=True)
class Initialize(Params):
    client: ClientInfo
    protocol: Protocol


@attrs.frozen(slots=True, kw_only=True)
class SessionCreate(Params):
    title: Title | None = None
    model: Name | None = None
    instructions: Instructions | None = None
    cwd: AbsolutePath | None = None
    toolsets: Names | None = None
    metadata: Metadata | None = None
    idempotency_key: Key | None = None

    def command(self) -> NewSession:
        return NewSession(
            title=self.title,
            model=self.model,
            instructions=self.instructions,
            cwd=self.cwd,
            toolsets=self.toolsets,
            metadata=self.metadata,
            idempotency_key=self.idempotency_key,
        )


@attrs.frozen(slots=True, kw_only=True)
class SessionList(Params):
    limit: ListLimit = PAGE_DEFAULT
    cursor: Cursor | None = None
    query: Query | None = None


@attrs.frozen(slots=True, kw_only=True)
class SessionGet(Params):
    session_id: Id


@attrs.frozen(slots=True, kw_only=True)
class SessionUpdate(Params):
    session_id: Id
    title: Title | None = None
    model: Name | None = None
    instructions: Instructions | None = None
    toolsets: Names | None = None
    metadata: Metadata | None = None
    expected_revision: Revision | None = None

    def command(self) -> SessionChanges:
        return SessionChanges(
            title=self.title,
            model=self.model,
            instructions=self.instructions,
            toolsets=self.toolsets,
            metadata=self.metadata,
            expected_revision=self.expected_revision,
        )


@attrs.frozen(slots=True, kw_only=True)
class SessionDelete(Params):
    session_id: Id


@attrs.frozen(slots=True, kw_only=True)
class SessionMessages(Params):
    session_id: Id
    limit: MessagesLimit = PAGE_DEFAULT
    cursor: Cursor | None = None


@attrs.frozen(slots=True, kw_only=True)
class SessionFork(Params):
    session_id: Id
    message_id: Id | None = None
    idempotency_key: Key | None = None

    def command(self) -> ForkSession:
        return ForkSession(session_id=self.session_id, message_id=self.message_id, idempotency_key=self.idempotency_key)


@attrs.frozen(slots=True, kw_only=True)
class SessionCompact(Params):
    session_id: Id


@attrs.frozen(slots=True, kw_only=True)
class SessionWatch(Params):
    session_id: Id
    after: After | None = None


@attrs.frozen(slots=True, kw_only=True)
class Input:
    """One text or file of a message: which fields belong to which kind is checked by `_input_mistakes`."""

    kind: Literal["text", "file"]
    text: Text | None = None
    path: Path | None = None
    data_base64: Base64 | None = None
    mime: Name | None = None
    name: Name | None = None


Inputs = Annotated[tuple[Input, ...], bounds.INPUTS]


@attrs.frozen(slots=True, kw_only=True)
class RunStart(Params):
    one_of = ("text", "input")

    session_id: Id
    text: Text | None = None
    input: Inputs | None = None
    model: Name | None = None
    when_busy: WhenBusy = "reject"
    idempotency_key: Key | None = None
    expected_revision: Revision | None = None
    watch: bool = False

    def command(self) -> StartRun:
        pieces = (self.text,) if self.text is not None else tuple(_piece(item) for item in self.input or ())
        return StartRun(
            session_id=self.session_id,
            input=pieces,
            model=self.model,
            when_busy=self.when_busy,
            idempotency_key=self.idempotency_key,
            expected_revision=self.expected_revision,
        )


@attrs.frozen(slots=True, kw_only=True)
class RunWatch(Params):
    run_id: Id
    after: Seq = 0


@attrs.frozen(slots=True, kw_only=True)
class WatchClose(Params):
    watch_id: Id


@attrs.frozen(slots=True, kw_only=True)
class RunStop(Params):
    run_id: Id
    reason: Reason | None = None


@attrs.frozen(slots=True, kw_only=True)
class RunGet(Params):
    run_id: Id


@attrs.frozen(slots=True, kw_only=True)
class RunList(Params):
    session_id: Id | None = None
    active: bool | None = None
    limit: ListLimit = PAGE_DEFAULT
    cursor: Cursor | None = None


@attrs.frozen(slots=True, kw_only=True)
class ApprovalReply(Params):
    run_id: Id
    call_id: Id
    decision: Decision
    reason: Reason | None = None
    content: Content | None = None


@attrs.frozen(slots=True, kw_only=True)
class ToolsetRestart(Params):
    name: Name


@attrs.frozen(slots=True, kw_only=True)
class OutputRead(Params):
    handle: Handle
    offset: Offset = 0
    limit: OutputLimit = bounds.OUTPUT_READ_MAX


@attrs.frozen(slots=True, kw_only=True)
class MarkdownRender(Params):
    text: AnyText
    state: State | None = None


@attrs.frozen(slots=True)
class Method:
    """`result` names the keys of the result, those with `?` optional. Not `served`: -32601 in this version."""

    params: type[Params]
    result: tuple[str, ...]
    served: bool = True


METHODS: Final = MappingProxyType[str, Method](
    {
        "initialize": Method(
            Initialize, ("protocol", "server", "limits", "models", "default_model", "toolsets", "currency")
        ),
        "ping": Method(NoParams, ()),
        "session.create": Method(SessionCreate, ("session",)),
        "session.list": Method(SessionList, ("sessions", "next_cursor?")),
        "session.get": Method(SessionGet, ("session",)),
        "session.update": Method(SessionUpdate, ("session",)),
        "session.delete": Method(SessionDelete, ()),
        "session.messages": Method(SessionMessages, ("messages", "next_cursor?", "revision")),
        "session.fork": Method(SessionFork, ("session",)),
        "session.compact": Method(SessionCompact, ("run",)),
        "session.watch": Method(SessionWatch, ("watch_id", "runs")),
        "run.start": Method(RunStart, ("run", "message_id", "revision", "watch_id?")),
        "run.watch": Method(RunWatch, ("watch_id", "run")),
        "watch.close": Method(WatchClose, ()),
        "run.stop": Method(RunStop, ("run",)),
        "run.get": Method(RunGet, ("run",)),
        "run.list": Method(RunList, ("runs", "next_cursor?")),
        "approval.reply": Method(ApprovalReply, ("decision", "by")),
        "toolset.list": Method(NoParams, ("toolsets",)),
        "toolset.restart": Method(ToolsetRestart, ("toolset",)),
        "output.read": Method(OutputRead, ("text?", "data_base64?", "next_offset?", "total")),
        "markdown.render": Method(MarkdownRender, ("html", "taken", "state", "open_html", "more")),
        "daemon.stats": Method(NoParams, ("uptime_s", "memory", "counts", "processes", "actors", "loop")),
        "daemon.history": Method(NoParams, ("period_s", "at", "memory", "counts", "processes", "loop")),
    }
)


class UnknownMethod(Exception):
    """The method is not in the contract, or this version does not serve it yet."""

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self.method = method


class InvalidParams(DecodeError):
    """Parameters that do not fit, every mistake of them: -32602. Also for what only a look at the data can tell
    (a cursor that no page gave)."""


def decode(method: str, params: Json) -> Params:
    """The parameters of a request. Raises UnknownMethod, or InvalidParams with every mistake."""
    spec = METHODS.get(method)
    if spec is None or not spec.served:
        raise UnknownMethod(method)
    mistakes: list[tuple[str, str]] = []
    record: Params | None = None
    try:
        record = codec.decode(params, spec.params)
    except DecodeError as exc:
        mistakes += exc.fields
    if isinstance(params, dict):
        mistakes += _exclusive(spec.params, params) + _input_mistakes(spec.params, params)
    if mistakes or record is None:
        raise InvalidParams(mistakes[: codec.FIELDS_MAX])
    return record


def _exclusive(kind: type[Params], params: dict[str, Any]) -> list[tuple[str, str]]:
    if not kind.one_of:
        return []
    given = [name for name in kind.one_of if params.get(name) is not None]
    if len(given) == 1:
        return []
    choice = " or ".join(kind.one_of)
    return [(name, f"give {choice}, not both") for name in given] or [(kind.one_of[0], f"is missing: give {choice}")]


def _input_mistakes(kind: type[Params], params: dict[str, Any]) -> list[tuple[str, str]]:
    """What the fields of each item of `input` have to do with its kind."""
    items = params.get("input")
    if kind is not RunStart or not isinstance(items, list):
        return []
    mistakes: list[tuple[str, str]] = []
    for index, item in enumerate(items[: bounds.INPUTS_MAX]):
        if not isinstance(item, dict):
            continue  # said by the codec
        given = {name for name, value in item.items() if value is not None}
        place = f"input[{index}]"
        if item.get("kind") == "text":
            mistakes += [(f"{place}.{name}", "is not a field of a text") for name in sorted(given & _FILE_FIELDS)]
            if "text" not in given:
                mistakes.append((f"{place}.text", "is missing"))
        elif item.get("kind") == "file":
            if "text" in given:
                mistakes.append((f"{place}.text", "is not a field of a file"))
            if len(given & {"path", "data_base64"}) != 1:
                mistakes.append((f"{place}.path", "give path or data_base64, one of them"))
    return mistakes


_FILE_FIELDS: Final = {"path", "data_base64", "mime", "name"}


def _piece(item: Input) -> str | InputFile:
    if item.text is not None:
        return item.text
    return InputFile(path=item.path, data_base64=item.data_base64, mime=item.mime, name=item.name)
