"""The line at the top: what is talked about, with which model, at what cost, and whether there is a connection."""

from __future__ import annotations

from typing import Any, Final

from rich.text import Text

from actors.terminal.talk import Talk
from actors.terminal.texts import one_line
from engine.rendering.cells import width

_MODEL_CELLS: Final = 24


def status_line(talk: Talk, cells: int) -> Text:
    session: dict[str, Any] = talk.conversation.session or {}
    right = [_spent(session.get("usage") or {}, talk.hello.get("currency", "")), one_line(talk.model, _MODEL_CELLS)]
    run = talk.conversation.run
    if run is not None and talk.connected:
        right.append(run.status.replace("_", " "))
    state, style = _connection(talk)
    right = [part for part in right if part]
    # The title has a third of the line; what goes first is what matters least, and never the connection.
    while right and cells - width(" · ".join(right)) - width(state) < cells // 3:
        right.pop(0)
    facts = " · ".join([*right, ""])
    room = max(cells - width(facts) - width(state) - 2, 0)
    title = one_line(session.get("title") or ("new session" if talk.session_id is None else "(no title)"), room)
    text = Text(no_wrap=True, overflow="crop")
    text.append(title, "bold")
    text.append(" " * (cells - width(title) - width(facts) - width(state)))
    text.append(facts)
    text.append(state, style)
    return text


def _connection(talk: Talk) -> tuple[str, str]:
    if talk.connected:
        return "connected", "green"
    gone = "daemon gone, " if talk.gone else ""
    if talk.waiting:
        return f"{gone}reconnecting in {talk.waiting} s", "red"
    return f"{gone}reconnecting", "red"


def _spent(usage: dict[str, Any], currency: str) -> str:
    tokens = usage.get("input_tokens", 0) + usage.get("output_tokens", 0)
    if not tokens:
        return ""
    text = f"{tokens:,} tokens"
    if "cost" in usage:
        text += f", {usage['cost']:.4f} {currency}".rstrip()
    return text
