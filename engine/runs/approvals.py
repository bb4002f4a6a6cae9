"""The approvals of one run: which calls wait for a person, and how each was decided. Data and rules, no waiting.

An approval is keyed by its call; a question that a tool asks in a call has a key of its own. The first decision
stands: the same one again is no mistake, another one is told how it was decided. Whatever ends the run decides what is
left (`stop`, and `restart` when the daemon was lost), and the end of a call its questions (`call`).
"""

from __future__ import annotations

from typing import Final

import attrs
import orjson

from engine import codec
from engine.errors import CallerError
from engine.runs.events import ApprovalRequested, ApprovalResolved, DecidedBy, Decision

ALLOWING: Final = frozenset({"allow", "allow_always"})


@attrs.frozen(slots=True, kw_only=True)
class Resolution:
    """How an approval was decided; `reason` is a person's words, `content` the answer to a tool's question."""

    decision: Decision
    by: DecidedBy
    reason: str | None = None
    content: codec.Json = None

    @property
    def allows(self) -> bool:
        return self.decision in ALLOWING


class Approvals:
    """`waiting` and what was decided, by call id."""

    def __init__(self) -> None:
        self._waiting: dict[str, ApprovalRequested] = {}
        self._asked: list[str] = []
        self._deciding: dict[str, ApprovalRequested] = {}  # resolved, and not stored yet
        self._resolved: dict[str, Resolution] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def waiting(self) -> tuple[str, ...]:
        """The calls that wait, in the order in which they were asked."""
        return tuple(self._waiting)

    def request(self, request: ApprovalRequested) -> None:
        assert request.call_id not in self._waiting and request.call_id not in self._resolved, "a call is asked once"
        self._asked.append(request.call_id)
        self._waiting[request.call_id] = request

    def resolve(self, call_id: str, resolution: Resolution) -> ApprovalResolved | None:
        """Decide; the event to show. None if it was decided so before. `stored` or `reopen` follows.

        Raises CallerError already_resolved {decision, by}, unknown_approval.
        """
        earlier = self._resolved.get(call_id)
        if earlier is not None:
            if (earlier.decision, earlier.by) == (resolution.decision, resolution.by):
                return None
            raise already_resolved(earlier.decision, earlier.by)
        request = self._waiting.pop(call_id, None)
        if request is None:
            raise unknown(call_id)
        self._deciding[call_id] = request
        self._resolved[call_id] = resolution
        return ApprovalResolved(call_id=call_id, decision=resolution.decision, by=resolution.by)

    def reopen(self, call_id: str) -> None:
        """The decision could not be stored: the call waits as before."""
        del self._resolved[call_id]
        self._waiting[call_id] = self._deciding.pop(call_id)

    def stored(self, call_id: str) -> None:
        """The decision stands."""
        self._deciding.pop(call_id, None)

    def settled(self, call_id: str) -> bool:
        """It is decided, and that is stored."""
        return call_id in self._resolved and call_id not in self._deciding

    def resolution(self, call_id: str) -> Resolution | None:
        return self._resolved.get(call_id)

    def shown(self) -> list[orjson.Fragment]:
        """`pending_approvals` of a snapshot: what `approval.requested` said of each. A decision that is not stored yet
        is told behind the snapshot, or comes to nothing."""
        pending = self._waiting | self._deciding
        return [orjson.Fragment(codec.dump(pending[call_id])) for call_id in self._asked if call_id in pending]


def already_resolved(decision: str, by: str) -> CallerError:
    return CallerError("already_resolved", f"it was decided before: {decision}, by {by}", decision=decision, by=by)


def unknown(call_id: str) -> CallerError:
    return CallerError("unknown_approval", f"no approval is pending for the call {call_id[:128]!r}")
