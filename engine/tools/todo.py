"""The tools `read` and `write` of the toolset `todo`: the session's list of what is to be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import attrs

from engine import codec
from engine.tools.schema import input_schema
from engine.tools.spec import ToolResult, ToolSpec
from engine.transcript.titles import is_title
from engine.transcript.todo import TODO_CHARACTERS, TODOS_MAX, Status, Todo

_MARKS: Final[dict[Status, str]] = {"pending": "[ ]", "in_progress": "[>]", "completed": "[x]"}

_Line = Annotated[
    str,
    codec.Check(
        f"one line of 1 to {TODO_CHARACTERS} characters",
        lambda text: bool(text.strip()) and len(text) <= TODO_CHARACTERS and is_title(text),
    ),
]


@attrs.frozen(slots=True, kw_only=True)
class ReadTodos:
    pass


@attrs.frozen(slots=True, kw_only=True)
class Item:
    text: _Line = attrs.field(metadata={"description": "What is to be done, in one line."})
    status: Status = attrs.field(default="pending", metadata={"description": "How far it is."})


# Named, because a check inside an annotation's text would not find its bound.
_Items = Annotated[list[Item], codec.Check(f"at most {TODOS_MAX} items", lambda items: len(items) <= TODOS_MAX)]


@attrs.frozen(slots=True, kw_only=True)
class WriteTodos:
    todos: _Items = attrs.field(
        metadata={"description": "The whole list in order; it replaces the one before. Empty: no list."}
    )


READ_TODOS: Final = ToolSpec(
    name="read",
    description="Read the list of what is to be done in this session.",
    input_schema=input_schema(ReadTodos),
)
WRITE_TODOS: Final = ToolSpec(
    name="write",
    description="Write the list of what is to be done in this session, which the user sees. Use it for work of several "
    "steps: write the steps first, keep one in_progress, and mark each completed as soon as it is.",
    input_schema=input_schema(WriteTodos),
)


def todos_of(asked: WriteTodos) -> tuple[Todo, ...]:
    return tuple(Todo(text=item.text.strip(), status=item.status) for item in asked.todos)


def told(todos: Sequence[Todo]) -> ToolResult:
    """The list as a model reads it."""
    done = sum(todo.status == "completed" for todo in todos)
    title = f"{done} of {len(todos)} done"
    if not todos:
        return ToolResult(text="[the list is empty]", title=title)
    return ToolResult(text="\n".join(f"{_MARKS[todo.status]} {todo.text}" for todo in todos), title=title)
