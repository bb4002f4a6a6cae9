"""What the crash stress holds a daemon to: each kind of loss is seen, and a daemon that keeps all is not blamed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.stress.shown import ShownRun, ShownSession

Json = dict[str, Any]
USAGE = {"input_tokens": 3, "output_tokens": 2}
USER = {
    "info": {"id": "msg_1", "role": "user", "run_id": "run_1", "created_at": 1},
    "parts": [{"id": "prt_1", "kind": "text", "text": "count to 2"}],
}
CALL = {"part_id": "prt_3", "call_id": "call_1", "tool": "files.read_file", "state": "completed", "output": "x"}


def events(*bodies: Json, first: int = 1) -> Json:
    return {
        "method": "run.events",
        "params": {"events": [{"seq": number, **body} for number, body in enumerate(bodies, first)]},
    }


BEGIN = (
    {"type": "run.started", "message": USER},
    {"type": "turn.started", "turn": 1, "message_id": "msg_2"},
    {"type": "part.started", "part_id": "prt_2", "message_id": "msg_2", "kind": "text"},
    {"type": "part.delta", "part_id": "prt_2", "text": "1 "},
    {"type": "part.delta", "part_id": "prt_2", "text": "2 "},
)
END = (
    {"type": "part.finished", "part_id": "prt_2", "kind": "text", "bytes": 4},
    {"type": "tool.updated", **CALL},
    {"type": "turn.finished", "turn": 1, "finish": "stop", "usage": USAGE},
    {"type": "run.finished", "status": "completed", "usage": USAGE},
)


class Kept:
    """What a daemon says after a restart."""

    def __init__(self, status: str, last_seq: int, finish: str) -> None:
        self.session: Json = {"title": "t", "metadata": {}, "revision": 5, "message_count": 2}
        self.run: Json = {"id": "run_1", "status": status, "last_seq": last_seq, "usage": USAGE}
        self.user: Json = copy.deepcopy(USER)
        self.text: Json = {"id": "prt_2", "kind": "text", "text": "1 2 "}
        self.call: Json = {**CALL, "id": "prt_3", "kind": "tool"}
        info = {"id": "msg_2", "role": "assistant", "run_id": "run_1", "finish": finish, "finished_at": 2}
        self.answer: Json = {"info": {**info, "usage": USAGE}, "parts": [self.text, self.call]}

    def problems(self, session: ShownSession) -> list[str]:
        return list(session.check(self.session, [self.run], [self.user, self.answer]))


def shown(*bodies: Json) -> ShownSession:
    session = ShownSession(id="ses_1", faces=[("t", {})])
    asked = {"session_id": "ses_1", "text": "count to 2", "idempotency_key": "k"}
    run = {"id": "run_1", "status": "running", "last_seq": 0}
    session.started({"run": run, "message_id": "msg_1", "revision": 3}, asked).push(events(*bodies))
    return session


def finished() -> tuple[ShownSession, Kept]:
    return shown(*BEGIN, *END), Kept("completed", 9, "stop")


def interrupted() -> tuple[ShownSession, Kept]:
    return shown(*BEGIN), Kept("interrupted", 16385, "interrupted")


@pytest.mark.parametrize("case", [finished, interrupted])
def test_a_daemon_that_keeps_all_is_not_blamed_twice_over(case: Callable[[], tuple[ShownSession, Kept]]) -> None:
    session, kept = case()
    assert kept.problems(session) == []
    assert kept.problems(session) == []


def test_deltas_that_were_not_kept_are_counted_and_no_loss() -> None:
    session, kept = interrupted()
    kept.text["text"] = "1"
    assert kept.problems(session) == []
    assert session.runs["run_1"].lost == 3


BROKEN: dict[str, tuple[Callable[[], tuple[ShownSession, Kept]], Callable[[Kept], object], str]] = {
    "a finished text that is cut": (finished, lambda kept: kept.text.update(text="1 "), "finished part"),
    "a delta that is kept differently": (interrupted, lambda kept: kept.text.update(text="1 3 "), "no beginning"),
    "text that was never produced": (interrupted, lambda kept: kept.text.update(text="1 2 3 "), "gave"),
    "a lost part": (finished, lambda kept: kept.answer["parts"].remove(kept.text), "is lost"),
    "a lost tool result": (finished, lambda kept: kept.call.update(output="y"), "tool.updated told output"),
    "a call without a result": (interrupted, lambda kept: kept.call.update(state="running"), "not one result"),
    "an answer without a finish": (interrupted, lambda kept: kept.answer["info"].pop("finish"), "no finish"),
    "another finish": (finished, lambda kept: kept.answer["info"].update(finish="length"), "turn.finished told"),
    "another user message": (finished, lambda kept: kept.user["parts"][0].update(text="x"), "user's message"),
    "another status": (finished, lambda kept: kept.run.update(status="interrupted"), "its end said status"),
    "an open run": (interrupted, lambda kept: kept.run.update(status="running"), "is open"),
    "a number that repeats": (interrupted, lambda kept: kept.run.update(last_seq=5), "not above 5"),
    "a lost rename": (finished, lambda kept: kept.session.update(title="old"), "not one of"),
    "a busy session": (finished, lambda kept: kept.session.update(active_run_id="run_1"), "is busy"),
    "a revision that fell": (finished, lambda kept: kept.session.update(revision=2), "revision 2"),
    "a run nobody asked for": (finished, lambda kept: kept.run.update(id="run_2"), "has the runs"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_kind_of_loss_is_seen(name: str) -> None:
    case, damage, said = BROKEN[name]
    session, kept = case()
    damage(kept)
    problems = kept.problems(session)
    assert any(said in problem for problem in problems), problems


def test_an_interrupted_run_does_not_change_again() -> None:
    session, kept = interrupted()
    assert kept.problems(session) == []
    kept.run = {**kept.run, "last_seq": kept.run["last_seq"] + 1}
    assert any("changed after its end" in problem for problem in kept.problems(session))


def test_a_request_without_a_reply_may_have_been_stored_or_not() -> None:
    for stored in (True, False):
        session = ShownSession(id="ses_1", faces=[("t", {})])
        session.asked = {"session_id": "ses_1", "text": "count to 2"}
        kept = Kept("interrupted", 16385, "interrupted")
        if stored:
            assert kept.problems(session) == []
            assert list(session.runs) == ["run_1"]
        else:
            kept.session["message_count"] = 0
            assert list(session.check(kept.session, [], [])) == []


def test_events_with_a_hole_are_a_problem() -> None:
    run = ShownRun(id="run_1", text="count to 2", counts_to=2)
    run.push(events(*BEGIN))
    run.push(events(*END, first=7))
    assert any("event 7 after 5" in problem for problem in run.problems)
