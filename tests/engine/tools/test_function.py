"""Functions as tools: schema, description, strict arguments, results."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal, NamedTuple, Optional

import attrs
import pytest

from engine import codec
from engine.tools.function import FunctionTool, function_tool, result_of
from engine.tools.spec import ToolContext, ToolResult

CONTEXT = ToolContext(session_id="ses_1", run_id="run_1", call_id="call_1", cwd="/folder")


@attrs.frozen
class Place:
    city: str
    floor: int = 0


def call(tool: FunctionTool, value: object) -> Any:
    return tool.bind(value, CONTEXT)()


def schema(tool: FunctionTool) -> Any:
    return codec.parse(tool.spec.input_schema)


def mistakes(tool: FunctionTool, value: object) -> list[tuple[str, str]]:
    with pytest.raises(codec.DecodeError) as caught:
        tool.bind(value, CONTEXT)
    return sorted(caught.value.fields)


def everything(
    text: str,
    count: int,
    share: float,
    flag: bool,
    names: list[str],
    table: dict[str, list[int]],
    unit: Literal["C", "F"],
    place: Place,
    anything: Any,
    maybe: Optional[int] = None,  # noqa: UP045 - the older spelling is taken too
    other: str | None = None,
    more: int = 3,
    even: Annotated[int, codec.Check("an even number", lambda value: value % 2 == 0)] = 2,
) -> dict[str, Any]:
    """Take one of each.

    More that the model is not shown.
    """
    return dict(locals())


GIVEN = {
    "text": "a", "count": 1, "share": 1, "flag": True, "names": ["x", "y"], "table": {"k": [1, 2]}, "unit": "C",
    "place": {"city": "Ulm"}, "anything": {"a": [None]},
}  # fmt: skip


def test_the_schema_of_every_type() -> None:
    tool = function_tool(everything)
    assert tool.spec.name == "everything" and tool.spec.description == "Take one of each." and not tool.is_async
    assert schema(tool) == {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "count": {"type": "integer"},
            "share": {"type": "number"},
            "flag": {"type": "boolean"},
            "names": {"type": "array", "items": {"type": "string"}},
            "table": {
                "type": "object",
                "additionalProperties": {"type": "array", "items": {"type": "integer"}},
            },
            "unit": {"enum": ["C", "F"]},
            "place": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "floor": {"type": "integer", "default": 0}},
                "required": ["city"],
                "additionalProperties": False,
            },
            "anything": {},
            "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "other": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "more": {"type": "integer", "default": 3},
            "even": {"type": "integer", "description": "an even number", "default": 2},
        },
        "required": ["text", "count", "share", "flag", "names", "table", "unit", "place", "anything"],
        "additionalProperties": False,
    }


def test_arguments_arrive_typed() -> None:
    tool = function_tool(everything)
    assert call(tool, GIVEN) == GIVEN | {
        "place": Place("Ulm", 0), "maybe": None, "other": None, "more": 3, "even": 2,
    }  # fmt: skip
    assert type(call(tool, GIVEN)["names"]) is list
    assert call(tool, GIVEN | {"maybe": 1, "other": "b", "even": 4})["other"] == "b"


def test_every_mistake_is_named() -> None:
    wrong = GIVEN | {
        "text": 1, "count": "1", "names": "xy", "table": {"k": ["1"]}, "unit": "K", "place": {"floor": None},
        "even": 3, "extra": 1,
    }  # fmt: skip
    del wrong["flag"]
    assert mistakes(function_tool(everything), wrong) == [
        ("count", "expected an integer, not a string"),
        ("even", "expected an even number"),
        ("extra", "is not a known field"),
        ("flag", "is missing"),
        ("names", "expected an array, not a string"),
        ("place.city", "is missing"),
        ("place.floor", "expected an integer, not null"),
        ("table.k[0]", "expected an integer, not a string"),
        ("text", "expected a string, not an integer"),
        ("unit", "expected one of C, F"),
    ]
    assert mistakes(function_tool(everything), [1]) == [("", "expected an object, not an array")]


def google(city: str, days: int = 1) -> str:
    """The forecast
    of a city.

    Args:
        city: Its name,
            as people say it: "Ulm".
        days (int): How many.

    Returns:
        city: not a description of it
    """
    return city * days


def sphinx(city: str, days: int = 1) -> str:
    """The forecast.

    :param city: Its name,
        as people say it.
    :param int days: How many.
    :returns: text
    """
    return city * days


@pytest.mark.parametrize(
    ("function", "city"), [(google, 'Its name, as people say it: "Ulm".'), (sphinx, "Its name, as people say it.")]
)
def test_descriptions_of_parameters(function: Any, city: str) -> None:
    properties = schema(function_tool(function))["properties"]
    assert properties["city"]["description"] == city
    assert properties["days"]["description"] == "How many."


def test_the_first_paragraph_is_the_description() -> None:
    assert function_tool(google).spec.description == "The forecast of a city."
    assert function_tool(google, name="forecast", description="Other.").spec.description == "Other."
    assert function_tool(google, name="forecast").spec.name == "forecast"


async def test_async_functions_methods_and_callables() -> None:
    async def wait(seconds: float) -> str:
        """Wait."""
        return f"{seconds} s"

    class Counter:
        """Counts."""

        def add(self, amount: int) -> int:
            """Add."""
            return amount + 1

        def __call__(self, amount: int) -> int:
            return amount + 2

    tool = function_tool(wait)
    assert tool.is_async and await call(tool, {"seconds": 1}) == "1.0 s"
    assert call(function_tool(Counter().add), {"amount": 1}) == 2
    assert call(function_tool(Counter(), name="counter"), {"amount": 1}) == 3
    assert not function_tool(Counter(), name="counter").is_async


def test_the_context_is_given_and_not_shown() -> None:
    def where(context: ToolContext, suffix: str = "") -> str:
        """Where it runs."""
        return context.cwd + suffix

    tool = function_tool(where)
    assert list(schema(tool)["properties"]) == ["suffix"]
    assert call(tool, {"suffix": "!"}) == "/folder!"
    assert mistakes(tool, {"context": {}}) == [("context", "is not a known field")]


@attrs.define
class Recursive:
    inner: Recursive | None = None


def no_type(a, b: int):  # type: ignore[no-untyped-def]
    """Doc."""


def star(*names: str) -> None:
    """Doc."""


def stars(**names: str) -> None:
    """Doc."""


def positional(a: int, /) -> None:
    """Doc."""


def has_bytes(name: str, data: bytes) -> None:
    """Doc."""


def has_union(value: int | str) -> None:
    """Doc."""


def has_keys(value: dict[int, str]) -> None:
    """Doc."""


def has_set(value: list[set[int]]) -> None:
    """Doc."""


def recursive(value: Recursive) -> None:
    """Doc."""


def unknown_name(value: Missing) -> None:  # type: ignore[name-defined] # noqa: F821
    """Doc."""


def undocumented(value: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (no_type, "no_type: parameter 'a' has no type"),
        (star, "star: parameter 'names' cannot be given by name"),
        (stars, "stars: parameter 'names' cannot be given by name"),
        (positional, "positional: parameter 'a' cannot be given by name"),
        (has_bytes, "has_bytes: parameter data: a tool cannot take bytes; known are str,"),
        (has_union, r"has_union: parameter value: a tool cannot take int \| str"),
        (has_keys, r"has_keys: parameter value: a tool cannot take dict\[int, str\]"),
        (has_set, r"has_set: parameter value\[\]: a tool cannot take set\[int\]"),
        (recursive, "recursive: parameter value.inner: Recursive contains itself"),
        (unknown_name, "unknown_name: its signature cannot be read: name 'Missing'"),
        (undocumented, "undocumented: a tool needs a docstring"),
        (lambda: None, "'<lambda>' cannot be a tool's name"),
        (functools.partial(google, days=2), "partial: parameter 'city' has no type"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_at_once(function: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        function_tool(function)


class Point(NamedTuple):
    x: int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        ("", ""),
        (None, "null"),
        (3, "3"),
        ([1, "é"], '[1,"é"]'),
        ({"a": Place("Ulm"), 1: (Point(2),)}, '{"a":{"city":"Ulm","floor":0},"1":[[2]]}'),
        (b"bytes \xff", "bytes \ufffd"),
    ],
)
def test_results(value: object, text: str) -> None:
    assert result_of(value) == ToolResult(text=text)


def test_results_that_are_not_json() -> None:
    own = ToolResult(text="own", is_error=True)
    assert result_of(own) is own
    for value in (object(), {"a": b"x"}, {1, 2}, 2**70):
        with pytest.raises(TypeError, match=r"the tool returned .* not JSON"):
            result_of(value)
