"""Keys that come when what they were meant for is gone."""

from __future__ import annotations

from typing import Any

from actors.terminal.talk import Talk


class Screen:
    """Takes nothing."""

    def changed(self) -> None: ...

    def note(self, text: str, *, serious: bool = False) -> None: ...

    def give_back(self, text: str) -> None:
        raise AssertionError

    def show_sessions(self, query: str, sessions: list[dict[str, Any]]) -> None:
        raise AssertionError

    def copy(self, text: str) -> None:
        raise AssertionError


async def test_an_entry_of_another_session_is_neither_copied_nor_unfolded() -> None:
    talk = Talk(lambda: None, Screen(), cwd="/")  # type: ignore[arg-type,return-value]
    talk.copy("prt_gone")
    talk.unfold("prt_gone")
