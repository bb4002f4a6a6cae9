"""What an actor shows of itself: its state, how it ended, its figures, and the tree below it."""

from __future__ import annotations

from typing import Any, Final, Literal, Protocol

import attrs

State = Literal["starting", "running", "stopping", "ended"]
End = Literal["finished", "stopped", "killed", "crashed"]
NAMES_SHOWN: Final = 2500  # actors that one tree lists: about 100 bytes each, so that a report stays below one frame


@attrs.frozen(slots=True)
class Outcome:
    """How an actor ended. `finished`: by itself; `stopped`: asked, within its grace; `killed`: the grace
    expired or an enclosing scope was cancelled; `crashed`: by `error`."""

    end: End
    reason: str
    error: BaseException | None = None


@attrs.frozen(slots=True, kw_only=True)
class ActorStatistics:
    """`mailbox` messages of at most `mailbox_bound` wait; `waiting_senders` tasks wait for room in it."""

    name: str
    kind: str
    state: State
    mailbox: int
    mailbox_bound: int
    waiting_senders: int
    handled: int
    children: int


class _Cell(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def children(self) -> tuple[Any, ...]: ...

    def statistics(self) -> ActorStatistics: ...


def tree(cell: _Cell) -> dict[str, Any]:
    """The actor with all below it as JSON: `{kind, state, mailbox?, children?, more?}`, children by name.

    At most NAMES_SHOWN actors are listed; `more` counts the children of one that were left out.
    """
    return _node(cell, [NAMES_SHOWN])


def _node(cell: _Cell, room: list[int]) -> dict[str, Any]:
    room[0] -= 1
    shown = cell.statistics()
    node: dict[str, Any] = {"kind": shown.kind, "state": shown.state}
    if shown.mailbox or shown.waiting_senders:
        node["mailbox"] = shown.mailbox + shown.waiting_senders
    if shown.children:
        children: dict[str, Any] = {}
        for child in cell.children:
            if room[0] <= 0:
                node["more"] = shown.children - len(children)
                break
            children[child.name] = _node(child, room)
        node["children"] = children
    return node
