"""JSON Schema of what a tool takes, made from the same attrs class that engine.codec decodes it into.

So what a model is told and what is accepted cannot differ. Known are str, int, float, bool, Any, Literal, X | None,
list[X], dict[str, X], Annotated[X, Check(…)] and attrs classes of these; a field's description is its metadata's
`description`. Anything else raises TypeError when the tool is made, naming where it stands.
"""

from __future__ import annotations

import types
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import attrs
import orjson

from engine import codec

Schema = dict[str, Any]
_SCALARS: Final[dict[Any, str]] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def input_schema(kind: type[attrs.AttrsInstance]) -> bytes:
    """The encoded schema of an attrs class. Raises TypeError naming the field that has an unknown type."""
    return orjson.dumps(_object(kind, "", ()))


def schema_of(kind: Any, where: str, inside: tuple[Any, ...] = ()) -> Schema:
    """The schema of one type; `where` names it in errors, `inside` are the classes that it stands in."""
    if kind in _SCALARS:
        return {"type": _SCALARS[kind]}
    if kind is Any:
        return {}
    arguments = get_args(kind)
    match get_origin(kind):
        case origin if origin is Annotated:
            says = [note.says for note in arguments[1:] if isinstance(note, codec.Check)]
            return schema_of(arguments[0], where, inside) | ({"description": "; ".join(says)} if says else {})
        case origin if origin is Literal and all(type(choice) in (str, int, bool) for choice in arguments):
            return {"enum": list(arguments)}
        case origin if origin is list and len(arguments) == 1:
            return {"type": "array", "items": schema_of(arguments[0], f"{where}[]", inside)}
        case origin if origin is dict and arguments[0] is str:
            return {"type": "object", "additionalProperties": schema_of(arguments[1], f"{where}{{}}", inside)}
        case origin if origin in (Union, types.UnionType):
            some = [argument for argument in arguments if argument is not type(None)]
            if len(some) == 1 and len(some) < len(arguments):
                return {"anyOf": [schema_of(some[0], where, inside), {"type": "null"}]}
    if isinstance(kind, type) and attrs.has(kind):
        if kind in inside:
            raise TypeError(f"{where}: {kind.__name__} contains itself, which no schema here can say")
        return _object(kind, where, inside)
    name = kind.__name__ if isinstance(kind, type) and not arguments else str(kind)
    raise TypeError(
        f"{where}: a tool cannot take {name}; known are str, int, float, bool, Any, Literal, X | None, list[X], "
        "dict[str, X] and attrs classes of these"
    )


def _object(kind: type[attrs.AttrsInstance], where: str, inside: tuple[Any, ...]) -> Schema:
    attrs.resolve_types(kind, include_extras=True)
    properties: Schema = {}
    required: list[str] = []
    for field in attrs.fields(kind):
        schema = schema_of(field.type, f"{where}.{field.name}" if where else field.name, (*inside, kind))
        description = field.metadata.get("description")
        if description:
            schema["description"] = description
        if field.default is attrs.NOTHING:
            required.append(field.name)
        elif isinstance(field.default, str | int | float):
            schema["default"] = field.default
        properties[field.name] = schema
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
