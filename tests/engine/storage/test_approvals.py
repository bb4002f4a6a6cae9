"""Approvals and grants in the store."""

from __future__ import annotations

import pytest

from engine.errors import CallerError
from engine.runs.approvals import Resolution
from engine.storage import approvals, hidden, starting
from engine.storage.changes import AddMessage, AddPart, AskApproval, SettleApproval
from engine.tools.permissions import Grant
from engine.transcript.records import AssistantMessage, ToolPart
from tests.engine.storage.conftest import NOW, Store

ALLOWED = Resolution(decision="allow", by="client")
DENIED = Resolution(decision="deny", by="restart")


def test_the_first_decision_stands(store: Store) -> None:
    store.session()
    store.start("1", "ses_1")
    store.apply(AskApproval("run_1", "call_1"))
    assert approvals.find(store.reader, "run_1", "call_1") is None
    store.apply(SettleApproval("run_1", "call_1", ALLOWED))
    store.apply(SettleApproval("run_1", "call_1", DENIED))
    assert approvals.find(store.reader, "run_1", "call_1") == ALLOWED
    assert approvals.find(store.reader, "run_1", "call_2") is None
    store.apply(AskApproval("run_1", "call_1"))  # a later call with the same id
    assert approvals.find(store.reader, "run_1", "call_1") is None


def test_a_restart_denies_what_waits_and_says_so_in_the_call(store: Store) -> None:
    store.session()
    store.start("1", "ses_1")
    info = AssistantMessage(id="msg_a", created_at=NOW, run_id="run_1", model="m")
    waits = ToolPart(id="prt_1", call_id="call_1", tool="t.t", state="pending")
    other = ToolPart(id="prt_2", call_id="call_2", tool="t.t", state="pending")
    store.apply(AddMessage(info), AddPart("msg_a", waits), AddPart("msg_a", other), AskApproval("run_1", "call_1"))
    starting.settle_open_runs(store.writer, NOW)
    assert approvals.find(store.reader, "run_1", "call_1") == DENIED
    assert approvals.find(store.reader, "run_1", "call_2") is None
    errors = [
        row[0].decode() for row in store.reader.execute("SELECT error FROM parts WHERE kind = 'tool' ORDER BY key")
    ]
    assert ["approval" in error for error in errors] == [True, False]


def test_grants_are_of_one_session_and_go_with_it(store: Store) -> None:
    store.session("1")
    store.session("2")
    grant = Grant(tool="shell.run", patterns={"command": "ls"}, at=NOW)
    assert approvals.add_grant(store.writer, "ses_1", grant).entries == (grant,)
    assert approvals.grants(store.reader, "ses_1").entries == (grant,)
    assert approvals.grants(store.reader, "ses_2").entries == ()
    hidden.delete(store.writer, "ses_1")
    with pytest.raises(CallerError):
        approvals.grants(store.reader, "ses_1")


def test_approvals_go_with_their_session(store: Store) -> None:
    store.session()
    store.start("1", "ses_1")
    store.apply(AskApproval("run_1", "call_1"))
    hidden.delete(store.writer, "ses_1")
    assert store.count("approvals") == 0
