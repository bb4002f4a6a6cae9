"""Errors by whose fault they are: codes are disjoint, belong to their class, and read well."""

from __future__ import annotations

import pytest

from engine.errors import CALLER_CODES, OWN_CODES, PEER_CODES, CallerError, EngineError, OwnError, PeerError


def test_codes_belong_to_one_branch_each() -> None:
    branches = [set(CALLER_CODES), set(PEER_CODES), set(OWN_CODES)]
    assert sum(map(len, branches)) == len(set.union(*branches)) == len(EngineError.codes)


def test_the_codes_of_the_wire_contract_are_all_there() -> None:
    contract = {
        "not_initialized", "unsupported_protocol", "unknown_session", "unknown_run", "unknown_watch", "unknown_message",
        "unknown_model", "unknown_toolset", "unknown_approval", "unknown_output", "invalid_path", "session_busy",
        "queue_full", "stale_revision", "idempotency_conflict", "already_resolved", "overloaded", "payload_too_large",
        "draining", "disk_full", "internal", "provider_error", "provider_timeout", "context_overflow", "max_turns",
        "deadline",
    }  # fmt: skip
    assert contract <= set(EngineError.codes)


@pytest.mark.parametrize(
    ("kind", "code"),
    [(CallerError, "disk_full"), (PeerError, "internal"), (OwnError, "draining"), (CallerError, "nix")],
)
def test_a_class_takes_codes_of_its_branch_only(kind: type[EngineError], code: str) -> None:
    with pytest.raises(AssertionError):
        kind(code, "x")


def test_an_error_carries_its_code_text_and_data() -> None:
    error = CallerError("session_busy", "the session has a run", run_id="run_1")
    assert (error.code, error.message, error.data) == ("session_busy", "the session has a run", {"run_id": "run_1"})
    assert str(error) == "the session has a run [session_busy]"
    assert isinstance(error, EngineError)


def test_a_peers_error_says_if_the_same_call_may_succeed_later() -> None:
    assert not PeerError("provider_error", "x").retry
    error = PeerError("provider_error", "x", retry=True, status=503)
    assert error.retry and error.data == {"status": 503}
