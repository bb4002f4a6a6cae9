"""The tool `fetch`: what it takes, and the result of a response. The request itself is made in actors/toolsets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Annotated, Final

import attrs

from engine import codec
from engine.limits import DEFAULT, Limits
from engine.tools.fetch_rules import URL_CHARACTERS_MAX, Target
from engine.tools.page_text import head_of, page_text
from engine.tools.read import image_type
from engine.tools.schema import input_schema
from engine.tools.spec import Media, ToolResult, ToolSpec

_Url = Annotated[
    str, codec.Check(f"1 to {URL_CHARACTERS_MAX} characters", lambda url: 0 < len(url) <= URL_CHARACTERS_MAX)
]
_NAME_CHARACTERS: Final = 100


@attrs.frozen(slots=True, kw_only=True)
class Fetch:
    url: _Url = attrs.field(metadata={"description": "What to get, beginning with http:// or https://."})


FETCH: Final = ToolSpec(
    name="fetch",
    description="Get a page or a file of the web as text (HTTP GET). HTML comes without its markup. A page that has "
    "moved to another host is not followed: the result says where it is.",
    input_schema=input_schema(Fetch),
)


@attrs.frozen(slots=True, kw_only=True)
class Response:
    """The end of a fetch. `body` has at most `limits.fetch_bytes`, in pieces as they came, and is emptied when it is
    read; with `more` the response was longer."""

    target: Target
    status: int
    content_type: str
    body: deque[bytes]
    more: bool = False


def moved(target: Target) -> ToolResult:
    """The result for a redirect that may not be followed: what is allowed there is another question."""
    return ToolResult(text=f"The page has moved to another host: fetch {target} to get it.", title=str(target))


def fetched(
    response: Response, write: Callable[[str], object], checkpoint: Callable[[], None], limits: Limits = DEFAULT
) -> ToolResult:
    """The result without its text, which goes to `write` in pieces. It takes up to a second for a large page: for a
    thread."""
    target, size = response.target, sum(map(len, response.body))
    failed = not 200 <= response.status < 300
    begin = f"[HTTP status {response.status}]\n" if failed else ""
    kind = response.content_type.partition(";")[0].strip() or "of no type that is said"
    mime = image_type(head_of(response.body))
    if mime is not None and not failed and not response.more and size <= limits.inline_media_bytes:
        name = target.path.partition("?")[0].rpartition("/")[2][:_NAME_CHARACTERS] or target.host
        media = (Media(mime=mime, name=name, data=b"".join(response.body)),)
        write(f"An image: {mime}, {size:,} bytes.")
        return ToolResult(text="", title=str(target), media=media)
    text = page_text(response.content_type, response.body, str(target), checkpoint)
    if text is None:
        count = f"more than {size:,}" if response.more else f"{size:,}"
        write(f"{begin}What is there is no text: {kind}, {count} bytes.")
        return ToolResult(text="", title=str(target), is_error=True)
    empty = True
    for piece in text:
        if piece:
            write(begin + piece if empty else piece)
            empty = False
    if empty:
        write(begin.rstrip() or "The page is empty.")
    if response.more:
        write(f"\n[The first {size:,} bytes are read; there are more.]")
    return ToolResult(text="", title=str(target), is_error=failed)
