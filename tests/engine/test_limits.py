"""The bounds: each positive, with unit and reason; those of the wire contract have its values."""

from __future__ import annotations

import math

import attrs
import pytest

from engine.limits import DEFAULT, KIB, MIB, Limits

# As the wire contract and the design say them.
CONTRACT = {
    "mailbox_messages": 64,
    "run_log_entries": 4096,
    "run_log_bytes": MIB,
    "all_logs_bytes": 64 * MIB,
    "event_bytes": 64 * KIB,
    "answer_bytes": 8 * MIB,
    "tool_input_bytes": MIB,
    "tool_calls_per_turn": 64,
    "turns_per_run": 100,
    "terminal_retention": 300,
    "terminal_retained_max": 256,
    "active_runs_max": 256,
    "queued_messages_max": 10,
    "message_characters": 16_000,
    "row_cache_bytes": 16 * MIB,
    "request_cache_bytes": 16 * MIB,
    "render_cache_bytes": 2 * MIB,
    "protected_tokens": 40_000,
    "prune_tokens": 20_000,
    "summary_bytes": 32 * KIB,
    "passivate_after": 600,
    "tool_result_bytes": 50 * KIB,
    "tool_result_lines": 2000,
    "inline_media_bytes": 64 * KIB,
    "message_bytes": MIB,
    "frame_bytes": 256 * KIB,
    "string_bytes": 32 * KIB,
    "slow_client_timeout": 15,
    "connections_max": 1024,
    "watches_per_connection": 256,
    "requests_in_flight": 32,
    "malformed_in_a_row": 10,
    "ping_interval": 20,
    "silence_timeout": 60,
    "provider_event_bytes": 4 * MIB,
    "delta_bytes": 32 * KIB,
    "connect_timeout": 10,
    "progress_timeout": 60,
    "call_timeout": 900,
    "run_timeout": 3600,
    "model_attempts": 4,
    "toolset_start_timeout": 30,
    "tool_call_timeout": 120,
    "drain_timeout": 30,
    "cancel_grace": 5,
    "memory_soft": 512 * MIB,
    "memory_hard": 1024 * MIB,
}


@pytest.mark.parametrize(("name", "value"), [*CONTRACT.items()])
def test_defaults_are_those_of_the_contract(name: str, value: float) -> None:
    assert getattr(DEFAULT, name) == value


@pytest.mark.parametrize("field", [*attrs.fields(Limits)], ids=lambda field: field.name)
def test_every_bound_has_a_unit_a_meaning_and_a_reason(field: attrs.Attribute[float]) -> None:
    assert field.metadata["unit"] in ("bytes", "seconds", "count", "characters")
    assert len(field.metadata["says"]) > 10
    assert len(field.metadata["reason"]) > 10
    for text in (field.metadata["says"], field.metadata["reason"]):
        assert text == text.strip(" .") and "\n" not in text
    assert field.default is not None and 0 < field.default < math.inf
    assert type(field.default) is (float if field.metadata["unit"] == "seconds" else int)


def test_bounds_that_nest() -> None:
    # A delta fits an event even with its envelope, an event a frame, the newest event its log.
    assert (
        DEFAULT.delta_bytes
        < DEFAULT.event_bytes
        < DEFAULT.frame_bytes
        <= DEFAULT.run_log_bytes
        < DEFAULT.all_logs_bytes
    )
    assert DEFAULT.delta_bytes <= DEFAULT.string_bytes
    assert DEFAULT.ping_interval < DEFAULT.silence_timeout
    assert DEFAULT.chunk_bytes < DEFAULT.unsaved_bytes < DEFAULT.answer_bytes


def test_limits_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        DEFAULT.frame_bytes = 1  # type: ignore[misc]
