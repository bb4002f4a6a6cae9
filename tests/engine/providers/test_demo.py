from __future__ import annotations

import json
from itertools import islice

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.providers import demo
from engine.providers.base import (
    AnswerFinished,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ToolCallStarted,
    ToolInputDelta,
    UsageReported,
)
from engine.tools.spec import ToolSpec
from engine.transcript import compaction
from engine.transcript.records import AssistantMessage, Message, TextPart, ToolPart, Usage, UserMessage

ALL = ("files.search_files", "files.read_file", "shell.run")


def request(text: str, *, tools: tuple[str, ...] = ALL, result: ToolPart | None = None) -> ModelRequest:
    messages = [Message(UserMessage(id="m1", created_at=1), (TextPart(id="p", text=text),))]
    if result is not None:
        messages.append(Message(AssistantMessage(id="m2", created_at=1), (result,)))
    specs = tuple(ToolSpec(name=name, description="", input_schema=b"{}") for name in tools)
    return ModelRequest(model="demo", instructions=None, messages=tuple(messages), tools=specs)


def test_a_conversation_is_summarised_by_what_was_asked() -> None:
    messages = [
        Message(UserMessage(id=f"m{number}", created_at=1), (TextPart(id="p", text=f"question {number}"),))
        for number in range(12)
    ]
    asked = attrs.evolve(request(compaction.question(messages, 10_000)), instructions=compaction.INSTRUCTIONS)
    text = "".join(event.text for _, event in demo.answer(asked) if isinstance(event, TextDelta))
    assert text.startswith("The user said: “question 2”; “question 3”") and text.endswith("“question 11”")


def events(text: str, *, tools: tuple[str, ...] = ALL, result: ToolPart | None = None) -> list[ModelEvent]:
    return [event for _, event in demo.answer(request(text, tools=tools, result=result))]


def said(text: str, *, tools: tuple[str, ...] = ALL, result: ToolPart | None = None) -> str:
    return "".join(e.text for e in events(text, tools=tools, result=result) if isinstance(e, TextDelta))


def test_counting() -> None:
    assert events(" Count to 3 ") == [
        TextDelta("1 "),
        TextDelta("2 "),
        TextDelta("3 "),
        UsageReported(Usage(input_tokens=3, output_tokens=3)),
        AnswerFinished("stop"),
    ]


def test_counting_with_pauses() -> None:
    timed = list(demo.answer(request("count to 3 every 250 ms")))
    assert [delay for delay, event in timed if isinstance(event, TextDelta)] == [0, 0.25, 0.25]


def test_counting_far_is_lazy_and_bounded() -> None:
    assert [e for _, e in islice(demo.answer(request("count to 1000000")), 2)] == [TextDelta("1 "), TextDelta("2 ")]
    for number in ("1000001", "9" * 10_000):
        assert said(f"count to {number}") == "I count to 1,000,000 at most."
    assert said("count to 5 every 30001 ms") == "I wait 30,000 ms at most between two numbers."
    assert said("count to 0") == "There is nothing to count up to 0."


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("search this folder for def", "files__search_files", {"pattern": "def", "path": "."}),
        ("SEARCH src/a b FOR  two words ", "files__search_files", {"pattern": "two words", "path": "src/a b"}),
        ("search docs for x for y", "files__search_files", {"pattern": "x for y", "path": "docs"}),
        ("Read notes for me.txt", "files__read_file", {"path": "notes for me.txt"}),
        ("run ls -l", "shell__run", {"command": "ls -l"}),
    ],
)
def test_tool_calls(text: str, name: str, arguments: dict[str, str]) -> None:
    start, fragment, usage, finish = events(text)
    assert start == ToolCallStarted(0, "", name)
    assert isinstance(fragment, ToolInputDelta)
    assert json.loads(fragment.text) == arguments
    assert isinstance(usage, UsageReported)
    assert finish == AnswerFinished("tool_calls")


def test_tools_that_are_not_there() -> None:
    assert "no shell tool is available" in said("run ls", tools=())
    assert "files.read_file" in said("read a", tools=())
    assert events("read a", tools=())[-1] == AnswerFinished("stop")


def result(tool: str, output: str | None = None, error: str | None = None, **arguments: str) -> ToolPart:
    state = "completed" if error is None else "error"
    return ToolPart(
        id="t", call_id="c", tool=tool, state=state, input=json.dumps(arguments).encode(), output=output, error=error
    )  # type: ignore[arg-type]


def test_what_a_search_found_is_told() -> None:
    found = "\n".join([*(f"a.py:{n}: def f{n}" for n in range(1, 13)), "[12 matches in 1 file; 3 files searched]"])
    told = said("search this folder for def", result=result("files.search_files", found, pattern="def", path="."))
    assert told.startswith(
        "I searched this folder for “def”: 12 matches in 1 file; 3 files searched.\n\n```\na.py:1: def f1\n"
    )
    assert told.endswith("a.py:10: def f10\n```\n\n… and 2 more lines")


def test_what_a_search_that_stopped_says_of_itself() -> None:
    found = "a.py:1: def f\n[1 match in 1 file; 1 file searched]\n[Stopped at 1 match; more.]"
    told = said("search src for def", result=result("files.search_files", found, pattern="def", path="src"))
    assert told.startswith("I searched src for “def”: 1 match in 1 file; 1 file searched. Stopped at 1 match; more.\n")


def test_a_search_without_a_match() -> None:
    part = result("files.search_files", "[0 matches in 0 files; 3 files searched]", pattern="x", path="src")
    assert said("search src for x", result=part) == "I searched src for “x”: 0 matches in 0 files; 3 files searched."


def test_what_was_read_is_told() -> None:
    assert said("read a", result=result("files.read_file", "one\ntwo", path="a")) == "I read a.\n\n```\none\ntwo\n```"


def test_what_was_read_ends_no_block_of_code() -> None:
    told = said("read a", result=result("files.read_file", "```\n````x", path="a"))
    assert told == "I read a.\n\n`````\n```\n````x\n`````"


def test_a_tool_that_failed_is_told() -> None:
    part = result("files.read_file", error="'a' does not exist", path="a")
    assert said("read a", result=part) == "I read a, but it failed: 'a' does not exist"


def test_anything_else_says_what_it_is() -> None:
    told = said("Who are you?")
    assert "not an AI" in told
    for phrase in ("count to N", "search PATH for TEXT", "read PATH", "run COMMAND"):
        assert phrase in told


@given(st.text(), st.sampled_from(ALL), st.text(), st.binary())
def test_any_text_gets_an_answer_with_one_finish(text: str, tool: str, output: str, given: bytes) -> None:
    part = ToolPart(id="t", call_id="c", tool=tool, state="completed", input=given, output=output)
    for got in (events(text), events(text, result=part)):
        assert sum(isinstance(event, AnswerFinished) for event in got) == 1
        assert all(event.text for event in got if isinstance(event, TextDelta))
