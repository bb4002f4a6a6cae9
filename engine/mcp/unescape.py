"""The content of a long JSON string, piece by piece: as text (UTF-8), and base64 text as the bytes that it means."""

from __future__ import annotations

import binascii
import codecs
import json
import re
from typing import Final

import orjson

# At the end of a piece: an escape that may go on in the next one, or the first half of a surrogate pair, whose second
# half may follow (perhaps only begun).
_UNFINISHED: Final = re.compile(r"(?:\\u[dD][89abAB][0-9a-fA-F]{2})?(?:\\(?:u[0-9a-fA-F]{0,3})?)?\Z")
_LONGEST: Final = 11  # characters of it: a first half and most of a second one
_ESCAPE: Final = re.compile(r'\\(?:(["\\/bfnrt])|u([0-9a-fA-F]{4})|(.?))', re.DOTALL)
_SHORT: Final = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_PAIR: Final = re.compile("([\ud800-\udbff])([\udc00-\udfff])")
_HALF: Final = re.compile("[\ud800-\udfff]")
_BLANKS: Final = b" \t\r\n"


class Unescape:
    """JSON-escaped UTF-8 in any pieces to the text that it means, as valid UTF-8.

    What is no text becomes U+FFFD: half a surrogate pair, an escape that JSON does not have, bytes that are not
    UTF-8. Holds at most 11 characters from one piece to the next.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, data: bytes) -> bytes:
        text = self._held + self._decoder.decode(data)
        held = _unfinished(text)
        self._held = text[held:]
        return _unescaped(text[:held])

    def finish(self) -> bytes:
        """The end of the string."""
        text, self._held = self._held + self._decoder.decode(b"", final=True), ""
        self._decoder.reset()
        return _unescaped(text)


class NotBase64(ValueError):
    """The text is not base64."""


class Base64:
    """Base64 text (as `Unescape` gives it) in any pieces to bytes. Blanks and line ends between are allowed."""

    def __init__(self) -> None:
        self._held = b""
        self._padded = False

    def feed(self, data: bytes) -> bytes:
        """Raises NotBase64."""
        data = self._held + data.translate(None, _BLANKS)
        whole = len(data) - len(data) % 4
        self._held = data[whole:]
        if not data[:whole]:
            return b""
        if self._padded:
            raise NotBase64("something follows the padding")
        self._padded = data.endswith(b"=", 0, whole)
        try:
            return binascii.a2b_base64(data[:whole], strict_mode=True)
        except binascii.Error as exc:
            raise NotBase64(str(exc)) from None

    def finish(self) -> bytes:
        """The end of the text, whose padding may be missing. Raises NotBase64."""
        if not self._held:
            return b""
        return self.feed(b"=" * (4 - len(self._held)))


def _unfinished(text: str) -> int:
    """Where in `text` what has to wait for the next piece begins; its length if nothing has to."""
    tail = max(0, len(text) - _LONGEST)
    begin = text.find("\\", tail)
    if begin < 0:
        return len(text)
    # A run of backslashes escapes itself two by two: an escape begins at every second one.
    run = begin
    if begin == tail:
        run = len(text[:tail].rstrip("\\"))
    begin += (begin - run) % 2
    while begin < len(text):
        if _UNFINISHED.match(text, begin):
            return begin
        match = _ESCAPE.match(text, begin)
        begin = text.find("\\", match.end() if match else begin + 1)
        if begin < 0:
            break
    return len(text)


def _unescaped(text: str) -> bytes:
    """`text` has no unfinished escape at its end, unless it is the string's end."""
    if "\\" in text:
        quoted = f'"{text}"'
        try:
            text = orjson.loads(quoted)
        except orjson.JSONDecodeError:  # halves of pairs, control characters, or no JSON
            try:
                text = json.loads(quoted, strict=False)
            except json.JSONDecodeError:
                text = _PAIR.sub(_joined, _ESCAPE.sub(_meaning, text))
            text = _HALF.sub("\ufffd", text)
    return text.encode()


def _meaning(match: re.Match[str]) -> str:
    short, number, _ = match.groups()
    if short:
        return _SHORT[short]
    return chr(int(number, 16)) if number else "\ufffd"


def _joined(match: re.Match[str]) -> str:
    return (match[1] + match[2]).encode("utf-16", "surrogatepass").decode("utf-16")
