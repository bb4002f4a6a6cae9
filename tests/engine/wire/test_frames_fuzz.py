"""100,000 seeded frames at the codec: each is a request, a notification or malformed, never another exception."""

from __future__ import annotations

import json
import random
from collections import Counter

from engine.wire.frames import Malformed, Notification, Request, decode, encode_error
from engine.wire.methods import METHODS, InvalidParams, UnknownMethod
from engine.wire.methods import decode as decode_params

CASES = 100_000
SEED = 7

VALID = [
    {"client": {"name": "fuzz", "version": "1"}, "protocol": 1},
    {},
    {"title": "t", "model": "demo", "cwd": "/", "toolsets": ["files"], "metadata": {"a": [1, {"b": None}]}},
    {"session_id": "ses_1", "text": "hello 🎉", "watch": True, "idempotency_key": "k"},
    {"session_id": "ses_1", "input": [{"kind": "text", "text": "x"}, {"kind": "file", "path": "a.txt"}]},
    {"session_id": "ses_1", "after": {"run_1": 3}},
    {"run_id": "run_1", "after": 0},
    {"handle": "out_prt_1_text", "offset": 0, "limit": 65536},
    {"session_id": "ses_1", "limit": 50, "cursor": "c"},
]
HOSTILE = [
    b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud83d", b"\\u0000", b'"', b"'", b"[", b"{", b"]", b"}", b",", b":",
    b"null", b"true", b"NaN", b"-", b"1e999", b"-0.0", b"9" * 400, b"1" * 19, b'"id":[],', b'"id":1,"id":2,',
    b'"params":{"params":{}},', b'"jsonrpc":"2.0",', b"\xf0\x9f\x8e", b"\n", b" " * 50, b"\\", b"/*",
]  # fmt: skip


VALUES = [
    None, True, -1, 0, 1.5, 2**62, 2**64, 1e308, "", " ", "x" * 300, "a\nb", "\x00", "ses_1", [], {}, [1], ["a", "a"],
    {"a": 1}, [{"kind": "text"}], [[[[]]]], ["x"] * 70, {"k": {"k": {}}}, "queue", "é" * 200,
]  # fmt: skip
NAMES = sorted({name for params in VALID for name in params} | {"when_busy", "x", "", "expected_revision", "active"})


def frames(rng: random.Random) -> list[bytes]:
    """The valid frames that mutation starts from: every method with every set of parameters."""
    return [
        json.dumps({"jsonrpc": "2.0", "id": rng.choice([1, "a", -5, "é"]), "method": name, "params": params}).encode()
        for name in METHODS
        for params in VALID
    ] + [b'{"jsonrpc":"2.0","method":"ping"}', b'{"jsonrpc":"2.0","method":"run.stop","params":{"run_id":"run_1"}}'] * 4


def restructured(rng: random.Random) -> bytes:
    """A frame that is JSON, with other values or names in its parameters or around them."""
    params: dict[str, object] = dict(rng.choice(VALID))
    for _ in range(rng.randrange(1, 4)):
        params[rng.choice(NAMES)] = rng.choice(VALUES)
    frame: dict[str, object] = {"jsonrpc": "2.0", "id": 1, "method": rng.choice([*METHODS]), "params": params}
    if rng.random() < 0.2:
        frame[rng.choice([*frame, "extra"])] = rng.choice(VALUES)
    if rng.random() < 0.1:
        del frame[rng.choice([*frame])]
    return json.dumps(frame).encode()


def mutated(rng: random.Random, valid: list[bytes]) -> bytes:
    kind = rng.random()
    if kind < 0.04:
        return rng.randbytes(rng.randrange(64))
    if kind < 0.06:
        depth = rng.choice([3, 200, 900, 1100, 3000])
        opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
        inner = opening * depth + b"1" + (closing * depth if rng.random() < 0.8 else b"")
        return b'{"jsonrpc":"2.0","id":1,"method":"session.create","params":{"metadata":%b}}' % inner
    if kind < 0.4:
        return restructured(rng)
    frame = rng.choice(valid)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 5))):
        at = rng.randrange(len(frame))
        until = at + rng.choice((0, 0, 1, 2, 9))
        piece = rng.choice(HOSTILE) if rng.random() < 0.7 else frame[at : at + rng.randrange(20)]
        frame = frame[:at] + piece + frame[until:]
    return frame


def test_every_frame_gets_one_of_three_answers() -> None:
    rng = random.Random(SEED)
    valid = frames(rng)
    seen: Counter[str] = Counter()
    for _ in range(CASES):
        data = mutated(rng, valid)
        found = decode(data.decode("utf-8", "surrogateescape") if rng.random() < 0.5 else data)
        seen[type(found).__name__] += 1
        match found:
            case Request(request_id, method, params):
                assert type(request_id) in (str, int)
                try:
                    decode_params(method, params)
                    seen["decoded"] += 1
                except (InvalidParams, UnknownMethod) as exc:
                    seen[type(exc).__name__] += 1
                    if seen[type(exc).__name__] % 50 == 0:
                        assert json.loads(encode_error(request_id, exc))["error"]["code"] in (-32601, -32602)
            case Malformed(reply, why):
                assert why and len(reply) < 20_000
                if seen["Malformed"] % 50 == 0:
                    assert json.loads(reply)["error"]["code"] in (-32700, -32600)
            case Notification(method):
                assert method
    # The fuzzer reaches every way out, the good ones included.
    for way in ("Request", "Malformed", "Notification", "decoded", "InvalidParams", "UnknownMethod"):
        assert seen[way] > CASES // 1000, (way, seen)
