"""Frames: JSON-RPC 2.0 as WebSocket text, in and out.

In: `decode` gives a Request, a Notification or a Malformed with the reply to send; it never raises. Out: replies,
errors and pushes as `str`, because that is what a text frame is sent from. Events are already JSON; a push joins
their bytes and decodes once (0.1 µs for one event, 0.5 for ten; decoding each is twice that).

The one place that turns exceptions into error replies is `encode_error`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

import attrs
import orjson

from engine import codec, ids
from engine.codec import DecodeError, Json
from engine.errors import OWN_CODES, EngineError
from engine.limits import DEFAULT
from engine.wire.methods import InvalidParams, UnknownMethod
from engine.wire.objects import clean

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
REFUSED: Final = -32000  # every error of ours; `data.code` says which

# Frame around the events of one push: `{"jsonrpc":…,"params":{"watch_id":…,"run_id":…,"events":[…]}}` with ids of
# the greatest length.
EVENTS_OVERHEAD: Final = 96 + 2 * ids.ID_MAX
# The bytes of events that fit a frame, commas between them included: no event is shorter than 40 bytes
# (`{"seq":1,"at":1,"type":"run.finished",…}`), so at most one byte in 41 is a comma. ReplayLog.read takes this.
EVENTS_ROOM: Final = (DEFAULT.frame_bytes - EVENTS_OVERHEAD) * 40 // 41

RequestId = str | int
GapReason = Literal["log_overflow", "restart", "evicted"]
ClosedReason = Literal["finished", "evicted", "deleted", "draining"]

_INT64: Final = range(-(2**63), 2**63)
_MEMBERS: Final = frozenset({"jsonrpc", "id", "method", "params"})
_METHOD_MAX: Final = 128
_PATH_BYTES: Final = 256  # a sender's own key may be as long as its message
_NO_PARAMS: Final[dict[str, Json]] = {}


@attrs.frozen(slots=True)
class Request:
    """Gets exactly one reply. `params` are still to be decoded (engine.wire.methods.decode)."""

    id: RequestId
    method: str
    params: Json


@attrs.frozen(slots=True)
class Notification:
    """Without an id: gets no reply. The contract has none from clients; they are dropped and counted."""

    method: str


@attrs.frozen(slots=True)
class Malformed:
    """Not a request at all. `reply` is the whole error frame; `why` is for the log."""

    reply: str
    why: str


def decode(data: str | bytes) -> Request | Notification | Malformed:
    """One inbound frame. Raises nothing: whatever a peer sends is one of the three."""
    try:
        value = codec.parse(data)
    except DecodeError as exc:
        return _malformed(None, PARSE_ERROR, clean(exc.fields[0][1]))
    if isinstance(value, list):
        return _malformed(None, INVALID_REQUEST, "batches are not supported: send one request a frame")
    if not isinstance(value, dict):
        return _malformed(None, INVALID_REQUEST, "a request is an object")
    request_id = value.get("id")
    known_id = request_id if _is_id(request_id) else None
    mistake = _mistake(value, known_id)
    if mistake is not None:
        return _malformed(known_id, INVALID_REQUEST, mistake)
    if "id" not in value:
        return Notification(value["method"])
    return Request(value["id"], value["method"], value.get("params", _NO_PARAMS))


def _is_id(value: Any) -> bool:
    # bool is an int in Python: the exact type decides.
    if type(value) is str:
        return len(value) <= ids.ID_MAX
    return type(value) is int and value in _INT64


def _mistake(value: dict[str, Json], known_id: RequestId | None) -> str | None:
    if value.get("jsonrpc") != "2.0":
        return '`jsonrpc` has to be "2.0"'
    if "id" in value and known_id is None:
        return f"`id` has to be a string of at most {ids.ID_MAX} characters or a 64-bit integer"
    method = value.get("method")
    if type(method) is not str or not 1 <= len(method) <= _METHOD_MAX:
        return f"`method` has to be a string of 1 to {_METHOD_MAX} characters"
    # An array gets as far as the method, which says that it wants an object.
    if "params" in value and type(value["params"]) not in (dict, list):
        return "`params` has to be an object, or absent"
    unknown = value.keys() - _MEMBERS
    return f"unknown members: {', '.join(clean(key, _PATH_BYTES) for key in sorted(unknown)[:4])}" if unknown else None


def _malformed(request_id: RequestId | None, code: int, message: str) -> Malformed:
    return Malformed(_error(request_id, code, message), message)


# ------------------------------------------------------------------ replies
def encode_reply(request_id: RequestId, result: Json) -> str:
    """The reply to a request. `result` is a JSON value, a record, or encoded JSON as bytes."""
    body = result if isinstance(result, bytes) else codec.dump(result)
    return (b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (orjson.dumps(request_id), body)).decode()


def encode_error(request_id: RequestId | None, exc: BaseException, ref: str = "") -> str:
    """The error reply for whatever a request raised.

    Errors of ours carry their code and data; what is a defect (a code of ours, any other exception) is shown as
    `internal` with `ref` only: the caller logs the exception under the same reference. A DecodeError that is not
    InvalidParams is of a damaged store, not of the request: a defect too.
    """
    if isinstance(exc, UnknownMethod):
        return _error(request_id, METHOD_NOT_FOUND, f"there is no method {clean(exc.method, _PATH_BYTES)!r}")
    if isinstance(exc, InvalidParams):
        fields = [{"path": clean(path, _PATH_BYTES), "message": clean(text)} for path, text in exc.fields]
        return _error(request_id, INVALID_PARAMS, "the parameters do not fit", {"fields": fields})
    if isinstance(exc, EngineError) and exc.code not in OWN_CODES:
        try:
            return _error(request_id, REFUSED, clean(exc.message), {"code": exc.code, **exc.data})
        except orjson.JSONEncodeError:
            pass  # data that is not JSON is a defect of the place that raised it
    return _error(
        request_id,
        REFUSED,
        "an error inside the daemon; its log has more under the reference",
        {"code": "internal", "ref": ref or ids.new_id("err")},
    )


def _error(request_id: RequestId | None, code: int, message: str, data: Json = None) -> str:
    error = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).decode()


# ------------------------------------------------------------------ pushes
# Ids of ours are letters, digits and `_`: they stand in JSON as they are.
def push_events(watch_id: str, run_id: str, events: Iterable[bytes]) -> str:
    """`run.events`: encoded events of the replay log, joined."""
    return (
        b'{"jsonrpc":"2.0","method":"run.events","params":{"watch_id":"%b","run_id":"%b","events":[%b]}}'
        % (watch_id.encode(), run_id.encode(), b",".join(events))
    ).decode()


def push_gap(watch_id: str, run_id: str, first: int, last: int, reason: GapReason) -> str:
    """`run.gap`: the events `first` to `last` cannot be replayed; a snapshot follows."""
    return _push("run.gap", {"watch_id": watch_id, "run_id": run_id, "from": first, "to": last, "reason": reason})


def push_snapshot(watch_id: str, piece: bytes) -> str:
    """`run.snapshot`; `piece` is the encoded object without `watch_id` (actors.snapshots)."""
    return (
        b'{"jsonrpc":"2.0","method":"run.snapshot","params":{"watch_id":"%b",%b}' % (watch_id.encode(), piece[1:])
    ).decode()


def push_session_changed(watch_id: str, session: bytes) -> str:
    """`session.changed`; `session` is of engine.wire.objects.encode_session."""
    return _push("session.changed", {"watch_id": watch_id, "session": orjson.Fragment(session)})


def push_watch_closed(
    watch_id: str, reason: ClosedReason, *, run_id: str | None = None, status: str | None = None
) -> str:
    """`watch.closed`: the last push of a watch."""
    value = {"watch_id": watch_id, "run_id": run_id, "status": status, "reason": reason}
    return _push("watch.closed", {key: part for key, part in value.items() if part is not None})


def _push(method: str, params: Json) -> str:
    return orjson.dumps({"jsonrpc": "2.0", "method": method, "params": params}).decode()
