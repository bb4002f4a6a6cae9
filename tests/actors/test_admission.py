"""Admission by memory: refused with a time to come back, queues wait, and both go on when it is free again."""

from __future__ import annotations

import pytest

from actors.admission import MEMORY_RETRY_AFTER_MS, Admission
from engine.errors import CallerError


def test_while_memory_is_full_starts_are_refused_and_queues_wait() -> None:
    begun: list[str] = []
    admission = Admission(2, begun.append)
    with admission.starting("ses_1"):
        admission.begun("run_1", "ses_1")
    admission.memory_full(True)
    for session in ("ses_1", "ses_2"):
        with pytest.raises(CallerError) as refused, admission.starting(session):
            raise AssertionError("it was let in")
        assert (refused.value.code, refused.value.data) == ("overloaded", {"retry_after_ms": MEMORY_RETRY_AFTER_MS})
    admission.wait(["ses_3"])
    admission.ended("run_1")
    assert begun == [] and admission.active_runs == 0
    admission.memory_full(False)
    assert begun == ["ses_3"]
    with admission.starting("ses_2"):
        pass


def test_a_queue_that_waits_for_memory_begins_once_however_often_it_is_told() -> None:
    begun: list[str] = []
    admission = Admission(2, begun.append)
    admission.memory_full(True)
    admission.wait(["ses_1"])
    for _ in range(3):
        admission.memory_full(False)
    assert begun == ["ses_1"]
