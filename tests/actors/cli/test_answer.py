"""A run's pushes as text: in order, each piece once, whatever was missed between."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors.cli.answer import Answer, JsonLines, Writer
from actors.cli.previews import COLUMNS, LINES_MOST
from actors.client import Push


class Paper:
    """Takes what is written, in place of standard output."""

    def __init__(self) -> None:
        self.text = ""

    async def write(self, text: str) -> None:
        self.text += text


class Pushes:
    """A watch that has all its pushes."""

    def __init__(self, *pushes: Push) -> None:
        self._pushes = list(pushes)

    def __aiter__(self) -> Pushes:
        return self

    async def __anext__(self) -> Push:
        if not self._pushes:
            raise StopAsyncIteration
        return self._pushes.pop(0)


def events(*bodies: dict[str, Any]) -> Push:
    return Push("run.events", {"run_id": "run_1", "events": [{"seq": 1, "at": 1, **body} for body in bodies]})


def started(part_id: str, kind: str = "text") -> dict[str, Any]:
    return {"type": "part.started", "part_id": part_id, "message_id": "msg_1", "kind": kind}


def delta(part_id: str, text: str) -> dict[str, Any]:
    return {"type": "part.delta", "part_id": part_id, "text": text}


def finished(part_id: str, kind: str = "text") -> dict[str, Any]:
    return {"type": "part.finished", "part_id": part_id, "kind": kind, "bytes": 0}


def output(call_id: str, text: str) -> dict[str, Any]:
    return {"type": "tool.output", "call_id": call_id, "text": text}


def updated(call_id: str, state: str) -> dict[str, Any]:
    return {
        "type": "tool.updated",
        "part_id": "p",
        "call_id": call_id,
        "tool": "shell.run",
        "state": state,
        "input": {},
    }


def snapshot(part_id: str, text: str, offset: int = 0) -> Push:
    part = {"id": part_id, "kind": "text"}
    return Push(
        "run.snapshot", {"run_id": "run_1", "seq": 9, "part": part, "offset": offset, "text": text, "more": False}
    )


GAP = Push("run.gap", {"run_id": "run_1", "from": 2, "to": 9, "reason": "log_overflow"})
END = events({"type": "run.finished", "status": "completed", "usage": {}})


async def printed(*pushes: Push) -> tuple[str, Answer]:
    paper = Paper()
    answer = Answer(paper)  # type: ignore[arg-type] # all that it uses of a Writer
    await answer.follow(Pushes(*pushes))  # type: ignore[arg-type]
    return paper.text, answer


async def test_text_and_a_line_end_behind_each_part() -> None:
    first = events(started("a"), delta("a", "Hel"), delta("a", "lo"), finished("a"))
    text, answer = await printed(first, events(started("b"), delta("b", "more\n"), finished("b")), END)
    assert text == "Hello\nmore\n"
    assert (answer.status, answer.error) == ("completed", None)


async def test_reasoning_is_not_the_answer() -> None:
    text, _ = await printed(events(started("a", "reasoning"), delta("a", "hm"), started("b"), delta("b", "yes")), END)
    assert text == "yes\n"


async def test_tools_are_told_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    call = {"type": "tool.updated", "part_id": "t", "call_id": "c", "tool": "files.read_file", "input": {"path": "a\n"}}
    text, _ = await printed(
        events(delta("a", "I look")),
        events({**call, "state": "pending"}, {**call, "state": "running"}),
        events({**call, "state": "error", "error": "no\nsuch file"}),
        END,
    )
    assert text == "I look\n"
    assert capsys.readouterr().err.splitlines() == [
        '[files.read_file {"path": "a\\n"}]',
        "[files.read_file failed: no such file]",
    ]


@pytest.mark.parametrize(
    ("pieces", "rest"),
    [
        ([snapshot("a", "Hello wör")], "ld"),  # all of it again
        ([snapshot("a", "Hel"), snapshot("a", "lo wör", offset=3)], "ld"),
        ([snapshot("a", "Hello")], "örld"),  # less than was shown, as after a crash
    ],
)
async def test_after_a_gap_nothing_is_printed_twice(pieces: list[Push], rest: str) -> None:
    shown = events({"type": "turn.started", "turn": 1, "message_id": "msg_1"}, started("a"), delta("a", "Hello w"))
    text, _ = await printed(shown, GAP, *pieces, events(delta("a", rest), finished("a")), END)
    assert text == "Hello wörld\n"


async def test_a_watch_that_was_evicted_still_tells_the_end() -> None:
    closed = Push("watch.closed", {"run_id": "run_1", "status": "interrupted", "reason": "evicted"})
    text, answer = await printed(GAP, snapshot("a", "half"), closed)
    assert (text, answer.status) == ("half\n", "interrupted")


async def test_json_lines_are_events_with_their_run() -> None:
    paper = Paper()
    lines = JsonLines(paper)  # type: ignore[arg-type]
    failed = {"type": "run.finished", "status": "failed", "usage": {}, "error": {"code": "deadline", "message": "late"}}
    await lines.follow(Pushes(events(started("a"), delta("a", "x\n")), GAP, events(failed)))  # type: ignore[arg-type]
    values = [json.loads(line) for line in paper.text.splitlines()]
    assert [value["type"] for value in values] == ["part.started", "part.delta", "run.gap", "run.finished"]
    assert {value["run_id"] for value in values} == {"run_1"}
    assert (lines.status, lines.error) == ("failed", {"code": "deadline", "message": "late"})


async def test_the_writer_writes_what_a_pipe_takes(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    await Writer().write("grün\x1b[0m\n" * 3)
    assert capfdbinary.readouterr().out == "grün\x1b[0m\n".encode() * 3


# ------------------------------------------------------------------ what tools write meanwhile
async def told(capsys: pytest.CaptureFixture[str], *bodies: dict[str, Any]) -> list[str]:
    paper = Paper()
    await Answer(paper).follow(Pushes(events(*bodies)))  # type: ignore[arg-type]
    assert paper.text == "", "standard output is for the answer"
    return capsys.readouterr().err.splitlines()


async def test_what_a_tool_writes_is_shown_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert await told(
        capsys,
        updated("a", "running"),
        output("a", "one\ntw"), output("b", "other\n"), output("a", "o\n\n  \nthree"),
        updated("a", "completed"),
        output("b", "its rest"),
        updated("b", "completed"),
    ) == ["[shell.run {}]", "  one", "  other", "  two", "  three", "  its rest"]  # fmt: skip


@pytest.mark.parametrize(("lines", "more"), [(LINES_MOST, []), (LINES_MOST + 1, ["  … 1 more lines"])])
async def test_of_a_call_some_lines_are_shown_and_the_rest_is_counted(
    capsys: pytest.CaptureFixture[str], lines: int, more: list[str]
) -> None:
    text = "".join(f"{number}\n" for number in range(lines))
    shown = [f"  {number}" for number in range(LINES_MOST)]
    assert await told(capsys, output("a", text), updated("a", "error")) == [*shown, *more, "[shell.run failed: ]"]


async def test_a_terminal_is_told_nothing_that_it_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    found = await told(capsys, output("a", "\x1b[2Jgone\x07\n10%\r90%\r\nlong" + "g" * 5000), updated("a", "completed"))
    assert found[:3] == ["  ␛[2Jgone␇", "  10%", "  90%"]
    assert len(found) == 4 and found[3].endswith("…") and len(found[3]) == COLUMNS + 2


async def test_a_turn_forgets_what_had_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert await told(capsys, output("a", "half"), {"type": "turn.started", "turn": 2}, updated("a", "completed")) == []
