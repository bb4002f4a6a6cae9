"""Forms of tools' questions, filled in line by line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from actors.cli.forms import fill, form_of
from actors.cli.lines import Lines

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "title": "Your \x1b[31mname", "description": "as on the door", "minLength": 2},
        "age": {"type": "integer", "minimum": 1},
        "size": {"type": "number", "default": 1.5},
        "sure": {"type": "boolean"},
        "colour": {"type": "string", "enum": ["red", "green"]},
        "extras": {"type": "array", "items": {"enum": ["a", "b"]}},
    },
    "required": ["name", "sure"],
}


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)


async def filled(pipe: tuple[int, int], typed: str, schema: Any = SCHEMA) -> Any:
    read, write = pipe
    os.write(write, typed.encode())
    os.close(write)
    return await fill(Lines(read), form_of(schema), schema)


async def test_each_field_gets_a_value_of_its_kind(pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    content = await filled(pipe, "Ann\n 7 \n2\nyes\ngreen\nb, a\n")
    assert content == {"name": "Ann", "age": 7, "size": 2, "sure": True, "colour": "green", "extras": ["b", "a"]}
    said = capsys.readouterr().err
    assert "Your ␛[31mname: as on the door (text):" in said
    assert "age (whole number; may be left out):" in said and "size (number; may be left out) [1.5]:" in said
    assert "colour (one of red, green; may be left out):" in said and "extras (any of a, b;" in said


async def test_empty_lines_leave_out_what_may_be_and_take_defaults(pipe: tuple[int, int]) -> None:
    assert await filled(pipe, "Ann\n\n\nn\n\n\n") == {"name": "Ann", "size": 1.5, "sure": False}


async def test_what_does_not_fit_is_asked_again(pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    typed = "A\n\nAnn\nold\n0\nnan\n3\n\nmaybe\ny\nblue\nred\nc\na\n"
    content = await filled(pipe, typed)
    assert content == {"name": "Ann", "age": 3, "size": 1.5, "sure": True, "colour": "red", "extras": ["a"]}
    said = capsys.readouterr().err
    for mistake in (
        "at least 2 characters",
        "is needed",
        "a whole number",
        "at least 1]",
        "true or false",
        "one of red",
    ):
        assert mistake in said


async def test_an_input_that_ends_is_no_answer(pipe: tuple[int, int]) -> None:
    assert await filled(pipe, "Ann\n3\n") is None


async def test_a_form_that_is_not_known_here_has_no_fields(pipe: tuple[int, int]) -> None:
    assert await filled(pipe, "", {"type": "object", "properties": {"a": {"type": "tensor"}}}) == {}
