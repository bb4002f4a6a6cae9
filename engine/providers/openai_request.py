"""The body of a chat-completions request, in pieces.

Each message of the window is one piece that depends on nothing but the message, so that pieces can be kept and a
step need not encode the history again. What the format has no place for (reasoning, snapshots, patches, retries)
is left out; files other than inline images become a line of text that names them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Final

import orjson

from engine.providers.base import ModelRequest
from engine.providers.pieces import Encoded, Pieces
from engine.providers.said import files_of, not_shown, result_of, text_of
from engine.tools.names import to_provider
from engine.tools.spec import ToolSpec
from engine.transcript.records import FilePart, Message, ToolPart

# Between text parts that a service is given as one string: servers that take no list of parts are common.
_BETWEEN: Final = "\n\n"
FORMAT: Final = "openai"
_IMAGES_OF_CALLS: Final = "The images that these calls gave:"


def encode_request(request: ModelRequest, kept: Pieces | None = None) -> Iterator[bytes]:
    """Pieces of the body; joined they are one JSON document. Those of messages are taken from `kept`, and put there."""
    pieces = (kept if kept is not None else Pieces(0)).window(request.session_id)
    yield b'{"model":%s,"stream":true,"stream_options":{"include_usage":true},"messages":[' % orjson.dumps(
        request.model
    )
    comma = b""
    if request.instructions:
        yield orjson.dumps({"role": "system", "content": request.instructions})
        comma = b","
    for message in request.messages:
        for _, piece in pieces.get(message, FORMAT, functools.partial(_piece, message)):
            if comma:
                yield comma
            yield piece
            comma = b","
    pieces.close()
    yield b"]"
    if request.tools:
        yield b',"tools":' + orjson.dumps([_tool(spec) for spec in request.tools])
    yield b"}"


def _piece(message: Message) -> Encoded:
    piece = encode_message(message)
    return ((message.role, piece),) if piece else ()


def encode_message(message: Message) -> bytes:
    """A message and the results of its tool calls as JSON objects with commas between; empty if it has nothing that
    a service can be told."""
    objects = _user(message) if message.role == "user" else _assistant(message)
    return b",".join(map(orjson.dumps, objects))


def _user(message: Message) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for part in message.parts:
        if isinstance(part, FilePart) and (image := _image(part)) is not None:
            content.append(image)
        elif text := text_of(part):
            content.append({"type": "text", "text": text})
    if not content:
        return []
    if all(piece["type"] == "text" for piece in content):
        return [{"role": "user", "content": _BETWEEN.join(piece["text"] for piece in content)}]
    return [{"role": "user", "content": content}]


def _assistant(message: Message) -> list[dict[str, Any]]:
    texts = [text for part in message.parts if (text := text_of(part))]
    calls = [part for part in message.parts if isinstance(part, ToolPart)]
    if not texts and not calls:
        return []
    answer: dict[str, Any] = {"role": "assistant", "content": _BETWEEN.join(texts) or None}
    if calls:
        answer["tool_calls"] = [
            {
                "id": part.call_id,
                "type": "function",
                "function": {"name": to_provider(part.tool), "arguments": part.input.decode()},
            }
            for part in calls
        ]
    results: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    for part in calls:
        told = [result_of(part)]
        for file in files_of(message, part):
            image = _image(file)
            images += [image] if image is not None else []
            told += [not_shown(file)] if image is None else []
        results.append({"role": "tool", "tool_call_id": part.call_id, "content": _BETWEEN.join(told)})
    if images:  # the format has no place for them in a result
        results.append({"role": "user", "content": [{"type": "text", "text": _IMAGES_OF_CALLS}, *images]})
    return [answer, *results]


def _image(file: FilePart) -> dict[str, Any] | None:
    if file.data_base64 is None or not file.mime.startswith("image/"):
        return None
    return {"type": "image_url", "image_url": {"url": f"data:{file.mime};base64,{file.data_base64}"}}


def _tool(spec: ToolSpec) -> dict[str, Any]:
    function = {
        "name": to_provider(spec.name),
        "description": spec.description,
        "parameters": orjson.Fragment(spec.input_schema),
    }
    return {"type": "function", "function": function}
