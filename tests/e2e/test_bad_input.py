"""Frames and parameters that no good client sends, against a daemon process: each has its named error, and the
connection goes on.

What is expected is written down here from engine/wire/PROTOCOL.md; nothing of the program is asked for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

from tests.e2e.raw import Raw, open_socket
from tests.e2e.wire import DaemonProcess, daemon

LIMIT = 120.0  # absolute, for a hung test
MIB = 1 << 20
NESTED = 100_000  # levels of JSON: more than any reader may recurse into, well below a message's bound
LONG_KEY = "k" * 200_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with daemon(tmp_path_factory.mktemp("bad-input") / "data") as process:
        yield process
        assert process.process.poll() is None, process.errors()
        assert "Traceback" not in Path(process.log.name).read_text()


def request(**members: Any) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": "ping", **members})


# What is sent -> (the error's number, the id of its reply).
FRAMES: Final[dict[str, tuple[str, int, Any]]] = {
    "nothing": ("", -32700, None),
    "a blank": (" \n", -32700, None),
    "no JSON": ("{]", -32700, None),
    "half of a request": (request()[:-1], -32700, None),
    "two requests": (request() + request(), -32700, None),
    "a byte order mark": ("\ufeff" + request(), -32700, None),
    "NaN": ('{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":NaN}}', -32700, None),
    "a number beyond all doubles": (request(params={"a": 10**400}), -32700, None),
    "half of a surrogate pair": ('{"jsonrpc":"2.0","id":"\\ud83d","method":"ping"}', -32700, None),
    "a raw control character": ('{"jsonrpc":"2.0","id":"\x01","method":"ping"}', -32700, None),
    "deep arrays": ("[" * NESTED + "]" * NESTED, -32700, None),
    "deep objects": ('{"a":' * NESTED + "1" + "}" * NESTED, -32700, None),
    "deep arrays without an end": ("[" * (MIB - 1), -32700, None),
    "a number": ("1", -32600, None),
    "a string": ('"ping"', -32600, None),
    "null": ("null", -32600, None),
    "an empty batch": ("[]", -32600, None),
    "a batch": (f"[{request()}]", -32600, None),
    "an empty object": ("{}", -32600, None),
    "no version": ('{"id":7,"method":"ping"}', -32600, 7),
    "another version": (request(jsonrpc="1.0"), -32600, 7),
    "a version that is a number": (request(jsonrpc=2.0), -32600, 7),
    "an id of null": (request(id=None), -32600, None),
    "an id of true": (request(id=True), -32600, None),
    "an id of a fraction": (request(id=1.5), -32600, None),
    "an id of an array": (request(id=[1]), -32600, None),
    "an id of an object": (request(id={}), -32600, None),
    "an id beyond 64 bits": (request(id=2**64), -32600, None),
    "an id below 64 bits": (request(id=-(2**63) - 1), -32600, None),
    "an id of 129 characters": (request(id="i" * 129), -32600, None),
    "an id of almost 1 MiB": (request(id="i" * (MIB - 100)), -32600, None),
    "no method": ('{"jsonrpc":"2.0","id":7}', -32600, 7),
    "a method of null": (request(method=None), -32600, 7),
    "a method of a number": (request(method=1), -32600, 7),
    "an empty method": (request(method=""), -32600, 7),
    "a method of 129 characters": (request(method="m" * 129), -32600, 7),
    "a reply": ('{"jsonrpc":"2.0","id":7,"result":{}}', -32600, 7),
    "params of null": (request(params=None), -32600, 7),
    "params of a string": (request(params="x"), -32600, 7),
    "params of a number": (request(params=0), -32600, 7),
    "an unknown member": (request(extra=1), -32600, 7),
    "an unknown member of 200,000 characters": (request(**{LONG_KEY: 1}), -32600, 7),
    "an unknown method": (request(method="session.explode"), -32601, 7),
    "a method in capitals": (request(method="PING"), -32601, 7),
    "a method with a blank": (request(method="ping "), -32601, 7),
    "a method with a NUL": (request(method="ping\0"), -32601, 7),
    "a method of Python": (request(method="__class__"), -32601, 7),
    "session.compact of no session": (request(method="session.compact"), -32602, 7),
    "params of an array": (request(params=[1]), -32602, 7),
    "a field for a method without any": (request(params={"a": 1}), -32602, 7),
    "an unknown field of 200,000 characters": (request(params={LONG_KEY: 1}), -32602, 7),
}


async def test_each_malformed_frame_has_its_error_and_the_connection_goes_on(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            for name, (text, number, reply_id) in FRAMES.items():
                await raw.text(text)
                reply = await raw.reply()
                assert reply["jsonrpc"] == "2.0" and "result" not in reply, name
                assert (reply["error"]["code"], reply["id"]) == (number, reply_id), name
                assert len(json.dumps(reply)) < 4096, f"{name}: an error does not give back what was sent"
                # The very next message is this one's: nothing was answered twice.
                assert await raw.ask("ping") == {"jsonrpc": "2.0", "id": raw.sent, "result": {}}, name


async def test_notifications_get_no_reply_and_are_counted(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            before = (await raw.result("daemon.stats"))["counts"]["notifications"]
            for text in (
                '{"jsonrpc":"2.0","method":"ping"}',
                '{"jsonrpc":"2.0","method":"session.create","params":{}}',
                '{"jsonrpc":"2.0","method":"no.such.thing","params":{"a":1}}',
            ):
                await raw.text(text)
            assert (await raw.result("daemon.stats"))["counts"]["notifications"] == before + 3
            assert (await raw.result("session.list"))["sessions"] == []


async def test_ids_come_back_as_they_were(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            for given in (0, -1, 2**63 - 1, -(2**63), "", "i" * 128, "\0", "😀\u2028", '"}', "../.."):
                await raw.text(request(id=given))
                assert (await raw.reply()) == {"jsonrpc": "2.0", "id": given, "result": {}}


async def test_the_same_id_twice_is_answered_twice(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            for _ in range(2):
                await raw.text(request(method="session.list"))
            assert [(await raw.reply())["id"] for _ in range(2)] == [7, 7]
            await raw.ask("ping")


# ------------------------------------------------------------------ parameters
@attrs.frozen
class At:
    """A wrong value inside a parameter, and the rest of the path that names it."""

    value: Any
    path: str


WRONG: Final[dict[str, tuple[Any, ...]]] = {
    "string": (1, 1.5, True, [], {}, ["x"]),
    "integer": ("1", 1.5, True, [], {}, 1e300),
    "boolean": (0, 1, "true", [], {}),
    "object": (1, "x", True, [], [1]),
    "array": (1, "x", True, {}),
}
TOO_FAR: Final = (-1, 2**53, 2**63, 2**64, -(2**63), 10**300)
ID_WRONG: Final = ("", "../..", "a/b", "a\0b", "a b", "é", "i" * 129, "i" * 500_000, "'; drop table runs; --")
ID: Final = ("string", ID_WRONG)
LIMIT_100: Final = ("integer", (0, 101, *TOO_FAR))
CURSOR: Final = ("string", ("", "c" * 513, "zz", "s", "s-1", "s1.5", "s" + "9" * 19, "x1", "s1\n", "s１"))
NAME: Final = ("string", ("", "n" * 201, "n" * 500_000))
NAMES: Final = (
    "array",
    (["a", "a"], [f"t{n}" for n in range(33)], *(At([wrong], "[0]") for wrong in (1, None, [], "", "n" * 201))),
)
TITLE: Final = ("string", ("t" * 201, "two\nlines", "two\u2028lines"))
INSTRUCTIONS: Final = ("string", ("i" * 65_537, "é" * 32_769))
METADATA: Final = ("object", ({"a": "m" * 16_384}, {f"k{n}": n for n in range(2_000)}))
KEY: Final = ("string", ("", "k" * 129))
ATLEAST_0: Final = ("integer", TOO_FAR)
AFTER: Final = (
    "object",
    (
        *({"run_1": -1}, {"run_1": 2**53}, {"../..": 0}, {"": 0}, {f"run_{n}": 0 for n in range(257)}),
        *(At({"run_1": wrong}, ".run_1") for wrong in ("1", None, 1.5, 2**64, True)),
    ),
)

# method -> parameter -> (its type, further wrong values). `!`: required, `=`: with a default, so that null is wrong.
PARAMS: Final[dict[str, dict[str, tuple[str, tuple[Any, ...]]]]] = {
    "initialize": {"client!": ("object", ()), "protocol!": ATLEAST_0},
    "session.create": {
        "title": TITLE,
        "model": NAME,
        "instructions": INSTRUCTIONS,
        "cwd": ("string", ("", "relative", "../..", "/\0", "/" + "d" * 4096)),
        "toolsets": NAMES,
        "metadata": METADATA,
        "idempotency_key": KEY,
    },
    "session.list": {"limit=": LIMIT_100, "cursor": CURSOR, "query": ("string", ("q" * 201,))},
    "session.get": {"session_id!": ID},
    "session.update": {
        "session_id!": ID,
        "title": TITLE,
        "model": NAME,
        "instructions": INSTRUCTIONS,
        "toolsets": NAMES,
        "metadata": METADATA,
        "expected_revision": ATLEAST_0,
    },
    "session.delete": {"session_id!": ID},
    "session.messages": {
        "session_id!": ID,
        "limit=": ("integer", (0, 201, *TOO_FAR)),
        "cursor": ("string", ("", "c" * 513, "zz", "m-1", "s1")),
    },
    "session.watch": {"session_id!": ID, "after": AFTER},
    "run.start": {
        "session_id!": ID,
        "text!": ("string", ("", " \n\t")),
        "model": NAME,
        "when_busy=": ("string", ("", "REJECT", "wait")),
        "idempotency_key": KEY,
        "expected_revision": ATLEAST_0,
        "watch=": ("boolean", ()),
    },
    "run.watch": {"run_id!": ID, "after=": ATLEAST_0},
    "watch.close": {"watch_id!": ID},
    "approval.reply": {
        "run_id!": ID,
        "call_id!": ID,
        "decision!": ("string", ("", "ALLOW", "yes")),
        "reason": ("string", ("r" * 501,)),
    },
    "toolset.restart": {"name!": NAME},
    "run.stop": {"run_id!": ID, "reason": ("string", ("r" * 501,))},
    "run.get": {"run_id!": ID},
    "run.list": {"session_id": ID, "active": ("boolean", ()), "limit=": LIMIT_100, "cursor": CURSOR},
    "toolset.list": {},
    "output.read": {
        "handle!": ("string", ("", "h" * 257)),
        "offset=": ATLEAST_0,
        "limit=": ("integer", (0, 65_537, *TOO_FAR)),
    },
    "daemon.stats": {},
    "ping": {},
}


async def good_values(raw: Raw) -> dict[str, Any]:
    session = (await raw.result("session.create"))["session"]
    return {
        "client": {"name": "c", "version": "1"},
        "protocol": 1,
        "session_id": session["id"],
        "run_id": "run_1",
        "call_id": "call_1",
        "decision": "allow",
        "name": "files",
        "watch_id": "w1",
        "text": "hello",
        "handle": "out_prt_1_text",
    }


async def refuse_params(raw: Raw, method: str, params: Any, path: str) -> None:
    error = (await raw.ask(method, params))["error"]
    shown = f"{method} {json.dumps(params)[:200]}"
    assert error["code"] == -32602, (shown, error)
    assert [field["path"] for field in error["data"]["fields"]] == [path], (shown, error)
    assert all(field["message"] for field in error["data"]["fields"]), (shown, error)
    assert len(json.dumps(error)) < 4096, shown


@pytest.mark.parametrize("method", PARAMS)
async def test_each_wrong_parameter_is_named(server: DaemonProcess, method: str) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            values = await good_values(raw)
            fields = {name.rstrip("!="): (name[-1], *spec) for name, spec in PARAMS[method].items()}
            good = {name: values[name] for name, (mark, _, _) in fields.items() if mark == "!"}
            await refuse_params(raw, method, {**good, "nope": 1}, "nope")
            await refuse_params(raw, method, {**good, "": 1}, "")
            await refuse_params(raw, method, [good], "")
            for name, (mark, kind, further) in fields.items():
                for wrong in (*WRONG[kind], *further):
                    at = wrong if isinstance(wrong, At) else At(wrong, "")
                    await refuse_params(raw, method, {**good, name: at.value}, name + at.path)
                if mark in "!=":
                    await refuse_params(raw, method, {**good, name: None}, name)
                else:
                    reply = await raw.ask(method, {**good, name: None})
                    assert reply.get("error", {}).get("code") != -32602, "null counts as left out where it is `?`"
                if mark == "!":
                    await refuse_params(raw, method, {key: value for key, value in good.items() if key != name}, name)
            await raw.ask("ping")


async def test_all_mistakes_of_a_request_come_at_once(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            params = {"session_id": 1, "title": [], "metadata": 3, "expected_revision": -1, "more": 0}
            error = (await raw.ask("session.update", params))["error"]
            paths = {field["path"] for field in error["data"]["fields"]}
            assert paths == {"session_id", "title", "metadata", "expected_revision", "more"}
            many = {f"field_{n}": n for n in range(20_000)}
            error = (await raw.ask("session.get", {"session_id": "ses_1", **many}))["error"]
            assert error["code"] == -32602 and 1 <= len(error["data"]["fields"]) <= 100


INPUTS: Final[dict[str, tuple[Any, str]]] = {
    "an object": ({}, "input"),
    "nothing in it": ([], "input"),
    "too many": ([{"kind": "text", "text": "x"}] * 65, "input"),
    "a string": (["hello"], "input[0]"),
    "null": ([None], "input[0]"),
    "no kind": ([{"text": "x"}], "input[0].kind"),
    "an unknown kind": ([{"kind": "tool", "text": "x"}], "input[0].kind"),
    "a kind of a number": ([{"kind": 1, "text": "x"}], "input[0].kind"),
    "blank text": ([{"kind": "text", "text": " "}], "input[0].text"),
    "text of a number": ([{"kind": "text", "text": 1}], "input[0].text"),
    "no text": ([{"kind": "text"}], "input[0].text"),
    "a text with a path": ([{"kind": "text", "text": "x", "path": "a"}], "input[0].path"),
    "a file with text": ([{"kind": "file", "path": "a", "text": "x"}], "input[0].text"),
    "a file of nothing": ([{"kind": "file"}], "input[0].path"),
    "a file of both": ([{"kind": "file", "path": "a", "data_base64": "AAAA"}], "input[0].path"),
    "a path with a NUL": ([{"kind": "file", "path": "a\0b"}], "input[0].path"),
    "a path of 4,097": ([{"kind": "file", "path": "p" * 4097}], "input[0].path"),
    "no base64": ([{"kind": "file", "data_base64": "AA A"}], "input[0].data_base64"),
    "base64 cut short": ([{"kind": "file", "data_base64": "AAA"}], "input[0].data_base64"),
    "an empty name": ([{"kind": "file", "path": "a", "name": ""}], "input[0].name"),
    "a second one that is wrong": ([{"kind": "text", "text": "x"}, {"kind": "text", "text": ""}], "input[1].text"),
    "an unknown field": ([{"kind": "text", "text": "x", "role": "system"}], "input[0].role"),
}


async def test_each_wrong_input_of_a_run_is_named(server: DaemonProcess) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            session_id = (await good_values(raw))["session_id"]
            for given, path in INPUTS.values():
                await refuse_params(raw, "run.start", {"session_id": session_id, "input": given}, path)
            await refuse_params(raw, "run.start", {"session_id": session_id}, "text")
            session = (await raw.result("session.get", session_id=session_id))["session"]
            assert (session["message_count"], session["revision"]) == (0, 1)


@pytest.mark.parametrize("client", [{}, {"name": "x"}, {"name": "", "version": "1"}, {"name": 1, "version": "1"}])
async def test_a_client_has_a_name_and_a_version(server: DaemonProcess, client: Any) -> None:
    with trio.fail_after(LIMIT):
        async with open_socket(server.folder) as raw:
            error = (await raw.ask("initialize", {"protocol": 1, "client": client}))["error"]
            assert error["code"] == -32602
            assert {f["path"] for f in error["data"]["fields"]} <= {"client.name", "client.version"}
