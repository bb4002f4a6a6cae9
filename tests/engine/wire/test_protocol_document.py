"""PROTOCOL.md against the program: its tables and the code's hold the same, both ways."""

from __future__ import annotations

import re
import typing
from importlib import resources
from typing import Annotated, Any, Literal

import attrs

from engine import errors
from engine.limits import Limits
from engine.runs import events, lifecycle
from engine.runs.record import Run
from engine.transcript import tools
from engine.transcript.records import (
    KINDS,
    AssistantMessage,
    Failure,
    Finish,
    ReasoningPart,
    ToolState,
    Usage,
    UserMessage,
)
from engine.transcript.session import Session
from engine.transcript.todo import Todo
from engine.wire import bounds, frames, objects
from engine.wire.methods import METHODS, PROTOCOL_VERSIONS, SUBPROTOCOL, ClientInfo, Input

DOCUMENT = resources.files("engine.wire").joinpath("PROTOCOL.md").read_text()


def table(first_column: str) -> dict[str, list[str]]:
    """The rows of the table whose head begins with this column: first cell without backquotes -> other cells."""
    lines = iter(DOCUMENT.splitlines())
    for line in lines:
        if line.startswith(f"| {first_column} |"):
            break
    else:
        raise AssertionError(f"no table of {first_column}")
    next(lines)
    rows: dict[str, list[str]] = {}
    for line in lines:
        if not line.startswith("|"):
            break
        first, *rest = [cell.strip() for cell in line.strip("|").split("|")]
        assert first.replace("`", "") not in rows, f"{first} stands twice"
        rows[first.replace("`", "")] = rest
    return rows


def names(cell: str) -> list[str]:
    """`a`, `b?` -> ["a", "b?"]"""
    assert re.fullmatch(r"(`[^`]+`(, `[^`]+`)*)?", cell), cell
    return re.findall(r"`([^`]+)`", cell)


def fields(record: type[Any], *left_out: str) -> set[str]:
    """The record's fields, those that are absent when None with `?`."""
    return {
        field.name + ("?" if field.default is None else "")
        for field in attrs.fields(record)
        if field.name not in left_out
    }


# ------------------------------------------------------------------ methods
def test_methods_with_their_parameters_and_results() -> None:
    said = table("method")
    assert list(said) == list(METHODS)
    for name, method in METHODS.items():
        parameters, result, served = said[name]
        have = []
        for field in attrs.fields(method.params):
            if field.default is attrs.NOTHING:
                have.append(field.name)
            elif field.default is None:
                have.append(f"{field.name}?")
            else:
                have.append(f"{field.name} = {str(field.default).lower()}")
        assert names(parameters) == have, name
        assert names(result) == list(method.result), name
        assert served == ("yes" if method.served else "later"), name


def expected(kind: Any) -> str:
    """What a parameter has to be, from its type."""
    if typing.get_origin(kind) not in (Annotated, Literal):
        options = [option for option in typing.get_args(kind) if option is not type(None)]
        kind = options[0] if options else kind
    said = bounds.says(kind)
    if said is not None:
        return said
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(typing.get_args(kind))}"
    return {bool: "a boolean", ClientInfo: "an object"}[kind]


def test_parameters_with_their_bounds() -> None:
    said = {name: cells[0] for name, cells in table("parameter").items()}
    used: set[str] = set()

    def check(record: type[Any], method: str, prefix: str = "") -> None:
        hints = typing.get_type_hints(record, include_extras=True)
        for field in attrs.fields(record):
            name = prefix + field.name
            row = f"{method} {name}" if f"{method} {name}" in said else name
            assert said.get(row) == expected(hints[field.name]), (method, row)
            used.add(row)

    for name, method in METHODS.items():
        check(method.params, name)
    check(ClientInfo, "initialize", "client.")
    check(Input, "run.start", "input.")
    assert used == set(said)


# ------------------------------------------------------------------ objects
def test_objects() -> None:
    said = {name: set(names(cells[0])) for name, cells in table("object").items()}
    assert said == {
        "session": fields(Session),
        "todo": fields(Todo),
        "run": fields(Run),
        "info of a user": fields(UserMessage) | {"role"},
        "info of an assistant": fields(AssistantMessage) | {"role"},
        "usage": fields(Usage),
        "error": fields(Failure),
    }


def test_part_kinds() -> None:
    said = {name: set(names(cells[0])) for name, cells in table("kind").items()}
    assert said == {kind: fields(record, "id", "signature", "hash", "whole") for kind, record in KINDS.items()}
    assert "signature?" in fields(ReasoningPart)  # left out on purpose


def test_statuses_and_finishes() -> None:
    said = {name: cells[0] for name, cells in table("status of a run").items()}
    assert said == {status: "yes" if status in lifecycle.TERMINAL else "no" for status in lifecycle.TRANSITIONS}
    assert set(table("finish of a turn")) == set(typing.get_args(Finish))


def test_states_of_a_tool_call() -> None:
    (sentence,) = re.findall(r"The state of a call is ([^.]*)\.", DOCUMENT)
    states = set(re.findall(r"`(\w+)`", sentence)) - {"output"}
    assert states == set(typing.get_args(ToolState)) == set(tools.TRANSITIONS)


# ------------------------------------------------------------------ pushes and events
def test_event_types() -> None:
    said = {name: set(names(cells[0])) for name, cells in table("type").items()}
    assert list(said) == list(events.TYPES)
    for name, record in events.TYPES.items():
        assert said[name] == fields(record), name


def test_pushes() -> None:
    said = {name: names(cells[0]) for name, cells in table("push").items()}
    shown = {
        "run.events": frames.push_events("w", "r", ()),
        "run.gap": frames.push_gap("w", "r", 1, 2, "restart"),
        "session.changed": frames.push_session_changed("w", b"{}"),
        "watch.closed": frames.push_watch_closed("w", "finished", run_id="r", status="completed"),
    }
    assert set(said) == {*shown, "run.snapshot"}
    for name, text in shown.items():
        push = objects.orjson.loads(text)
        assert push["method"] == name
        assert [field.rstrip("?") for field in said[name]] == list(push["params"])
    least = objects.orjson.loads(frames.push_watch_closed("w", "finished"))["params"]
    assert list(least) == [field for field in said["watch.closed"] if not field.endswith("?")]


def test_reasons_of_pushes() -> None:
    for reason in (*typing.get_args(frames.GapReason), *typing.get_args(frames.ClosedReason)):
        assert f"`{reason}`" in DOCUMENT


# ------------------------------------------------------------------ errors and limits
def test_error_codes_and_their_meaning() -> None:
    said = table("data.code")
    codes = {**errors.CALLER_CODES, **errors.PEER_CODES, **errors.OWN_CODES}
    assert {code: cells[1] for code, cells in said.items()} == codes
    for code, (data, meaning) in said.items():
        # What a meaning mentions is in the data column, and the other way round.
        mentioned = set(re.findall(r"`(\w+)`", meaning)) - {"initialize", "expected_revision"}
        assert mentioned == set(names(data)), code


def test_json_rpc_codes() -> None:
    assert set(table("code")) == {
        str(code)
        for code in (
            frames.PARSE_ERROR,
            frames.INVALID_REQUEST,
            frames.METHOD_NOT_FOUND,
            frames.INVALID_PARAMS,
            frames.REFUSED,
        )
    }


def test_limits() -> None:
    said = table("limit")
    known = attrs.fields_dict(Limits)
    for name, (default, unit, _) in said.items():
        assert float(default) == known[name].default, name
        assert unit == known[name].metadata["unit"], name
    assert tuple(name for name, (_, _, told) in said.items() if told == "yes") == objects.SHOWN_LIMITS
    assert tuple(objects.limits_object(Limits())) == objects.SHOWN_LIMITS


def test_figures_in_the_text() -> None:
    limits = Limits()
    for text, value in [
        ("At 32\n  in flight", limits.requests_in_flight == 32),
        ("ten malformed messages in a row", limits.malformed_in_a_row == 10),
        ("a message over 1 MiB", limits.message_bytes == 1024 * 1024),
        ("pings every 20 s and drops a peer that has been silent for 60 s", limits.ping_interval == 20),
        ("takes nothing for 15 s", limits.slow_client_timeout == 15),
        ("A string over 32 KiB", limits.string_bytes == 32 * 1024),
        ("No frame from the daemon is over 256 KiB", limits.frame_bytes == 256 * 1024),
        ("stay in memory for 300 s, for 256 runs at most", limits.terminal_retention == 300),
    ]:
        assert text in DOCUMENT, text
        assert value, text


def test_versions() -> None:
    assert "protocol, version 1" in DOCUMENT and PROTOCOL_VERSIONS == (1,)
    assert f"`{SUBPROTOCOL}`" in DOCUMENT


def test_links_inside_the_document() -> None:
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"(?m)^## (.*)$", DOCUMENT)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", DOCUMENT)) <= anchors
