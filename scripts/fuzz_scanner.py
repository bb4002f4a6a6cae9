"""Fuzz of the line scanner: random JSON-RPC lines, cut at random places, come back exactly.

    python scripts/fuzz_scanner.py [--cases N] [--seed N] [--json] [--quick]

A case is one line: a message of random values (strings around the bound, escapes of every kind, halves of surrogate
pairs), encoded in one of several ways, or one that has to be rejected. Some lines make a stream, which is cut at
random places. What is expected is known from the values, by the json module: never by the scanner.

Exit code 1 with the seed of the stream if one differs. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
from pathlib import Path
from typing import Any

import attrs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.limits import Limits
from engine.mcp.scanner import Cuts, Event, LineScanner, Piece, Rejected
from engine.mcp.unescape import Unescape

QUICK_CASES = 30_000
CASES = 1_000_000
LINES_OF_STREAM = 20
STREAMS_AT_ONCE = 50
# Small bounds: their edges are met all the time.
STRING_BYTES = 48
LIMITS = attrs.evolve(
    Limits(), tool_memory_bytes=STRING_BYTES, mcp_line_bytes=4000, mcp_line_strings=6, mcp_line_depth=12
)
ALPHABETS = (
    "abc ", '"\\', "\\", "\n\r\t\b\f\x00\x1f/", "é漢ß", "😀𝄞👩", "\ud83d\ude00", "\ude00", "\ud83d", "u0041\\n{}[],:",
)  # fmt: skip
GARBAGE = (b"Server listening on port 3000", b'"just a string', b"\xff\xfe\x00", b"\\\\\\", b"]]]}}}", b"INFO: {")


@attrs.frozen
class Case:
    line: bytes
    value: Any = None  # what it means; of a line that is rejected nothing
    rejected: bool = False
    cuts: int = 0


def whole(text: str) -> str:
    """The text with each pair of halves joined and each lone half replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def clean(value: Any) -> Any:
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    return value


def random_text(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        length = rng.randrange(12)
    elif kind < 0.8:
        length = STRING_BYTES + rng.randrange(-3, 4)
    else:
        length = rng.randrange(6 * STRING_BYTES)
    if rng.random() < 0.4:
        return rng.choice("aé\n") * length
    letters = "".join(rng.choices(ALPHABETS, k=3))
    return "".join(rng.choices(letters, k=length))


def random_value(rng: random.Random, depth: int) -> Any:
    kind = rng.random()
    if depth == 0 or kind < 0.6:
        return random_text(rng) if kind < 0.5 else rng.choice((None, True, -1.5e10, 12345, ""))
    if kind < 0.8:
        return [random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {f'k{number}\\"': random_value(rng, depth - 1) for number in range(rng.randrange(4))}


def all_escaped(text: str) -> str:
    units = text.encode("utf-16-be", "surrogatepass")
    return '"' + "".join(f"\\u{units[i]:02X}{units[i + 1]:02x}" for i in range(0, len(units), 2)) + '"'


def encode(value: Any, style: int) -> str:
    if style == 0:
        return json.dumps(value)
    if style == 1:  # halves of pairs have no other form than escapes
        return json.dumps(clean(value), ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, str):
        return all_escaped(value)
    if isinstance(value, list):
        return "[" + " , ".join(encode(item, style) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)} :\t{encode(item, style)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings(item)]
    return []


def random_case(rng: random.Random) -> Case:
    kind = rng.random()
    if kind < 0.05:
        return Case(rng.choice((b"", b"  ", b"\t")))
    if kind < 0.1:
        return Case(rng.choice(GARBAGE) + rng.choice((b"", b"x" * rng.randrange(200))), rejected=True)
    message = {"jsonrpc": "2.0", "id": rng.randrange(1000), "result": random_value(rng, 3)}
    if kind < 0.12:  # a name that is too long
        message["n" * (STRING_BYTES + 1)] = 1
        return Case(json.dumps(message).encode(), rejected=True)
    if kind < 0.14:  # too deep
        for _ in range(LIMITS.mcp_line_depth):
            message = [message]  # type: ignore[assignment]
        return Case(json.dumps(message).encode(), rejected=True)
    style = rng.randrange(3)
    line = encode(message, style).encode()
    if kind < 0.16:  # a string without its end
        return Case(line[:-1] + b',"' + b"x" * (STRING_BYTES + 1), rejected=True)
    value = clean(message)
    long = [
        text
        for text in strings(value if style == 1 else message)
        if len(encode(text, style).encode()) - 2 > STRING_BYTES
    ]
    rest = len(line) - sum(len(encode(text, style).encode()) for text in long)
    if rest > LIMITS.mcp_line_bytes // 2 - len(long) * 64 or len(long) > LIMITS.mcp_line_strings:
        return random_case(rng)  # its fate depends on more than its value
    return Case(line, value, cuts=len(long))


def put_back(value: Any, cuts: Cuts, texts: list[str]) -> Any:
    if isinstance(value, str):
        index = cuts.find(value)
        return whole(value) if index is None else texts[index]
    if isinstance(value, list):
        return [put_back(item, cuts, texts) for item in value]
    if isinstance(value, dict):
        return {key: put_back(item, cuts, texts) for key, item in value.items()}
    return value


def scan(data: bytes, rng: random.Random) -> list[Event]:
    """The events of the stream, cut into random pieces."""
    scanner = LineScanner(LIMITS)
    most = rng.choice((1, 9, 30, 100, 300, 1000, len(data)))
    events: list[Event] = []
    position = 0
    while position < len(data):
        size = rng.randint(1, max(1, most))
        events += scanner.feed(data[position : position + size])
        position += size
    return events + scanner.finish()


def difference(cases: list[Case], events: list[Event]) -> str | None:
    """What is not as it should be."""
    expected = iter([case for case in cases if case.rejected or case.value is not None])
    texts: list[str] = []
    unescape, parts, current = Unescape(), [], -1

    def end_text() -> None:
        nonlocal current
        if current >= 0:
            texts.append((b"".join([*parts, unescape.finish()])).decode())
            parts.clear()
        current = -1

    for event in events:
        if isinstance(event, Piece):
            if event.index != current:
                end_text()
                current = event.index
                if current != len(texts):
                    return f"piece of cut {current} after {len(texts)} cuts"
            parts.append(unescape.feed(event.data))
            continue
        end_text()
        case = next(expected, None)
        if case is None:
            return f"nothing more was sent, but {event!r} came"
        if isinstance(event, Rejected):
            if not case.rejected:
                return f"{event!r} for {case.line!r}"
        elif case.rejected:
            return f"{event!r} for {case.line!r}"
        else:
            value = put_back(json.loads(event.data), event.cuts, texts)
            if value != case.value or len(event.cuts.sizes) != case.cuts:
                return f"{event!r} with {texts!r} for {case.line!r}"
        texts = []
    missing = next(expected, None)
    return f"nothing came for {missing.line!r}" if missing else None


def stream(seed: int) -> tuple[list[Case], str | None]:
    rng = random.Random(seed)
    cases = [random_case(rng) for _ in range(LINES_OF_STREAM)]
    data = b"".join(case.line + rng.choice((b"\n", b"\r\n")) for case in cases)
    if rng.random() < 0.2:
        cases.append(Case(b'{"half', rejected=True))
        data += cases[-1].line
    return cases, difference(cases, scan(data, rng))


@attrs.frozen
class Found:
    """What one stream, or several, came to."""

    cases: int = 0
    cuts: int = 0
    rejected: int = 0
    seed: int = 0
    wrong: str | None = None


def found(seed: int) -> Found:
    cases, wrong = stream(seed)
    cuts, rejected = sum(case.cuts for case in cases), sum(case.rejected for case in cases)
    return Found(len(cases), cuts, rejected, seed, wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_CASES:,} cases instead of {CASES:,}")
    asked = parser.parse_args()
    wanted = asked.cases or (QUICK_CASES if asked.quick else CASES)
    seeds = range(asked.seed, asked.seed + -(-wanted // LINES_OF_STREAM))
    begin = time.perf_counter()
    done, cut, refused, failed = 0, 0, 0, None
    with multiprocessing.Pool() as pool:  # the streams are the same, and in the same order, on any number of cores
        for one in pool.imap(found, seeds, chunksize=STREAMS_AT_ONCE):
            done += one.cases
            cut += one.cuts
            refused += one.rejected
            failed = one if one.wrong is not None else None
            if failed is not None:
                break
    took = time.perf_counter() - begin
    if failed is not None:
        print(f"seed {failed.seed}: {failed.wrong}", file=sys.stderr)
    elif not asked.json:
        print(f"{done:,} lines with {cut:,} cuts and {refused:,} rejected in {took:.1f} s: {done / took:,.0f} a second")
    result = {"cases": done, "cuts": cut, "rejected": refused, "cases_per_s": round(done / took), "ok": failed is None}
    print(json.dumps({**result, "failed_seed": failed.seed if failed is not None else None}))
    return int(failed is not None)


if __name__ == "__main__":
    sys.exit(main())
