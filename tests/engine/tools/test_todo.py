"""The list of what is to be done: what may be written, and how a model reads it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from engine import codec
from engine.tools.todo import WRITE_TODOS, WriteTodos, todos_of, told
from engine.transcript.todo import TODO_CHARACTERS, TODOS_MAX, Todo


def write(*items: Any) -> tuple[Todo, ...]:
    return todos_of(codec.decode({"todos": list(items)}, WriteTodos))


def test_a_list_as_a_model_writes_and_reads_it() -> None:
    todos = write(
        {"text": " plan "}, {"text": "build", "status": "in_progress"}, {"text": "ask", "status": "completed"}
    )
    assert todos == (Todo(text="plan"), Todo(text="build", status="in_progress"), Todo(text="ask", status="completed"))
    assert (told(todos).text, told(todos).title) == ("[ ] plan\n[>] build\n[x] ask", "1 of 3 done")
    assert write() == () and told(()).text == "[the list is empty]"


def test_bounds() -> None:
    assert len(write(*[{"text": "x"}] * TODOS_MAX)) == TODOS_MAX
    assert write({"text": "語" * TODO_CHARACTERS})[0].text == "語" * TODO_CHARACTERS
    with pytest.raises(codec.DecodeError):
        write(*[{"text": "x"}] * (TODOS_MAX + 1))


@pytest.mark.parametrize(
    "item",
    [
        {"text": "x" * (TODO_CHARACTERS + 1)}, {"text": ""}, {"text": " \t"}, {"text": "a\nb"}, {"text": "\x1b[2J"},
        {"text": "x", "status": "done"}, {"text": 3}, {"status": "pending"}, {"text": "x", "id": 1}, "x", None,
    ],
)  # fmt: skip
def test_what_is_refused(item: Any) -> None:
    with pytest.raises(codec.DecodeError) as caught:
        write({"text": "good"}, item)
    assert all(path.startswith("todos[1]") for path, _ in caught.value.fields)


def test_the_schema_says_the_bounds() -> None:
    schema = orjson.loads(WRITE_TODOS.input_schema)
    items = schema["properties"]["todos"]
    assert items["type"] == "array" and items["items"]["properties"]["status"]["enum"] == [
        "pending", "in_progress", "completed",
    ]  # fmt: skip
