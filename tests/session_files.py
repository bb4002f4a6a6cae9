"""Exported sessions of any size, as lines that are made when they are asked for (engine.storage.portable)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any

_PIECE = bytes(range(256)) * 192  # 48 KiB: a line of a blob


def session_lines(messages: int, text: int, blob: int = 0) -> Iterator[bytes]:
    """A session of users' messages with a text of so many characters each (16,384 at most in a piece), and a blob."""
    yield _line(
        greenroom="session",
        version=1,
        session={"id": "ses_file", "title": "from a file", "model": "demo", "cwd": "/", "created_at": 1},
    )
    digest = ""
    if blob:
        whole, rest = divmod(blob, len(_PIECE))
        content = hashlib.sha256()
        for _ in range(whole):
            content.update(_PIECE)
        content.update(_PIECE[:rest])
        digest = content.hexdigest()
        yield _line(blob={"hash": digest, "size": blob})
        piece = _line(data=base64.b64encode(_PIECE).decode())
        for _ in range(whole):
            yield piece
        if rest:
            yield _line(data=base64.b64encode(_PIECE[:rest]).decode())
    for number in range(messages):
        yield _line(message={"role": "user", "id": f"msg_{number}", "created_at": number})
        part = {"kind": "text", "id": f"prt_{number}"}
        if text <= 16_384:
            yield _line(part={**part, "text": "x" * text})
            continue
        yield _line(part=part, long={"text": text})
        for begin in range(0, text, 16_384):
            yield _line(piece="x" * min(16_384, text - begin))
    parts = messages
    if blob and messages:
        parts += 1
        yield _line(
            part={"kind": "file", "id": "prt_file", "mime": "a/b", "size": blob, "handle": "out_file", "hash": digest}
        )
    yield _line(end={"messages": messages, "parts": parts, "blobs": 1 if blob else 0})


def _line(**value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"
