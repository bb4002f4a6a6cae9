"""Messages of a tool server from their lines."""

from __future__ import annotations

from typing import Any

import pytest

from engine.mcp.reading import NoMessage, parse_json, read_message, refusal_of
from engine.mcp.scanner import Rejected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"ping"}', {"id": 7, "method": "ping"}),
        (b'{"jsonrpc":"2.0","id":"a","method":"x","params":{},"z":2}', {"id": "a", "method": "x", "params": {}}),
        (b'{"jsonrpc":"2.0","method":"n","params":null}', {"method": "n"}),
        (b'{"result":{"a":[]},"id":0,"jsonrpc":"2.0"}', {"id": 0, "result": {"a": []}}),
        (
            b'{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}',
            {"id": None, "error": {"code": 1, "message": ""}},
        ),
    ],
)
def test_each_kind_of_message(line: bytes, message: dict[str, Any]) -> None:
    assert read_message(line) == message


@pytest.mark.parametrize(
    ("rest", "code", "message"),
    [
        ('"result":"text"', -32000, "the answer has neither a result nor an error as it should be"),
        ('"error":"text"', -32000, "text"),
        ('"error":{"code":"1","message":"m"}', -32000, "m"),
        ('"error":{"code":1}', 1, "the answer has neither a result nor an error as it should be"),
        ('"error":{"code":1,"message":"m","data":[2]}', 1, "m"),
    ],
)
def test_what_is_answered_otherwise_is_an_error(rest: str, code: int, message: str) -> None:
    found = read_message(f'{{"jsonrpc":"2.0","id":1,{rest}}}'.encode())
    assert (found["id"], found["error"]["code"], found["error"]["message"]) == (1, code, message)


@pytest.mark.parametrize(
    "line",
    [
        b"", b"x", b"{", b"[]", b"null", b'"text"', b"{}", b'{"jsonrpc":"2.0"}',
        b'{"jsonrpc":"1.0","id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":true,"result":{}}', b'{"jsonrpc":"2.0","id":1.5,"result":{}}',
        b'{"jsonrpc":"2.0","id":[],"result":{}}', b'{"jsonrpc":"2.0","id":null,"result":{}}',
        b'{"jsonrpc":"2.0","id":null,"method":"x"}', b'{"jsonrpc":"2.0","method":7}',
        b'{"jsonrpc":"2.0","id":1,"method":"x","params":[]}', b'{"jsonrpc":"2.0","result":{}}',
        b'{"jsonrpc":"2.0","id":1}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_none(line: bytes) -> None:
    with pytest.raises(NoMessage):
        read_message(line)


def test_json_that_is_not_quite_any() -> None:
    assert parse_json(b'["\\ud83d", "\xff"]') == ["\ud83d", "\ufffd"]
    assert parse_json(b"[NaN, 1e999]")[1] == float("inf")


@pytest.mark.parametrize(
    ("head", "number"),
    [
        (b'{"jsonrpc":"2.0","id":7,"result":{"content":[[[[', 7),
        (b' { "jsonrpc" : "2.0" , "id" : "a b" , "result"', "a b"),
        (b'{"id":12,"result":', 12),
        (b'{"jsonrpc":"2.0","id":7,"method":"x",', None),
        (b'{"jsonrpc":"2.0","method":"x"', None),
        (b'{"jsonrpc":"2.0","id":7', None),
        (b'{"result":{"id":7,', None),
        (b"garbage", None),
        (b"", None),
    ],
)
def test_an_answer_that_broke_a_bound_is_an_error(head: bytes, number: Any) -> None:
    refusal = refusal_of(Rejected("is too long", head))
    if number is None:
        assert refusal is None
    else:
        assert refusal == {"id": number, "error": {"code": -32000, "message": "the answer is too long"}}
