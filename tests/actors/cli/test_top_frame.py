"""One view of `greenroom top`: what is on it, what is left out without room, and that nothing in it is obeyed."""

from __future__ import annotations

from typing import Any

import pytest

from actors.cli.top_frame import HEIGHT_MIN, TRAIL, WIDTH_MIN, Sample, View, frame
from engine.limits import KIB, MIB
from engine.rendering.cells import width
from engine.rendering.styles import ASCII, DARK, ansi, plain, segments

NOW = 1_000_000


def sample(**changes: Any) -> Sample:
    stats: dict[str, Any] = {
        "uptime_s": 3725.4,
        "memory": {
            "resident": 50 * MIB,
            "state": "normal",
            "owned": {"files": 15 * MIB, "program": 30 * MIB, "http": 0, "runs": 512 * KIB},
        },
        "loop": {"lag_p99_ms": 1.25},
        "counts": {"sessions": 3, "active_runs": 1, "retained_runs": 4, "connections": 2},
        "processes": {"programs": 1, "started": 5, "all": 4, "resident": 12 * MIB},
        "actors": {"daemon": {"children": {"store": {}, "gateway": {"children": {"conn-1": {}}}}}},
    }
    run = {"id": "run_a", "session_id": "ses_a", "status": "running", "model": "local", "created_at": NOW - 90_000}
    toolset = {"name": "files", "kind": "builtin", "state": "ready", "tools": [{}] * 6, "leases": 1, "restarts": 2}
    return Sample(stats={**stats, **changes.pop("stats", {})}, runs=[run], toolsets=[toolset], **changes)


def view(*samples: Sample, **changes: Any) -> View:
    made = View(title="0.1.0  /data", now=NOW, **changes)
    for one in samples or (sample(),):
        made.take(one)
    return made


def shown(view: View, columns: int = 100, rows: int | None = None) -> list[str]:
    return [plain(line).rstrip() for line in frame(view, columns, rows, DARK)]


def test_a_long_path_leaves_the_rest_of_the_first_line() -> None:
    one = view()
    one.title = f"0.1.0  /{'folder/' * 40}data"
    assert shown(one, 60)[0].startswith("greenroom  up 1:02:05  0.1.0  /folder/")


def test_what_is_on_it() -> None:
    lines = shown(view(sample(), sample()))
    assert lines[0] == "greenroom  up 1:02:05  0.1.0  /data"
    assert lines[1].split()[:6] == ["memory", "50.0", "MiB", "normal", "91%", "explained"]
    assert lines[2].split()[:4] == ["loop", "lag", "1.2", "ms"]
    assert lines[4] == "sessions 3  connections 2  actors 4  programs 1 (processes 4, 12.0 MiB)"
    at = lines.index("memory by owner")
    assert [line.split()[0] for line in lines[at + 1 : at + 4]] == ["program", "files", "runs"]
    assert "████████████████" in lines[at + 1]
    assert lines[at + 2].count("█") >= 8
    at = lines.index("active runs")
    assert lines[at + 1].split() == ["0:01:30", "running", "local", "run_a", "ses_a"]
    at = lines.index("toolsets")
    assert lines[at + 1].split() == ["files", "ready", "6", "tools", "1", "calls", "2", "restarts"]


def test_memory_by_name() -> None:
    lines = shown(view(sort="name"))
    at = lines.index("memory by owner")
    assert [line.split()[0] for line in lines[at + 1 : at + 4]] == ["files", "program", "runs"]


def test_states_of_the_connection() -> None:
    assert shown(view(link="reconnecting"), 60)[0].endswith("  reconnecting")
    assert len(shown(view(link="reconnecting"), 60)[0]) == 60
    assert shown(view(paused=True), 60)[0].endswith("  paused")
    assert shown(view(link="reconnecting", paused=True), 60)[0].endswith("  reconnecting")
    late = view()
    late.age = 2.9
    assert "no answer" not in shown(late)[0]
    late.age = 3.0
    assert shown(late)[0].endswith("no answer for 3 s")
    assert "waiting for the daemon" in shown(View(), 80, 24)


@pytest.mark.parametrize("columns", [WIDTH_MIN, 41, 79, 80, 200])
@pytest.mark.parametrize("rows", [HEIGHT_MIN, 11, 24, 25, 60])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_it_fits_whatever_the_terminal_is(columns: int, rows: int, count: int) -> None:
    many = sample()
    many.stats["memory"]["owned"].update({f"owner {number}": number for number in range(count)})
    many.stats["counts"]["active_runs"] = count
    many.runs[:] = [{**many.runs[0], "model": "漢" * 30, "id": f"run_{number}"} for number in range(count)]
    many.toolsets[:] = [{**many.toolsets[0], "error": {"message": "x " * 500}} for _ in range(count)]
    lines = frame(view(many, many, many), columns, rows, DARK)
    assert len(lines) == rows
    assert max(width(plain(line)) for line in lines) <= columns
    assert plain(lines[-1]).startswith("q quit")


def test_a_terminal_that_is_too_small_is_cut() -> None:
    lines = frame(view(), 5, 4, DARK)
    assert len(lines) == 4
    assert all(width(plain(line)) <= WIDTH_MIN for line in lines)


def test_what_is_left_out_is_told() -> None:
    many = sample()
    many.runs[:] = [{**many.runs[0], "id": f"run_{number}", "created_at": NOW - number} for number in range(30)]
    many.stats["counts"]["active_runs"] = 100
    lines = shown(view(many), rows=24)
    (head,) = [line for line in lines if line.startswith("active runs")]
    listed = [line for line in lines if "run_" in line]
    assert 3 <= len(listed) < 30
    assert head == f"active runs  {100 - len(listed)} more"
    # The oldest first.
    assert "run_29" in listed[0]
    # Room that others leave is used.
    tall = shown(view(many), rows=60)
    assert sum("run_" in line for line in tall) == 30


def test_lines_over_time() -> None:
    one = view()
    assert "▁" not in shown(one)[1]  # a single look is no line
    for number in range(2 * TRAIL):
        grown = sample()
        grown.stats["memory"]["resident"] = int(50 * MIB * 1.05**number)
        one.take(grown)
    assert len(one.trails["resident"]) == TRAIL
    trail = shown(one, 100)[1].split()[-1]
    assert (len(trail), trail[0], trail[-1]) == (40, "▁", "█")
    steady = view(*[sample()] * 5)
    assert set(shown(steady)[1].split()[-1]) == {"█"}, "what does not change looks so"
    levels = "▁▂▃▄▅▆▇█"
    assert [levels.index(c) for c in trail] == sorted(levels.index(c) for c in trail)
    # Owners come and go; what is gone is not kept.
    gone = sample()
    del gone.stats["memory"]["owned"]["runs"]
    one.take(gone)
    assert "owner runs" not in one.trails


def test_a_terminal_without_unicode() -> None:
    lines = [plain(line) for line in frame(view(sample(), sample()), 100, 24, ASCII)]
    assert "\n".join(lines).isascii()
    assert any("################" in line for line in lines)


def test_nothing_in_it_is_obeyed() -> None:
    evil = "\x1b]0;owned\x07\x9b31m\r\n\u202e"
    one = sample()
    one.runs[0].update(model=evil, id=evil, status=evil, session_id=evil)
    one.toolsets[0].update(name=evil, state=evil, error={"message": evil})
    one.stats["memory"]["owned"][evil] = MIB
    one.stats["memory"]["state"] = evil
    lines = frame(View(title=evil, sample=one, now=NOW), 120, 40, DARK)
    for line in lines:
        for text, _ in segments(line):
            assert not set(text) & set("\x1b\x07\x9b\r\n\u202e"), line
        drawn = ansi(line, DARK)
        assert drawn.count("\x1b") == drawn.count("\x1b[") and "\x1b]" not in drawn
