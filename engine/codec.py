"""The one codec: JSON bytes to typed records and back, strict at every edge.

cattrs on its own is lenient ("7" becomes 7, a bare KeyError for an unknown tag), so this module registers
strict hooks for the primitives and turns every failure into one DecodeError that names each field by its path.
Two converters share the hooks:

- `decode` (edges: sockets, configuration, models): unknown keys are refused, all mistakes are collected.
- `load` (records that this program wrote): unknown keys are ignored, the first mistake raises.

Absent is not null: an attribute whose default is None is left out of the output when it is None, and null is
refused for an attribute that is not optional.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

import attrs
import cattrs
import orjson
from cattrs.cols import homogenous_tuple_structure_factory, list_structure_factory, mapping_structure_factory
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

T = TypeVar("T")
Json = Any  # what orjson gives: dict, list, str, int, float, bool, None

# Mistakes reported at once. A hostile object can have one per key; nobody reads more than a screen.
FIELDS_MAX: Final = 20


class DecodeError(Exception):
    """Input that does not fit. `fields` is a list of (path, message), the path as in `input[0].text`."""

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{path or 'value'}: {message}" for path, message in fields))
        self.fields = fields


@attrs.frozen(slots=True)
class Check:
    """A bound on a field, written at its type: `Annotated[str, Check("1 to 9 characters", holds)]`.

    `says` completes "expected …"; it is what senders and the documents read. Part of decoding, so that a broken
    bound is reported together with all other mistakes.
    """

    says: str
    holds: Callable[[Any], bool]


class _Mismatch(ValueError):
    """One wrong value; the text is for the sender."""


def _kind(value: object) -> str:
    names: dict[type, str] = {
        dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "an integer",
        float: "a number", type(None): "null",
    }  # fmt: skip
    return names.get(type(value), type(value).__name__)


def _strict(kind: type[Any], name: str) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise _Mismatch(f"expected {name}, not {_kind(value)}")
        return value

    return hook


def _float(value: Any, _: Any) -> float:
    if type(value) not in (int, float):
        raise _Mismatch(f"expected a number, not {_kind(value)}")
    return float(value)


def _bytes_in(value: Any, _: Any) -> bytes:
    """Free-form JSON is kept encoded: one bytes object instead of a tree of dicts."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # readers allow more levels than writers
        raise _Mismatch("is nested too deeply") from None


def _bytes_out(value: bytes) -> orjson.Fragment:
    return orjson.Fragment(value or b"null")


def _optional_keys(cls: type[Any]) -> dict[str, Any]:
    return {f.name: override(omit_if_default=True) for f in attrs.fields(cls) if f.default is None}


def _literal(value: Any, kind: Any) -> Any:
    choices = get_args(kind)
    # `1 == True` in Python: the type has to agree too.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        wanted = ", ".join(str(choice) for choice in choices)
        raise _Mismatch(f"expected one of {wanted}")
    return value


def _make(*, strict: bool) -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=strict, forbid_extra_keys=strict)
    for kind, name in ((str, "a string"), (int, "an integer"), (bool, "a boolean")):
        converter.register_structure_hook(kind, _strict(kind, name))
    converter.register_structure_hook(float, _float)
    converter.register_structure_hook(bytes, _bytes_in)
    converter.register_unstructure_hook(bytes, _bytes_out)

    def structure_factory(cls: type[Any]) -> Callable[[Any, Any], Any]:
        inner = make_dict_structure_fn(
            cls,
            converter,
            _cattrs_forbid_extra_keys=strict,
            _cattrs_detailed_validation=strict,
        )

        def structure(value: Any, kind: Any) -> Any:
            if type(value) is not dict:
                raise _Mismatch(f"expected an object, not {_kind(value)}")
            return inner(value, kind)

        return structure

    def unstructure_factory(cls: type[Any]) -> Callable[[Any], Any]:
        return make_dict_unstructure_fn(cls, converter, **_optional_keys(cls))

    def array_factory(kind: Any) -> Callable[[Any, Any], Any]:
        factory = list_structure_factory if origin(kind) is list else homogenous_tuple_structure_factory
        inner = factory(kind, converter)

        def structure(value: Any, kind: Any) -> Any:
            if type(value) is not list:
                raise _Mismatch(f"expected an array, not {_kind(value)}")
            return inner(value, kind)

        return structure

    def mapping_factory(kind: Any) -> Callable[[Any, Any], Any]:
        inner = mapping_structure_factory(kind, converter)

        def structure(value: Any, kind: Any) -> Any:
            if type(value) is not dict:
                raise _Mismatch(f"expected an object, not {_kind(value)}")
            return inner(value, kind)

        return structure

    def checked_factory(kind: Any) -> Callable[[Any, Any], Any]:
        base, *notes = get_args(kind)
        checks = [note for note in notes if isinstance(note, Check)]
        inner = converter.get_structure_hook(base)

        def structure(value: Any, _: Any) -> Any:
            record = inner(value, base)
            for check in checks:
                if not check.holds(record):
                    raise _Mismatch(f"expected {check.says}")
            return record

        return structure

    def origin(kind: Any) -> Any:
        return get_origin(kind)

    def is_array(kind: Any) -> bool:
        return origin(kind) is list or (origin(kind) is tuple and get_args(kind)[-1] is Ellipsis)

    converter.register_structure_hook_factory(is_array, array_factory)
    converter.register_structure_hook_factory(lambda kind: origin(kind) is dict, mapping_factory)
    converter.register_structure_hook_func(lambda kind: origin(kind) is Literal, _literal)
    converter.register_structure_hook_factory(lambda kind: origin(kind) is Annotated, checked_factory)
    converter.register_structure_hook_factory(attrs.has, structure_factory)
    converter.register_unstructure_hook_factory(attrs.has, unstructure_factory)
    return converter


_STRICT: Final = _make(strict=True)
_LEAN: Final = _make(strict=False)


def _explain(exc: BaseException) -> str:
    match exc:
        case _Mismatch():
            return str(exc)
        case KeyError():
            return "is missing"
        case _:
            # A hook of another module (a range check, an unknown tag) says what is wrong in its own words.
            return str(exc) or type(exc).__name__


def _collect(exc: BaseException, path: str, into: list[tuple[str, str]]) -> None:
    if isinstance(exc, ClassValidationError):
        noted, bare = exc.group_exceptions()
        for inner, note in noted:
            _collect(inner, f"{path}.{note.name}" if path else str(note.name), into)
    elif isinstance(exc, IterableValidationError):
        items, bare = exc.group_exceptions()
        for inner, item in items:
            place = f".{item.index}" if isinstance(item.index, str) else f"[{item.index}]"
            _collect(inner, f"{path}{place}", into)
    elif isinstance(exc, ForbiddenExtraKeysError):
        for key in sorted(exc.extra_fields, key=str):
            into.append((f"{path}.{key}" if path else str(key), "is not a known field"))
        return
    else:
        into.append((path, _explain(exc)))
        return
    for inner in bare:
        _collect(inner, path, into)


def _forget(exc: BaseException) -> None:
    """Let go of what cattrs collected: its errors and its frames hold each other, and the input with them, until a
    garbage collection. Requests that are refused would take memory as fast as they come."""
    exc.__traceback__ = None
    for inner in getattr(exc, "exceptions", ()):
        _forget(inner)


def decode(value: Json, kind: type[T], most: int = FIELDS_MAX) -> T:
    """A record of `kind` from a JSON value that came from outside. Raises DecodeError with every mistake, `most` at
    the most."""
    try:
        return _STRICT.structure(value, kind)
    except Exception as exc:  # noqa: BLE001 - cattrs raises whatever a hook met; all of it is the input's fault
        fields: list[tuple[str, str]] = []
        _collect(exc, "", fields)
        _forget(exc)
        raise DecodeError(fields[:most]) from None


def load(data: bytes, kind: type[T]) -> T:
    """A record of `kind` from JSON bytes that this program wrote. Raises DecodeError (the store is damaged)."""
    return lean(parse(data), kind)


def lean(value: Json, kind: type[T]) -> T:
    """A record of `kind` from a JSON value that a greenroom wrote; unknown keys are ignored. Raises DecodeError."""
    try:
        return _LEAN.structure(value, kind)
    except Exception as exc:
        raise DecodeError([("", _explain(exc))]) from exc


def plain(record: object) -> Json:
    """The JSON value of a record: absent optional attributes left out; bytes attributes as they stand."""
    return _LEAN.unstructure(record)


def dump(record: object) -> bytes:
    """JSON bytes of a record or of a plain JSON value."""
    return orjson.dumps(_LEAN.unstructure(record))


def parse(data: bytes | str) -> Json:
    """Any JSON value. Raises DecodeError for what is not JSON (lone surrogates and NaN included)."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise DecodeError([("", f"is not JSON: {exc}")]) from None


def is_deeper(value: Json, most: int) -> bool:
    """Whether arrays and objects are nested more than `most` deep in a plain JSON value."""
    level = [value]
    for _ in range(most + 1):
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return False
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return True


def escaped(text: str) -> bytes:
    """The inside of a JSON string: what stands between the quotes. Lone surrogates raise DecodeError."""
    try:
        return orjson.dumps(text)[1:-1]
    except orjson.JSONEncodeError as exc:
        raise DecodeError([("", f"is not Unicode text: {exc}")]) from None
