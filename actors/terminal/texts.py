"""A message of the daemon as entries of a transcript: what each is shown as, and what of it was cut on the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import attrs

from engine.rendering.cells import clean, width
from engine.rendering.kinds import Kind
from engine.transcript.tools import TERMINAL

# Of a call: its line, and what is shown of it at once when it is unfolded. The rest is in the session's export.
LINE_CELLS: Final = 160
UNFOLDED_BYTES: Final = 256 * 1024
# Of what a call writes while it works: enough to see that it goes on and what it is at.
PREVIEW_LINES: Final = 5
PREVIEW_CELLS: Final = 200

_MARKS: Final = {"pending": "○", "running": "●", "completed": "✓", "error": "✗"}
_ENDS: Final[Mapping[str, str]] = {
    "cancelled": "[stopped]",
    "interrupted": "[interrupted: the daemon lost this run]",
    "length": "[the answer reached a bound of its length]",
    "content_filter": "[the model's service withheld the answer]",
    "max_turns": "[the run reached its bound of turns]",
    "error": "[the model call failed]",
}


@attrs.frozen(slots=True, kw_only=True)
class Piece:
    """An entry. `size`, in characters, is that of the whole text; if `handle` is not None, `text` is not all of it:
    `output.read` gives it, and `whole` the entry with it."""

    id: str
    kind: Kind
    text: str
    size: int
    part: dict[str, Any] | None = None  # of what can be unfolded, or is longer than what is here
    field: str = ""
    handle: str | None = None


def one_line(text: str, cells: int) -> str:
    """Text of others as one line of at most so many cells, the cut marked; nothing in it that a terminal obeys."""
    text = clean(" ".join(text[: cells * 8].split()))
    if width(text) <= cells:
        return text
    while width(text) > max(cells - 1, 0):
        text = text[:-1]
    return f"{text}…"


def pieces_of(message: dict[str, Any], unfolded: frozenset[str] | set[str] = frozenset()) -> list[Piece]:
    """What there is to see of a message, in order."""
    info, parts = message["info"], message["parts"]
    if info["role"] == "user":
        return [_user(info["id"], parts)]
    found = [piece for part in parts if (piece := piece_of(part, part.get("id") in unfolded)) is not None]
    ending = ending_of(info.get("finish"), info.get("error"))
    if message.get("parts_more"):
        found.append(_plain(f"{info['id']}+", "notice", f"[{message['parts_more']} more parts are not shown]"))
    if ending is not None:
        found.append(_plain(end_id(info["id"]), "notice", ending))
    return found


def piece_of(part: dict[str, Any], unfolded: bool = False) -> Piece | None:
    """None for a part that is not shown: of a retry, an answer that broke off tells; a later daemon may have others."""
    id = part["id"]
    match part["kind"]:
        case "text":
            return _text(part, "assistant")
        case "reasoning":
            return _text(part, "reasoning")
        case "tool":
            text = call_text(part, unfolded)
            field = "error" if part.get("state") == "error" else "output"
            handle = part.get(f"{field}_more", {}).get("handle") if unfolded else None
            return Piece(id=id, kind="tool", text=text, size=len(text), part=part, field=field, handle=handle)
        case "file":
            return _plain(id, "notice", f"[{_file(part)}]")
        case "compaction":
            fold = "▾" if unfolded else "▸"
            text = f"{fold} [the model is shown a summary of what is above]"
            if unfolded:
                text += f"\n{part['summary']}"
            handle = part.get("summary_more", {}).get("handle") if unfolded else None
            return Piece(id=id, kind="notice", text=text, size=len(text), part=part, field="summary", handle=handle)
        case "patch":
            return _plain(id, "notice", f"[changed {one_line(part['path'], LINE_CELLS)}]")
        case "subtask":
            return _plain(id, "notice", f"[{one_line(part['agent'], 40)}: {one_line(part['description'], LINE_CELLS)}]")
    return None


def whole(piece: Piece, text: str) -> Piece:
    """The piece with the text that was read by its handle."""
    if piece.part is None:
        return attrs.evolve(piece, text=text, size=len(text), handle=None)
    part = {**piece.part, piece.field: text}
    part.pop(f"{piece.field}_more", None)
    again = piece_of(part, unfolded=True)
    assert again is not None
    return again


def end_id(message_id: str) -> str:
    """The id of the entry that says how a message or a run ended."""
    return f"{message_id}!"


def ending_of(finish: str | None, error: dict[str, Any] | None) -> str | None:
    """What there is to say about the end of a turn or run; None if it is as it should be."""
    text = _ENDS.get(finish or "")
    if error is not None:
        text = f"{text or '[failed]'} {one_line(error.get('message', ''), 2 * LINE_CELLS)}"
    return text


# ------------------------------------------------------------------ calls
def call_line(part: Mapping[str, Any]) -> str:
    """State, tool and what it is at."""
    what = part.get("title") or json.dumps(part.get("input") or {}, ensure_ascii=False)
    mark = _MARKS.get(part.get("state", ""), "?")
    return one_line(f"{mark} {one_line(part['tool'], 60)} {one_line(what, LINE_CELLS)}", LINE_CELLS)


def call_text(part: Mapping[str, Any], unfolded: bool, preview: list[str] | None = None) -> str:
    state = part.get("state", "")
    if state not in TERMINAL:
        return "\n".join([call_line(part), *(f"  {line}" for line in preview or ())])
    if not unfolded:
        if state == "error":
            return f"▸ {call_line(part)}\n  {one_line(part.get('error') or '', LINE_CELLS)}"
        return f"▸ {call_line(part)}{_extent(part)}"
    lines = [f"▾ {call_line(part)}", *_input_lines(part.get("input") or {})]
    output = part.get("error" if state == "error" else "output") or ""
    lines.append("error:" if state == "error" else "output:")
    return "\n".join([*lines, bounded(output, UNFOLDED_BYTES)])


def bounded(text: str, most: int) -> str:
    """The beginning, and how much was left out."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= most:
        return text
    return f"{encoded[:most].decode('utf-8', 'ignore')}\n[… {len(encoded) - most:,} bytes more]"


def _extent(part: Mapping[str, Any]) -> str:
    more = part.get("output_more")
    if more is not None:
        return f" ({more['bytes']:,} bytes)"
    lines = len((part.get("output") or "").splitlines())
    return f" ({lines} line{'' if lines == 1 else 's'})"


def _input_lines(given: Any) -> list[str]:
    if not isinstance(given, dict):
        return [json.dumps(given, ensure_ascii=False)]
    lines = []
    for name, value in given.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        first, *rest = bounded(text, UNFOLDED_BYTES // 4).split("\n")
        lines += [f"{one_line(name, 60)}: {first}", *(f"    {line}" for line in rest)]
    return lines


class Preview:
    """The last lines of what a call writes."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._rest = ""

    def take(self, text: str) -> None:
        *ended, rest = (self._rest + text[-8 * PREVIEW_LINES * PREVIEW_CELLS :]).replace("\r", "\n").split("\n")
        self._rest = rest[-8 * PREVIEW_CELLS :]
        self.lines += [one_line(line, PREVIEW_CELLS) for line in ended[-PREVIEW_LINES:] if line.strip()]
        del self.lines[:-PREVIEW_LINES]

    def shown(self) -> list[str]:
        lines = [*self.lines, one_line(self._rest, PREVIEW_CELLS)] if self._rest.strip() else self.lines
        return lines[-PREVIEW_LINES:]


# ------------------------------------------------------------------ parts
def _user(id: str, parts: list[dict[str, Any]]) -> Piece:
    texts = [part["text"] if part["kind"] == "text" else f"[{_file(part)}]" for part in parts if _is_said(part)]
    size = sum(part.get("text_more", {}).get("bytes", len(part.get("text", ""))) for part in parts)
    cut = [part for part in parts if "text_more" in part]
    text = "\n\n".join(texts)
    if len(cut) == 1 and len(texts) == 1:
        return Piece(id=id, kind="user", text=text, size=size, handle=cut[0]["text_more"]["handle"])
    return Piece(id=id, kind="user", text=f"{text}\n[… more]" if cut else text, size=size)


def _is_said(part: dict[str, Any]) -> bool:
    return part["kind"] in ("text", "file")


def _file(part: dict[str, Any]) -> str:
    return one_line(f"file {part.get('name') or ''} {part.get('mime', '')}, {part.get('size', 0):,} bytes", LINE_CELLS)


def _text(part: dict[str, Any], kind: Kind) -> Piece:
    text = part.get("text", "")
    more = part.get("text_more")
    if more is None:
        return _plain(part["id"], kind, text)
    return Piece(id=part["id"], kind=kind, text=text, size=more["bytes"], handle=more["handle"])


def _plain(id: str, kind: Kind, text: str) -> Piece:
    return Piece(id=id, kind=kind, text=text, size=len(text))


def pasted(text: str) -> str:
    """A pasted text without anything that a terminal obeys: the box draws what it has. Lines and tabs stay."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join("\t".join(map(clean, line.split("\t"))) for line in lines)
