"""A line that a person writes: what is pasted into it is cleaned."""

from __future__ import annotations

from textual import events
from textual.widgets import Input

from engine.rendering.cells import clean


class Line(Input):
    def _on_paste(self, event: events.Paste) -> None:
        """Textual calls that of the library's class behind it: it takes the first line."""
        event.text = "\n".join(map(clean, event.text.splitlines()))
