"""What a tool server answered as the result of a call: its texts in order, its media as files.

Long strings are on the disk already (actors.toolsets.mcp_inbox); they are read from there a block at a time, or, if one
text is the whole answer, not again at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import orjson

from actors._spool import Output, ToolsetSpool
from actors.toolsets.mcp_inbox import Cut, Held, Inbox
from engine.errors import PeerError
from engine.mcp.unescape import Base64, NotBase64
from engine.storage.spool import SpoolFile
from engine.tools.spec import Media, ToolResult

if TYPE_CHECKING:
    from mcp_types import CallToolResult, ContentBlock

# Of one result. Each may have a file, and each is shown to the model.
MEDIA_MOST: Final = 16
# Parts of one result that are looked at, 5 µs each; one with more is not made for a model.
BLOCKS_MOST: Final = 4096
_LEFT_OUT: Final = "[a part of the result that is not of the protocol, left out]"
# Names and types that a server gives are labels.
_LABEL_CHARACTERS: Final = 200


def read_answer(raw: Mapping[str, Any]) -> CallToolResult:
    """A result as the protocol has it, made of what is right in one: of a wrong block stands that it is left out."""
    from mcp_types import CallToolResult, ContentBlock, TextContent
    from pydantic import TypeAdapter, ValidationError

    adapter: TypeAdapter[ContentBlock] = TypeAdapter(ContentBlock)
    given = raw.get("content", [])
    given = given if isinstance(given, list) else [given]
    blocks: list[ContentBlock] = []
    for block in given[:BLOCKS_MOST]:
        try:
            blocks.append(adapter.validate_python(block, by_name=False))
        except ValidationError:
            blocks.append(TextContent(type="text", text=_LEFT_OUT))
    if len(given) > BLOCKS_MOST:
        more = f"[{len(given) - BLOCKS_MOST:,} more parts of the result, left out]"
        blocks.append(TextContent(type="text", text=more))
    structured = raw.get("structuredContent")
    return CallToolResult.model_construct(
        content=blocks,
        structured_content=structured if isinstance(structured, dict) else None,
        is_error=raw.get("isError") is True,
    )


async def tool_result(answer: CallToolResult, inbox: Inbox, spool: ToolsetSpool) -> ToolResult:
    """The result, cut as a model sees it, with the whole if that is more. What it holds of the inbox is given back,
    whatever ends this."""
    held = inbox.find(_strings(answer)) or Held()
    media: list[Media] = []
    try:
        if len(answer.content) == 1 and answer.content[0].type == "text":
            sole = held.take_sole(answer.content[0].text)
            if sole is not None:
                return ToolResult(text=sole.text, whole=sole.whole, is_error=bool(answer.is_error))
        async with spool.output() as output:
            for number, block in enumerate(answer.content):
                if number:
                    await output.feed(b"\n")
                await _feed(block, output, held, media, spool)
            if not answer.content and answer.structured_content is not None:
                await output.feed(_encoded(_without_cuts(answer.structured_content, held)))
            collected = await output.finish()
    except BaseException:
        for one in media:
            if isinstance(one.data, SpoolFile):
                one.data.discard()
        raise
    finally:
        await held.aclose()
    return ToolResult(text=collected.text, whole=collected.whole, is_error=bool(answer.is_error), media=tuple(media))


async def _feed(block: ContentBlock, output: Output, held: Held, media: list[Media], spool: ToolsetSpool) -> None:
    if block.type == "text":
        await _feed_text(block.text, output, held)
    elif block.type == "image" or block.type == "audio":
        await _feed_file(block.type, block.mime_type, block.data, output, held, media, spool)
    elif block.type == "resource_link":
        await output.feed(f"[resource {_label(block.name, held)}: {_label(str(block.uri), held)}]".encode())
    else:
        resource = block.resource
        name = _label(str(resource.uri), held)
        text = getattr(resource, "text", None)
        if text is not None:
            await output.feed(f"[resource {name}]\n".encode())
            await _feed_text(text, output, held)
        else:
            mime = resource.mime_type or "application/octet-stream"
            await _feed_file(name, mime, resource.blob, output, held, media, spool)  # type: ignore[union-attr]


async def _feed_text(text: str, output: Output, held: Held) -> None:
    cut = held.find(text)
    if cut is None:
        await output.feed(text.encode(errors="replace"))
    else:
        await cut.feed(output)


async def _feed_file(
    name: str, mime: str, data: str, output: Output, held: Held, media: list[Media], spool: ToolsetSpool
) -> None:
    """The file is a medium of the result; its place among the texts is marked."""
    mime = _label(mime, held)
    if len(media) >= MEDIA_MOST:
        await output.feed(f"[{name}: {mime}, left out: a result has {MEDIA_MOST} files at most]".encode())
        return
    try:
        cut = held.find(data)
        content = _decoded(data) if cut is None else await _decoded_file(cut, spool)
    except NotBase64:
        await output.feed(f"[{name}: {mime}, which is not base64 as it should be]".encode())
    except PeerError as exc:
        await output.feed(f"[{name}: {mime}, not kept because {exc.message}]".encode())
    else:
        media.append(Media(mime=mime, name=name, data=content))
        size = len(content) if isinstance(content, bytes) else content.size
        await output.feed(f"[{name}: {mime}, {size:,} bytes]".encode())


def _decoded(text: str) -> bytes:
    decoder = Base64()
    return decoder.feed(text.encode(errors="replace")) + decoder.finish()


async def _decoded_file(cut: Cut, spool: ToolsetSpool) -> SpoolFile:
    writer = await spool.file()
    try:
        await cut.decode(writer)
    except BaseException:
        await writer.discard()
        raise
    return writer.file


def _strings(answer: CallToolResult) -> Iterator[str]:
    """Those of the answer's strings that may be long."""
    for block in answer.content:
        if block.type == "text":
            yield block.text
        elif block.type == "image" or block.type == "audio":
            yield from (block.data, block.mime_type)
        elif block.type == "resource_link":
            yield from (block.name, str(block.uri))
        else:
            resource = block.resource
            yield str(getattr(resource, "text", None) or getattr(resource, "blob", ""))
            yield from (str(resource.uri), resource.mime_type or "")
    yield from strings_in(answer.structured_content)


def strings_in(value: Any) -> Iterator[str]:
    """All strings inside a JSON value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings_in(inner)


def _encoded(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # a number beyond 64 bits, half a surrogate pair
        return json.dumps(value).encode()


def _without_cuts(value: Any, held: Held) -> Any:
    """Long strings of a structure are only counted: a server that wants them read gives them as texts too."""
    if isinstance(value, str):
        cut = held.find(value)
        return (
            value.encode(errors="replace").decode() if cut is None else f"[{cut.size + cut.missed:,} bytes, left out]"
        )
    if isinstance(value, dict):
        return {key: _without_cuts(inner, held) for key, inner in value.items()}
    return [_without_cuts(inner, held) for inner in value] if isinstance(value, list) else value


def _label(text: str, held: Held) -> str:
    return held.plain(text, _LABEL_CHARACTERS).encode(errors="replace").decode()
