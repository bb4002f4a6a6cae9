"""A Python function as a tool: its schema from the signature, its description from the docstring.

    def add(a: int, b: int = 0) -> int:
        '''Add two numbers.

        Args:
            a: the first
            b: the second
        '''

A parameter annotated ToolContext gets the call's context and is not shown to the model. What the function returns
is the result's text if it is a str, else its JSON.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, Final, get_type_hints

import attrs
import orjson

from engine import codec
from engine.tools.names import is_tool_name
from engine.tools.schema import input_schema
from engine.tools.spec import ToolContext, ToolResult, ToolSpec

# "name: text" or "name (type): text" under Args, ":param name: text" of Sphinx.
_GOOGLE: Final = re.compile(r"(\w+)\s*(?:\([^)]*\))?:\s*(.*)")
_SPHINX: Final = re.compile(r":param\s+(?:[^:]*\s)?(\w+):\s*(.*)")
_SECTION: Final = re.compile(r"(args|arguments|parameters):", re.IGNORECASE)


@attrs.frozen(slots=True, kw_only=True)
class FunctionTool:
    """`spec.name` is the tool's name inside its toolset. `is_async`: calling gives an awaitable."""

    spec: ToolSpec
    is_async: bool
    _function: Callable[..., Any]
    _arguments: type[attrs.AttrsInstance]
    _context_names: tuple[str, ...]

    def bind(self, value: codec.Json, context: ToolContext) -> Callable[[], Any]:
        """The call to be made, for a decoded JSON value. Raises codec.DecodeError naming every mistake."""
        arguments = codec.decode(value, self._arguments)
        named = {field.name: getattr(arguments, field.alias or field.name) for field in attrs.fields(self._arguments)}
        named.update(dict.fromkeys(self._context_names, context))
        return lambda: self._function(**named)


def function_tool(
    function: Callable[..., Any], *, name: str | None = None, description: str | None = None
) -> FunctionTool:
    """The function as a tool. `name` and `description` stand in for its own.

    Raises TypeError at once for what cannot be a tool: a parameter without a type or with one that JSON does not
    have, *args and **kwargs, no docstring, an impossible name.
    """
    name = name or str(getattr(function, "__name__", type(function).__name__))
    if not is_tool_name(name):
        raise TypeError(f"{name!r} cannot be a tool's name: 1 to 64 letters, digits, _ and -")
    called = function if inspect.isroutine(function) else type(function).__call__
    try:
        signature = inspect.signature(function)
        types = get_type_hints(called, include_extras=True)
    except (NameError, ValueError) as exc:
        raise TypeError(f"{name}: its signature cannot be read: {exc}") from exc
    summary, described = _read_docstring(inspect.getdoc(function) or "")
    if not (description or summary):
        raise TypeError(f"{name}: a tool needs a docstring (or `description`), it is all that the model knows of it")
    fields: dict[str, Any] = {}
    annotations: dict[str, Any] = {}
    context_names = []
    for parameter in signature.parameters.values():
        where = f"{name}: parameter {parameter.name!r}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"{where} cannot be given by name ({parameter.kind.description})")
        if parameter.name not in types:
            raise TypeError(f"{where} has no type")
        if types[parameter.name] is ToolContext:
            context_names.append(parameter.name)
            continue
        optional = {} if parameter.default is parameter.empty else {"default": parameter.default}
        text = described.get(parameter.name, "")
        fields[parameter.name] = attrs.field(alias=parameter.name, metadata={"description": text}, **optional)
        annotations[parameter.name] = types[parameter.name]
    for field_name, field in fields.items():
        field.type = annotations[field_name]
    arguments = attrs.make_class(f"{name}_arguments", fields, frozen=True, slots=True, kw_only=True)
    try:
        schema = input_schema(arguments)
    except TypeError as exc:
        raise TypeError(f"{name}: parameter {exc}") from None
    return FunctionTool(
        spec=ToolSpec(name=name, description=description or summary, input_schema=schema),
        is_async=inspect.iscoroutinefunction(called),
        function=function,
        arguments=arguments,
        context_names=tuple(context_names),
    )


def result_of(value: object) -> ToolResult:
    """What a function returned as a result, not yet cut. Raises TypeError for what JSON does not have."""
    match value:
        case ToolResult():
            return value
        case str():
            return ToolResult(text=value)
        case bytes():
            return ToolResult(text=value.decode(errors="replace"))
    try:
        data = orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError as exc:
        raise TypeError(f"the tool returned {type(value).__name__}, which is not JSON: {exc}") from None
    return ToolResult(text=data.decode())


def _plain(value: Any) -> Any:
    if attrs.has(type(value)):
        return {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
    if isinstance(value, tuple):  # a named one
        return tuple(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Its first paragraph as one line, and what it says of each parameter."""
    lines = text.splitlines()
    summary = " ".join(line.strip() for line in text.strip().split("\n\n")[0].splitlines())
    described: dict[str, str] = {}
    indent: int | None = None  # of the names of the section that is read; None: outside
    current: str | None = None
    for line in lines:
        stripped = line.strip()
        depth = len(line) - len(line.lstrip())
        if _SECTION.fullmatch(stripped):
            indent, current = 0, None
        elif found := _SPHINX.match(stripped):
            current = found[1]
            described[current] = found[2]
        elif indent is not None and depth and depth == (indent or depth) and (found := _GOOGLE.match(stripped)):
            indent = depth
            current = found[1]
            described[current] = found[2]
        elif stripped and depth and current:
            described[current] = f"{described[current]} {stripped}".strip()
        elif stripped:
            indent, current = None, None
    return ("" if _SECTION.fullmatch(summary) else summary), described
