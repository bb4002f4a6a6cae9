"""Secrets taken out of text that is about to be logged or told: those that are known by their value, and what has
the shape of one.

Replaced is every character of every occurrence, also where two secrets overlap. The mark that takes its place begins
and ends with a character that no key has, so that no new occurrence can arise where text was taken out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

HIDDEN: Final = "‹hidden›"
# What is shorter is not hidden: it occurs by chance in ordinary words, whose holes would tell it, and nobody who
# guesses is kept out by so few characters.
SECRET_MIN: Final = 8
# A configuration has at most 256 models, and keys in files change: beyond this the oldest ones are forgotten.
SECRETS_MAX: Final = 1024
# A longer secret is hidden in pieces of this.
PIECE: Final = 2048
# What is looked at of one text: 15 ms of work at most, and a message is cut to far less. A secret may be cut at the
# end of this, so that as much as the longest way to write a piece (four characters each, as bytes) is dropped too.
TEXT_MAX: Final = 64 * 1024
_UNSURE: Final = 4 * PIECE

# Each takes time in proportion to the text, whatever it holds.
_SHAPES: Final = (
    # A header, as it is sent and as Python shows it in a dict, a list of pairs, or bytes.
    (
        re.compile(
            r"""((?:proxy-)?authorization|x-api-key|api-key)((?:["']?\s*[:=]\s*|["']\s*,\s*)(?:b?["'])?)"""
            r"""(?:(?:bearer|basic|digest|token)\s+)?[^\s"',;]+""",
            re.IGNORECASE,
        ),
        rf"\1\2{HIDDEN}",
    ),
    (
        re.compile(r"""(cookie)((?:["']?\s*[:=]\s*|["']\s*,\s*)(?:b?["'])?)[^\s"'][^"'\r\n]*""", re.IGNORECASE),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"\b(bearer)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    # user:password@ of a URL.
    (re.compile(r"""(?<=://)[^\s/?#"'<>]*@"""), f"{HIDDEN}@"),
    (
        re.compile(
            r"""([?&;](?:access_|auth_|api_?)?(?:token|key|secret|password|signature|sig)=)[^&\s#"'<>;]+""",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    # Keys of model services, which tell by their first letters what they are.
    (re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"), HIDDEN),
)


class Redactor:
    """Knows secrets. One thread may add one while others redact."""

    def __init__(self) -> None:
        self._secrets: dict[str, None] = {}
        self._forms: tuple[str, ...] = ()  # all ways in which they may be written

    def hide(self, secret: str) -> None:
        """Take this out of every text from now on. Ignored if it is shorter than SECRET_MIN."""
        pieces = [secret[at : at + PIECE] for at in range(0, len(secret), PIECE)]
        new = [piece for piece in pieces if len(piece) >= SECRET_MIN and piece not in self._secrets]
        if new:
            kept = [*self._secrets, *new][-SECRETS_MAX:]
            self._secrets = dict.fromkeys(kept)
            self._forms = tuple({form for piece in kept for form in _forms(piece)})

    def redact(self, text: str) -> str:
        """The text without secrets; what is beyond TEXT_MAX characters is left out."""
        cut = len(text) > TEXT_MAX
        if cut:
            text = text[:TEXT_MAX]
        text = _without(text, self._forms)
        for shape, instead in _SHAPES:
            text = shape.sub(instead, text)
        return text[:-_UNSURE] if cut else text


def _forms(secret: str) -> Iterator[str]:
    """As it is, in a URL, in JSON, and as Python shows it."""
    yield secret
    yield quote(secret, safe="")
    yield quote(secret)
    yield json.dumps(secret)[1:-1]
    yield repr(secret)[1:-1]
    yield repr(secret.encode("utf-8", "replace"))[2:-1]


def _without(text: str, secrets: tuple[str, ...]) -> str:
    """Every character that is part of an occurrence of any of them is replaced, each run of such by one mark."""
    places = sorted((at, at + len(secret)) for secret in secrets for at in _places(text, secret))
    if not places:
        return text
    kept: list[str] = []
    done = 0
    for begin, end in places:
        if begin > done or not kept:
            kept += [text[done:begin], HIDDEN]
        done = max(done, end)
    return "".join([*kept, text[done:]])


def _places(text: str, secret: str) -> Iterator[int]:
    at = text.find(secret)
    while at >= 0:
        yield at
        at = text.find(secret, at + 1)  # it may overlap itself
