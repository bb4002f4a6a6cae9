"""The pace at which a server's messages are taken."""

from __future__ import annotations

from engine.mcp.pace import BYTES_A_TOKEN, Pace


def test_a_burst_is_taken_at_once_and_what_is_more_waits() -> None:
    pace = Pace(100)
    assert pace.take(100, 0, 5.0) == 0
    assert pace.take(1, 0, 5.0) == 0.01
    assert pace.take(49, 0, 5.0) == 0.5
    assert pace.take(50, 0, 6.0) == 0, "a second brings a hundred"


def test_a_pause_brings_no_more_than_one_burst() -> None:
    pace = Pace(10)
    assert pace.take(10, 0, 0.0) == 0
    assert pace.take(10, 0, 1000.0) == 0
    assert pace.take(1, 0, 1000.0) == 0.1


def test_large_messages_count_for_more() -> None:
    pace = Pace(10)
    assert pace.take(1, BYTES_A_TOKEN - 1, 0.0) == 0
    assert pace.take(1, 8 * BYTES_A_TOKEN, 0.0) == 0
    assert pace.take(1, BYTES_A_TOKEN, 0.0) == 0.2


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    pace = Pace(10)
    assert pace.take(10, 0, 9.0) == 0
    assert pace.take(1, 0, 3.0) == 0.1
