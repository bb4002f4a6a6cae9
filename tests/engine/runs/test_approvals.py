"""The approvals of a run: the first decision stands, and everybody is told which it was."""

from __future__ import annotations

from typing import get_args

import orjson
import pytest

from engine.errors import CallerError
from engine.runs.approvals import Approvals, Resolution, already_resolved, unknown
from engine.runs.events import ApprovalRequested, ApprovalResolved, DecidedBy, Decision


def request(call_id: str) -> ApprovalRequested:
    return ApprovalRequested(call_id=call_id, tool="shell.run", input={"command": "ls"}, question="why", expires_at=9)


def by_client(decision: Decision, reason: str | None = None) -> Resolution:
    return Resolution(decision=decision, by="client", reason=reason)


@pytest.fixture
def approvals() -> Approvals:
    approvals = Approvals()
    approvals.request(request("one"))
    approvals.request(request("two"))
    return approvals


def test_the_first_decision_stands_and_the_loser_is_told(approvals: Approvals) -> None:
    assert approvals.resolve("one", by_client("deny", "no")) == ApprovalResolved(
        call_id="one", decision="deny", by="client"
    )
    for late in (by_client("allow"), by_client("cancel"), Resolution(decision="deny", by="expiry")):
        with pytest.raises(CallerError) as caught:
            approvals.resolve("one", late)
        assert (caught.value.code, caught.value.data) == ("already_resolved", {"decision": "deny", "by": "client"})
    assert approvals.resolution("one") == by_client("deny", "no")
    assert approvals.resolution("two") is None


def test_the_same_decision_again_is_no_mistake_and_no_second_event(approvals: Approvals) -> None:
    assert approvals.resolve("one", by_client("allow")) is not None
    assert approvals.resolve("one", by_client("allow", "said twice")) is None


def test_what_was_never_asked(approvals: Approvals) -> None:
    with pytest.raises(CallerError) as caught:
        approvals.resolve("three", by_client("allow"))
    assert caught.value.code == "unknown_approval"
    assert len(unknown("x" * 10_000).message) < 300


def test_what_waits_is_shown_in_the_order_in_which_it_was_asked(approvals: Approvals) -> None:
    assert (len(approvals), approvals.waiting) == (2, ("one", "two"))
    approvals.request(request("three"))
    approvals.resolve("two", by_client("allow_always"))
    assert approvals.waiting == ("one", "three")
    approvals.stored("two")
    shown = orjson.loads(orjson.dumps(approvals.shown()))
    assert shown == [
        {"call_id": call_id, "tool": "shell.run", "input": {"command": "ls"}, "question": "why", "expires_at": 9}
        for call_id in ("one", "three")
    ]


def test_who_comes_while_a_decision_is_stored_is_shown_what_waited(approvals: Approvals) -> None:
    """If the disk refuses it, it waits as before, and no event says so."""
    approvals.request(request("three"))
    approvals.resolve("two", by_client("allow"))
    for _ in range(2):
        shown = orjson.loads(orjson.dumps(approvals.shown()))
        assert [one["call_id"] for one in shown] == ["one", "two", "three"]
        if "two" not in approvals.waiting:
            approvals.reopen("two")


def test_what_allows() -> None:
    allowing = [decision for decision in get_args(Decision) if by_client(decision).allows]
    assert allowing == ["allow", "allow_always"]


@pytest.mark.parametrize("by", get_args(DecidedBy))
def test_everybody_decides_by_the_same_rule(approvals: Approvals, by: DecidedBy) -> None:
    """An expiry is no denial by a person, and whatever ends the run decides what is left."""
    event = approvals.resolve("one", Resolution(decision="deny", by=by))
    assert event is not None and (event.decision, event.by) == ("deny", by)
    assert already_resolved(event.decision, event.by).data == {"decision": "deny", "by": by}
