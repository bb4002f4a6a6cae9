"""Parameters of requests: defaults, every bound at it and one past it, all mistakes at once, and commands."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from engine.commands import ForkSession, InputFile, NewSession, SessionChanges, StartRun
from engine.wire import methods
from engine.wire.methods import METHODS, InvalidParams, UnknownMethod, decode

LATER: set[str] = set()


def mistakes(method: str, params: Any) -> dict[str, str]:
    with pytest.raises(InvalidParams) as caught:
        decode(method, params)
    return dict(caught.value.fields)


@pytest.fixture
def all_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters of methods that come later are rules already."""
    served = {name: attrs.evolve(method, served=True) for name, method in METHODS.items()}
    monkeypatch.setattr(methods, "METHODS", served)


@pytest.mark.parametrize("method", [*sorted(LATER), "", "ping ", "PING", "run", "rpc.discover"])
def test_what_this_version_does_not_serve_is_unknown(method: str) -> None:
    with pytest.raises(UnknownMethod):
        decode(method, {})


def test_all_others_are_served() -> None:
    assert {name for name, method in METHODS.items() if not method.served} == LATER


@pytest.mark.parametrize(
    ("method", "params", "given"),
    [
        ("ping", {}, {}),
        ("session.list", {}, {"limit": 50, "cursor": None, "query": None}),
        ("session.messages", {"session_id": "ses_1"}, {"session_id": "ses_1", "limit": 50, "cursor": None}),
        ("run.watch", {"run_id": "run_1"}, {"run_id": "run_1", "after": 0}),
        ("run.list", {}, {"session_id": None, "active": None, "limit": 50, "cursor": None}),
        ("run.stop", {"run_id": "run_1"}, {"run_id": "run_1", "reason": None}),
        ("output.read", {"handle": "h"}, {"handle": "h", "offset": 0, "limit": 65536}),
        ("session.watch", {"session_id": "s", "after": {"run_1": 4}}, {"session_id": "s", "after": {"run_1": 4}}),
    ],
)
def test_what_is_absent_has_the_contracts_value(method: str, params: dict[str, Any], given: dict[str, Any]) -> None:
    assert attrs.asdict(decode(method, params), recurse=False) == given  # type: ignore[call-overload]


FILES = [{"kind": "file", "path": "p"}]
START = {"session_id": "ses_1", "text": "hi"}
GOOD_AND_BAD: list[tuple[str, dict[str, Any], str, Any, Any]] = [
    # method, the other parameters, parameter, at its bound, one past it
    ("session.list", {}, "limit", 1, 0),
    ("session.list", {}, "limit", 100, 101),
    ("session.list", {}, "query", "q" * 200, "q" * 201),
    ("session.list", {}, "cursor", "c" * 512, "c" * 513),
    ("session.messages", {"session_id": "s"}, "limit", 200, 201),
    ("run.list", {}, "limit", 100, 101),
    ("run.list", {}, "active", False, 0),
    ("output.read", {"handle": "h"}, "limit", 65536, 65537),
    ("output.read", {"handle": "h"}, "offset", 0, -1),
    ("output.read", {}, "handle", "h" * 256, "h" * 257),
    ("markdown.render", {}, "text", "", 0),  # its length is a limit: payload_too_large
    ("markdown.render", {"text": ""}, "state", "s" * 4096, "s" * 4097),
    ("run.watch", {"run_id": "r"}, "after", 2**53 - 1, 2**53),
    ("run.watch", {"run_id": "r"}, "after", 0, -1),
    ("run.watch", {}, "run_id", "r" * 128, "r" * 129),
    ("run.get", {}, "run_id", "run_1", "run 1"),
    ("run.get", {}, "run_id", "r", ""),
    ("run.stop", {"run_id": "r"}, "reason", "x" * 500, "x" * 501),
    ("session.create", {}, "title", "t" * 200, "t" * 201),
    ("session.create", {}, "title", "", "a\nb"),
    ("session.create", {}, "model", "m" * 200, "m" * 201),
    ("session.create", {}, "model", "m", ""),
    ("session.create", {}, "instructions", "é" * 32768, "é" * 32768 + "x"),
    ("session.create", {}, "cwd", "/" * 4096, "/" * 4097),
    ("session.create", {}, "cwd", "/a", "a"),
    ("session.create", {}, "cwd", "/a", "/a\0"),
    ("session.create", {}, "toolsets", [], ["a", "a"]),
    ("session.create", {}, "toolsets", [f"t{i}" for i in range(32)], [f"t{i}" for i in range(33)]),
    ("session.create", {}, "metadata", {"k": "v" * (16384 - 8)}, {"k": "v" * (16384 - 7)}),
    ("session.create", {}, "metadata", {}, []),
    ("session.create", {}, "idempotency_key", "k" * 128, "k" * 129),
    ("session.update", {"session_id": "s"}, "expected_revision", 0, -1),
    ("session.watch", {"session_id": "s"}, "after", {f"r{i}": 0 for i in range(256)}, {f"r{i}": 0 for i in range(257)}),
    ("session.watch", {"session_id": "s"}, "after", {"r": 0}, {"r": -1}),
    ("session.watch", {"session_id": "s"}, "after", {}, {"r r": 0}),
    ("run.start", {"session_id": "s"}, "text", " x ", " \n"),
    ("run.start", {"session_id": "s"}, "input", [{"kind": "text", "text": "x"}], []),
    ("run.start", {"session_id": "s"}, "input", FILES * 64, FILES * 65),
    ("run.start", START, "when_busy", "reject", "other"),
    ("run.start", START, "when_busy", "interrupt", "nix"),
    ("run.start", START, "when_busy", "queue", "wait"),
    ("run.start", START, "watch", True, 1),
    ("initialize", {"client": {"name": "n", "version": "1"}}, "protocol", 1, "1"),
    ("initialize", {"client": {"name": "n", "version": "1"}}, "protocol", 2, 1.0),
    ("approval.reply", {"run_id": "r", "call_id": "c"}, "decision", "allow_always", "yes"),
    ("approval.reply", {"run_id": "r", "call_id": "c", "decision": "deny"}, "content", "x" * 65534, "x" * 65535),
    ("toolset.restart", {}, "name", "files", ""),
    ("session.fork", {"session_id": "s"}, "message_id", "msg_1", "msg 1"),
]  # fmt: skip


@pytest.mark.usefixtures("all_served")
@pytest.mark.parametrize(("method", "others", "name", "good", "bad"), GOOD_AND_BAD)
def test_bounds(method: str, others: dict[str, Any], name: str, good: Any, bad: Any) -> None:
    decode(method, {**others, name: good})
    assert set(mistakes(method, {**others, name: bad})) == {name}


def test_nested_deeper_than_can_be_written() -> None:
    deep: Any = 1
    for _ in range(600):
        deep = [deep]
    with pytest.raises(InvalidParams) as caught:
        decode("session.create", {"metadata": {"a": deep}})
    assert caught.value.fields == [("metadata", "is nested too deeply")]


def test_every_parameter_is_held_to_a_bound_or_a_choice() -> None:
    tested = {(method, name) for method, _, name, _, _ in GOOD_AND_BAD}
    for spec in METHODS.values():
        attrs.resolve_types(spec.params)  # else a type is shown as it was written, until something has read it
    # The same types under the same names elsewhere, and the records inside others (tested below).
    kinds = {str(field.type) for m, n in tested for field in attrs.fields(METHODS[m].params) if field.name == n}
    for method, spec in METHODS.items():
        for field in attrs.fields(spec.params):
            assert str(field.type) in kinds or field.name in ("client", "session_id", "limit"), (method, field.name)


def test_all_mistakes_at_once_and_unknown_fields_named() -> None:
    assert mistakes(
        "run.start",
        {
            "session_id": "ses 1",
            "text": "x",
            "input": [{"kind": "text"}, {"kind": "file", "text": "x"}, {"kind": "q"}, 3],
            "when_busy": "now",
            "nix": 1,
        },
    ).keys() == {
        "session_id", "text", "input", "input[0].text", "input[1].text", "input[1].path", "input[2].kind", "input[3]",
        "when_busy", "nix",
    }  # fmt: skip


@pytest.mark.parametrize("params", [[], [1], "x"])
def test_parameters_are_an_object(params: Any) -> None:
    assert set(mistakes("ping", params)) == {""}


def test_a_method_without_parameters_refuses_any() -> None:
    assert set(mistakes("daemon.stats", {"verbose": True})) == {"verbose"}


def test_nested_fields_are_named_by_their_path() -> None:
    assert set(mistakes("initialize", {"client": {"name": "", "verson": "1"}})) == {
        "client.name", "client.version", "client.verson", "protocol",
    }  # fmt: skip


# ------------------------------------------------------------------ input of a run
def test_text_or_input_exactly_one() -> None:
    assert set(mistakes("run.start", {"session_id": "s"})) == {"text"}
    both = {"session_id": "s", "text": "x", "input": [{"kind": "text", "text": "x"}]}
    assert set(mistakes("run.start", both)) == {"text", "input"}


@pytest.mark.parametrize(
    ("item", "wrong"),
    [
        ({"kind": "text"}, "text"),
        ({"kind": "text", "text": "x", "path": "p"}, "path"),
        ({"kind": "text", "text": "x", "mime": "m"}, "mime"),
        ({"kind": "file"}, "path"),
        ({"kind": "file", "path": "p", "data_base64": "AA=="}, "path"),
        ({"kind": "file", "path": "p", "text": "x"}, "text"),
        ({"kind": "file", "path": ""}, "path"),
        ({"kind": "file", "data_base64": "A==="}, "data_base64"),
        ({"kind": "file", "data_base64": "AAA"}, "data_base64"),
        ({"kind": "file", "data_base64": "AA-_"}, "data_base64"),
        ({"kind": "image", "path": "p"}, "kind"),
    ],
)
def test_items_of_input(item: dict[str, Any], wrong: str) -> None:
    assert f"input[0].{wrong}" in mistakes("run.start", {"session_id": "s", "input": [item]})


# ------------------------------------------------------------------ commands
def test_a_started_run_as_a_command() -> None:
    params = decode("run.start", {"session_id": "s", "text": "hi", "model": "demo", "expected_revision": 3})
    assert isinstance(params, methods.RunStart)
    assert params.command() == StartRun(session_id="s", input=("hi",), model="demo", expected_revision=3)
    items = [
        {"kind": "text", "text": "look"},
        {"kind": "file", "path": "a.png", "mime": "image/png", "name": "a"},
        {"kind": "file", "data_base64": "AAAA"},
    ]
    params = decode("run.start", {"session_id": "s", "input": items, "when_busy": "interrupt", "idempotency_key": "k"})
    assert isinstance(params, methods.RunStart)
    assert params.command() == StartRun(
        session_id="s",
        input=("look", InputFile(path="a.png", mime="image/png", name="a"), InputFile(data_base64="AAAA")),
        when_busy="interrupt",
        idempotency_key="k",
    )


def test_sessions_as_commands() -> None:
    fields: dict[str, Any] = {"title": "t", "model": "m", "instructions": "i", "toolsets": ["files"]}
    new = decode("session.create", {**fields, "cwd": "/w", "metadata": {"a": 1}, "idempotency_key": "k"})
    assert isinstance(new, methods.SessionCreate)
    assert new.command() == NewSession(
        title="t", model="m", instructions="i", cwd="/w", toolsets=("files",), metadata=b'{"a":1}', idempotency_key="k"
    )
    forked = decode("session.fork", {"session_id": "s", "message_id": "m", "idempotency_key": "k"})
    assert isinstance(forked, methods.SessionFork)
    assert forked.command() == ForkSession(session_id="s", message_id="m", idempotency_key="k")
    changed = decode("session.update", {**fields, "session_id": "s", "metadata": {}, "expected_revision": 2})
    assert isinstance(changed, methods.SessionUpdate)
    assert changed.command() == SessionChanges(
        title="t", model="m", instructions="i", toolsets=("files",), metadata=b"{}", expected_revision=2
    )
