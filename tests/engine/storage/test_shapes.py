"""Every record of a kind has the same shape, whatever of it is set, and nobody can change what others get.

Of real objects: stored by the store's own code with every choice of optional fields, and read by its own decoders.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import attrs
import orjson
import pytest

from engine.storage import database
from engine.storage.changes import AddMessage, AddPart, FinishMessage
from engine.storage.rows import Rows
from engine.transcript.cache import RowCache
from engine.transcript.records import (
    KIND_OF,
    AssistantMessage,
    Blob,
    Failure,
    Message,
    Part,
    ToolPart,
    Usage,
    UserMessage,
)
from tests.engine.storage.conftest import Store

MAKERS: dict[object, Callable[[random.Random], object]] = {
    Usage: lambda rng: Usage(
        input_tokens=rng.randrange(10**6), cache_read_tokens=rng.choice((0, 5)), cost=rng.choice((None, 0.5))
    ),
    Failure: lambda rng: Failure(code="provider_error", message=f"é{rng.random()}"),
    Blob: lambda rng: Blob(handle=f"out_{rng.random()}", hash=rng.randbytes(32).hex(), size=rng.randrange(9)),
    bytes: lambda rng: orjson.dumps({"path": f"{rng.random()}", "deep": [{"a": None}] * rng.randrange(3)}),
    str: lambda rng: f"text 😀 {rng.random()}",
    int: lambda rng: rng.randrange(10**12),
}


def value_of(hint: Any, rng: random.Random) -> object:
    """A value of the field's type, never None."""
    if hint in MAKERS:
        return MAKERS[hint](rng)
    if get_origin(hint) is Literal:
        return rng.choice(get_args(hint))
    return value_of(next(kind for kind in get_args(hint) if kind is not type(None)), rng)


def every(kind: type[Any], rng: random.Random) -> Iterator[dict[str, object]]:
    """The fields of a record, with each choice of the optional ones."""
    fields = [field for field in attrs.fields(kind) if field.name != "id"]
    hints = get_type_hints(kind)
    optional = [field for field in fields if field.default is not attrs.NOTHING]
    for chosen in itertools.product((False, True), repeat=len(optional)):
        given = {field.name for field, is_set in zip(optional, chosen, strict=True) if is_set}
        yield {
            field.name: value_of(hints[field.name], rng)
            for field in fields
            if field.default is attrs.NOTHING or field.name in given
        }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Message], list[Message]]]:
    """(what was stored, what was read of it): all kinds of messages and parts with all choices."""
    path = tmp_path_factory.mktemp("shapes") / database.FILE_NAME
    store = Store(path, database.open_writer(path, "normal"), database.open_reader(path))
    rng = random.Random(5)
    store.session()
    written: list[Message] = []
    store.writer.execute("BEGIN")
    infos: list[Any] = [
        kind(id=f"msg_{kind.__name__}_{number}", **fields)
        for kind in (UserMessage, AssistantMessage)
        for number, fields in enumerate(every(kind, rng))
    ]
    for info in infos:
        store.apply(AddMessage(info))
        if isinstance(info, AssistantMessage):
            store.apply(FinishMessage(info))
        written.append(Message(info, ()))
    for kind in KIND_OF:
        info = UserMessage(id=f"msg_of_{kind.__name__}", created_at=1)
        parts: list[Part] = [
            kind(id=f"prt_{kind.__name__}_{number}", **fields)  # type: ignore[arg-type]
            for number, fields in enumerate(every(kind, rng))
        ]
        store.apply(AddMessage(info), *(AddPart(info.id, part) for part in parts))
        written.append(Message(info, tuple(parts)))
    store.writer.execute("COMMIT")
    rows = Rows(store.reader, "ses_1", lambda *_: None)
    yield written, [rows.whole(row) for row in rows.newest_first()][::-1]
    store.reader.close()
    store.writer.close()


def records_in(value: object) -> Iterator[object]:
    if attrs.has(type(value)):
        yield value
        for field in attrs.fields(type(value)):
            yield from records_in(getattr(value, field.name))
    elif isinstance(value, tuple):
        for inner in value:
            yield from records_in(inner)


def shape(record: Any) -> tuple[object, ...]:
    """What of an object is the same for all of a shape: where its fields are, and which of them are there."""
    slots = [name for kind in type(record).__mro__ for name in getattr(kind, "__slots__", ()) if name != "__weakref__"]
    there = tuple(name for name in slots if hasattr(record, name))
    return there, hasattr(record, "__dict__"), sys.getsizeof(record)


def test_what_was_stored_is_what_is_read(made: tuple[list[Message], list[Message]]) -> None:
    written, read = made
    assert read == written


def test_each_kind_has_one_shape(made: tuple[list[Message], list[Message]]) -> None:
    shapes: dict[type, set[tuple[object, ...]]] = defaultdict(set)
    count: dict[type, int] = defaultdict(int)
    for message in made[1]:
        for record in records_in(message):
            shapes[type(record)].add(shape(record))
            count[type(record)] += 1
    kinds = {*KIND_OF, UserMessage, AssistantMessage, Message, Usage, Failure, Blob}
    assert set(shapes) == kinds
    assert {kind.__name__: len(found) for kind, found in shapes.items()} == {kind.__name__: 1 for kind in kinds}
    for kind, found in shapes.items():
        ((there, has_dict, _),) = found
        assert there == tuple(field.name for field in attrs.fields(kind)) and not has_dict
    assert count[ToolPart] == 2 ** sum(f.default is not attrs.NOTHING for f in attrs.fields(ToolPart))


def test_nothing_in_a_record_can_be_changed(made: tuple[list[Message], list[Message]]) -> None:
    immutable = (str, bytes, int, float, type(None), tuple)
    for message in made[1]:
        for record in records_in(message):
            for field in attrs.fields(type(record)):
                value = getattr(record, field.name)
                assert isinstance(value, immutable) or attrs.has(type(value)), (record, field.name)
                with pytest.raises(attrs.exceptions.FrozenInstanceError):
                    setattr(record, field.name, value)


def test_whatever_a_caller_does_the_next_one_gets_what_is_stored(store: Store) -> None:
    store.session()
    store.start()
    info = AssistantMessage(id="msg_a", created_at=1, finish="stop", usage=Usage(input_tokens=3))
    call = ToolPart(
        id="prt_c", call_id="c", tool="a.b", state="completed", output="out", input=b'{"paths":["a"],"deep":{"x":1}}'
    )
    store.apply(AddMessage(info), AddPart("msg_a", call))
    cache = RowCache(1 << 20)

    def read() -> list[Message]:
        rows = Rows(store.reader, "ses_1", lambda *_: None, cache)
        found = [rows.whole(row) for row in rows.newest_first()]
        rows.close()
        return found

    first = read()
    (part,) = first[0].parts
    assert isinstance(part, ToolPart)
    decoded = orjson.loads(part.input)
    decoded["paths"].append("b")
    decoded["deep"].clear()
    changed = attrs.evolve(first[0], parts=(attrs.evolve(part, output="forged"),))
    first[0] = changed
    first.append(changed)
    with pytest.raises(TypeError):
        changed.parts[0] = part  # type: ignore[index]
    second = read()
    assert cache.statistics().hits == 2  # it came from the cache
    assert second[0] == Message(info, (call,)) and len(second) == 2
    again = second[0].parts[0]
    assert isinstance(again, ToolPart)
    assert orjson.loads(again.input) == {"paths": ["a"], "deep": {"x": 1}} and orjson.loads(again.input) is not decoded
