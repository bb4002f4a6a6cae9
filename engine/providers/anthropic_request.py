"""The body of a request to a messages service, in pieces.

The format wants turns of `user` and `assistant` that alternate: adjacent messages of one role are put together, and
the results of an answer's calls open the user's turn after it. The piece of a message depends on nothing but the
message and whether its run goes on.

The thinking before a call goes back with the call's result, as it was signed; of earlier runs it is left out. The
service binds a signature to the model and to all that stood before it, and refuses the request if they differ, as
they do after a change of the model or when the window has moved on.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Final

import orjson

from engine.providers.anthropic_answer import REDACTED, THINKING
from engine.providers.base import ModelRequest
from engine.providers.pieces import Encoded, Pieces
from engine.providers.said import files_of, not_shown, result_of, text_of
from engine.tools.names import to_provider
from engine.tools.spec import ToolSpec
from engine.transcript.records import FilePart, Message, ReasoningPart, Role, ToolPart

BASE_URL: Final = "https://api.anthropic.com"
# The version of the format, sent as the header `anthropic-version`.
VERSION: Final = "2023-06-01"
# By whether the message's run goes on.
FORMATS: Final = ("anthropic", "anthropic, goes on")
# Other images are refused.
_IMAGES: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


def encode_request(
    request: ModelRequest, max_output_tokens: int, kept: Pieces | None = None, *, cached: bool = False
) -> Iterator[bytes]:
    """Pieces of the body; joined they are one JSON document. Those of messages are taken from `kept`, and put there.
    `cached`: the service is asked to keep what it has read for the next request, which begins with the same bytes."""
    pieces = (kept if kept is not None else Pieces(0)).window(request.session_id)
    yield b'{"model":%s,"stream":true,"max_tokens":%d' % (orjson.dumps(request.model), max_output_tokens)
    if cached:
        yield b',"cache_control":{"type":"ephemeral"}'
    if request.instructions and not request.instructions.isspace():
        yield b',"system":' + orjson.dumps(request.instructions)
    if request.tools:
        yield b',"tools":' + orjson.dumps([_tool(spec) for spec in request.tools])
    yield b',"messages":['
    now = request.messages[-1].info.run_id if request.messages else None
    last: str | None = None
    for message in request.messages:
        goes_on = now is not None and message.info.run_id == now
        for role, content in pieces.get(message, FORMATS[goes_on], functools.partial(_pieces, message, goes_on)):
            if role == last:
                yield b","
            else:
                end = b"" if last is None else b"]},"
                yield end + b'{"role":"%s","content":[' % role.encode()
                last = role
            yield content
    pieces.close()
    yield b"]}" if last is None else b"]}]}"


def _pieces(message: Message, goes_on: bool) -> Encoded:
    return tuple(encode_message(message, goes_on))


def encode_message(message: Message, goes_on: bool = False) -> Iterator[tuple[Role, bytes]]:
    """The message and the results of its calls as JSON objects with commas between, each with the role of the turn
    that they belong to. `goes_on` says that it is of the run that this request is a step of."""
    blocks = [block for part in message.parts if (block := _block(part, message.role, goes_on))]
    if blocks:
        yield message.role, _joined(blocks)
    results = [_result(part, files_of(message, part)) for part in message.parts if isinstance(part, ToolPart)]
    if results:
        yield "user", _joined(results)


def _joined(blocks: list[dict[str, Any]]) -> bytes:
    return b",".join(map(orjson.dumps, blocks))


def _block(part: object, role: Role, goes_on: bool) -> dict[str, Any] | None:
    match part:
        case FilePart() if role == "user" and (image := _image(part)) is not None:
            return image
        case ReasoningPart(signature=str() as signature) if goes_on:
            return _thinking(part.text, signature)
        case ToolPart():
            # Our ids: those of services may repeat in a session, or have characters that are refused. An input that
            # is no object was refused by us, and would be by the service.
            given = part.input if part.input[:1] == b"{" else b"{}"
            return {
                "type": "tool_use", "id": part.id, "name": to_provider(part.tool), "input": orjson.Fragment(given),
            }  # fmt: skip
    text = text_of(part)
    # Blocks without a visible character are refused.
    return {"type": "text", "text": text} if text and not text.isspace() else None


def _thinking(text: str, signature: str) -> dict[str, Any] | None:
    kind, _, proof = signature.partition(":")
    if kind == THINKING and proof:
        return {"type": THINKING, "thinking": text, "signature": proof}
    return {"type": REDACTED, "data": proof} if kind == REDACTED and proof else None


def _image(file: FilePart) -> dict[str, Any] | None:
    if file.data_base64 is None or file.mime not in _IMAGES:
        return None
    return {"type": "image", "source": {"type": "base64", "media_type": file.mime, "data": file.data_base64}}


def _result(part: ToolPart, files: list[FilePart]) -> dict[str, Any]:
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": part.id}
    text = result_of(part)
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text and not text.isspace() else []
    content += [_image(file) or {"type": "text", "text": not_shown(file)} for file in files]
    if files:
        result["content"] = content
    elif content:
        result["content"] = text
    if part.state != "completed":
        result["is_error"] = True
    return result


def _tool(spec: ToolSpec) -> dict[str, Any]:
    return {
        "name": to_provider(spec.name),
        "description": spec.description,
        "input_schema": orjson.Fragment(spec.input_schema),
    }
