"""Frames in and out: what is a request, what is answered to what is not, and the one translation of errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.codec import DecodeError
from engine.errors import CALLER_CODES, CallerError, EngineError, OwnError, PeerError
from engine.limits import Limits
from engine.runs.log import ReplayLog, Slice
from engine.wire import frames
from engine.wire.frames import Malformed, Notification, Request, decode
from engine.wire.methods import InvalidParams, UnknownMethod


def refused(data: str | bytes) -> dict[str, Any]:
    found = decode(data)
    assert isinstance(found, Malformed)
    reply = json.loads(found.reply)
    assert reply["jsonrpc"] == "2.0"
    assert found.why == reply["error"]["message"]
    return {"id": reply["id"], "code": reply["error"]["code"], "message": reply["error"]["message"]}


# ------------------------------------------------------------------ in
@pytest.mark.parametrize("request_id", [0, -1, 1, 2**53 + 1, 2**63 - 1, -(2**63), "", "a", "é" * 128])
def test_a_request_keeps_its_id_exactly(request_id: str | int) -> None:
    found = decode(json.dumps({"jsonrpc": "2.0", "id": request_id, "method": "ping"}))
    assert found == Request(request_id, "ping", {})
    assert type(found.id) is type(request_id)  # type: ignore[union-attr]


def test_params_are_handed_on_as_they_came() -> None:
    text = '{"jsonrpc":"2.0","id":1,"method":"run.get","params":{"run_id":"run_1"}}'
    assert decode(text) == Request(1, "run.get", {"run_id": "run_1"})
    assert decode(text.encode()) == decode(text)
    # By position is JSON-RPC too; the method says that it wants names.
    assert decode('{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}') == Request(1, "ping", [1])


def test_without_an_id_it_is_a_notification() -> None:
    assert decode('{"jsonrpc":"2.0","method":"ping","params":{}}') == Notification("ping")


@pytest.mark.parametrize("data", ["", "{", "nul", "NaN", '{"jsonrpc":"2.0"', "{'a':1}", "[" * 100_000, "\ud83d",
                                  b"\xff", '{"a":"\\ud83d"}', b"\x00", "1 2"])  # fmt: skip
def test_what_is_not_json(data: str | bytes) -> None:
    found = refused(data)
    assert (found["id"], found["code"]) == (None, -32700)


@pytest.mark.parametrize("data", ["[]", '[{"jsonrpc":"2.0","id":1,"method":"ping"}]', "1", "null", '"ping"', "{}"])
def test_what_is_not_one_object(data: str) -> None:
    found = refused(data)
    assert (found["id"], found["code"]) == (None, -32600)


def test_a_batch_is_named_as_such() -> None:
    assert "batches" in refused('[{"jsonrpc":"2.0","id":1,"method":"ping"}]')["message"]


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"id": 7}, "jsonrpc"),
        ({"id": 7, "jsonrpc": "1.0", "method": "ping"}, "jsonrpc"),
        ({"id": 7, "jsonrpc": 2.0, "method": "ping"}, "jsonrpc"),
        ({"id": 7, "jsonrpc": "2.0"}, "method"),
        ({"id": 7, "jsonrpc": "2.0", "method": 3}, "method"),
        ({"id": 7, "jsonrpc": "2.0", "method": ""}, "method"),
        ({"id": 7, "jsonrpc": "2.0", "method": "m" * 129}, "method"),
        ({"id": 7, "jsonrpc": "2.0", "method": None}, "method"),
        ({"id": 7, "jsonrpc": "2.0", "method": "ping", "params": "x"}, "params"),
        ({"id": 7, "jsonrpc": "2.0", "method": "ping", "params": None}, "params"),
        ({"id": 7, "jsonrpc": "2.0", "method": "ping", "parms": {}}, "parms"),
        ({"id": 7, "jsonrpc": "2.0", "result": {}}, "method"),
    ],
)
def test_what_is_no_request_is_answered_under_its_id(members: dict[str, Any], named: str) -> None:
    found = refused(json.dumps(members))
    assert (found["id"], found["code"]) == (7, -32600)
    assert named in found["message"]


@pytest.mark.parametrize("text", ["true", "null", "1.0", "1e3", "{}", "[1]", str(2**63), str(-(2**63) - 1), "1" * 40,
                                  f'"{"a" * 129}"'])  # fmt: skip
def test_an_id_of_another_type_cannot_be_echoed(text: str) -> None:
    found = refused(f'{{"jsonrpc":"2.0","id":{text},"method":"ping"}}')
    assert (found["id"], found["code"]) == (None, -32600)
    assert "`id`" in found["message"]


def test_replies_to_hostile_frames_are_short() -> None:
    frame = {"jsonrpc": "2.0", "id": 1, "method": "ping", **{"\x00" * 10_000 + str(i): 1 for i in range(50)}}
    found = decode(json.dumps(frame))
    assert isinstance(found, Malformed) and len(found.reply) < 10_000


# ------------------------------------------------------------------ replies
def error(exc: BaseException, ref: str = "") -> dict[str, Any]:
    reply = json.loads(frames.encode_error("r", exc, ref))
    assert (reply["jsonrpc"], reply["id"]) == ("2.0", "r")
    assert set(reply) == {"jsonrpc", "id", "error"}
    found: dict[str, Any] = reply["error"]
    return found


def test_a_reply_carries_values_records_and_encoded_json() -> None:
    assert json.loads(frames.encode_reply(1, {"a": "é"})) == {"jsonrpc": "2.0", "id": 1, "result": {"a": "é"}}
    assert json.loads(frames.encode_reply('"', b'{"a":1}')) == {"jsonrpc": "2.0", "id": '"', "result": {"a": 1}}
    assert json.loads(frames.encode_reply(1, {})) == {"jsonrpc": "2.0", "id": 1, "result": {}}


@pytest.mark.parametrize("code", sorted(CALLER_CODES))
def test_errors_of_ours_carry_code_and_data(code: str) -> None:
    found = error(CallerError(code, "what was wrong", run_id="run_1"))
    assert found == {"code": -32000, "message": "what was wrong", "data": {"code": code, "run_id": "run_1"}}


def test_errors_of_peers_are_shown_too() -> None:
    assert error(PeerError("disk_full", "no space"))["data"] == {"code": "disk_full"}


@pytest.mark.parametrize(
    "exc",
    [
        OwnError("internal", "secret"),
        EngineError("internal", "secret"),
        KeyError("secret"),
        DecodeError([("secret", "secret")]),  # of the store, not of the request
        AssertionError("secret"),
        CallerError("overloaded", "fine", retry_after_ms=object()),
    ],
)
def test_defects_are_shown_as_a_reference_only(exc: BaseException) -> None:
    found = error(exc, "err_7")
    assert (found["code"], found["data"]) == (-32000, {"code": "internal", "ref": "err_7"})
    assert "secret" not in json.dumps(found)


def test_a_defect_without_a_reference_gets_one() -> None:
    first, second = error(ValueError())["data"]["ref"], error(ValueError())["data"]["ref"]
    assert first != second and first.startswith("err_")


def test_unknown_methods_and_wrong_parameters_have_their_own_codes() -> None:
    assert error(UnknownMethod("no.such"))["code"] == -32601
    assert "no.such" in error(UnknownMethod("no.such"))["message"]
    found = error(InvalidParams([("a.b", "is missing"), ("c", "expected a string")]))
    assert found["code"] == -32602
    assert found["data"]["fields"] == [
        {"path": "a.b", "message": "is missing"},
        {"path": "c", "message": "expected a string"},
    ]


def test_text_that_no_frame_can_carry_is_repaired_and_cut() -> None:
    found = error(CallerError("invalid_path", "no file \ud83d" + "x" * 100_000))
    assert found["message"].startswith("no file �x") and len(found["message"]) < 2_000
    assert len(json.dumps(error(InvalidParams([("k" * 900_000, "is not a known field")])))) < 1_000


# ------------------------------------------------------------------ pushes
def push(text: str) -> tuple[str, dict[str, Any]]:
    value = json.loads(text)
    assert set(value) == {"jsonrpc", "method", "params"} and value["jsonrpc"] == "2.0"
    return value["method"], value["params"]


def test_events_are_joined_as_they_are() -> None:
    events = (b'{"seq":1,"at":2,"type":"run.status","status":"running"}', '{"seq":2,"text":"é☃"}'.encode())
    assert push(frames.push_events("w1", "run_1", events)) == (
        "run.events",
        {
            "watch_id": "w1",
            "run_id": "run_1",
            "events": [
                {"seq": 1, "at": 2, "type": "run.status", "status": "running"},
                {"seq": 2, "text": "é☃"},
            ],
        },
    )


def test_the_room_for_events_counts_the_whole_frame() -> None:
    longest = "x" * 128
    assert len(frames.push_events(longest, longest, ())) <= frames.EVENTS_OVERHEAD
    smallest = b'{"seq":1,"at":1,"type":"part.delta",12345'[:40]
    many = [smallest] * (frames.EVENTS_ROOM // len(smallest))
    assert len(frames.push_events(longest, longest, many)) <= Limits().frame_bytes
    log = ReplayLog(max_entries=100_000, max_bytes=1 << 30)
    for _ in range(20_000):
        log.append(1, b'"type":"compaction.started"')  # the shortest event that there is
    found = log.read(0, frames.EVENTS_ROOM)
    assert isinstance(found, Slice)
    assert 0.9 * Limits().frame_bytes < len(frames.push_events(longest, longest, found.events)) <= Limits().frame_bytes


def test_the_other_pushes() -> None:
    assert push(frames.push_gap("w1", "run_1", 3, 9, "log_overflow")) == (
        "run.gap",
        {"watch_id": "w1", "run_id": "run_1", "from": 3, "to": 9, "reason": "log_overflow"},
    )
    assert push(frames.push_snapshot("w1", '{"run_id":"run_1","text":"é"}'.encode())) == (
        "run.snapshot",
        {"watch_id": "w1", "run_id": "run_1", "text": "é"},
    )
    assert push(frames.push_session_changed("w1", b'{"id":"ses_1"}')) == (
        "session.changed",
        {"watch_id": "w1", "session": {"id": "ses_1"}},
    )
    assert push(frames.push_watch_closed("w1", "deleted")) == ("watch.closed", {"watch_id": "w1", "reason": "deleted"})
    assert push(frames.push_watch_closed("w1", "finished", run_id="run_1", status="completed")) == (
        "watch.closed",
        {"watch_id": "w1", "run_id": "run_1", "status": "completed", "reason": "finished"},
    )
