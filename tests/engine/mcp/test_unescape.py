from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.mcp.unescape import Base64, NotBase64, Unescape


def unescaped(raw: bytes, step: int | None = None) -> str:
    unescape = Unescape()
    step = step or max(1, len(raw))
    pieces = [unescape.feed(raw[begin : begin + step]) for begin in range(0, len(raw), step)]
    return b"".join([*pieces, unescape.finish()]).decode()  # strictly: what comes out is UTF-8


@settings(deadline=None)
@given(
    st.text(st.sampled_from('ab"\\\n\t\u0001é漢😀u0dD8\ud83d\ude00/'), max_size=80), st.integers(1, 30), st.booleans()
)
def test_any_text_comes_back_however_it_is_cut(text: str, step: int, ascii_only: bool) -> None:
    text = text if ascii_only else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    raw = json.dumps(text, ensure_ascii=ascii_only)[1:-1].encode()
    assert unescaped(raw, step) == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@pytest.mark.parametrize("step", range(1, 14))
def test_pairs_and_their_halves(step: int) -> None:
    # What json makes of it, each half that is left alone replaced.
    for raw, text in {
        r"\ud83d\ude00": "😀",
        r"\uD83D\uDE00x": "😀x",
        r"\ud83d": "\ufffd",
        r"\ud83dx": "\ufffdx",
        r"\ude00\ud83d": "\ufffd\ufffd",
        r"\ud83d\ud83d\ude00": "\ufffd😀",
        r"\ud83d\n": "\ufffd\n",
        r"\ud83d\u0041": "\ufffdA",
        r"\\ud83d\ude00": "\\ud83d\ufffd",
        r"\\\ud83d\ude00\\": "\\😀\\",
        r"\ud83d\\ude00": "\ufffd\\ude00",
    }.items():
        assert unescaped(raw.encode(), step) == text


@pytest.mark.parametrize("step", range(1, 8))
def test_long_runs_of_backslashes_keep_their_parity(step: int) -> None:
    for count in range(1, 40):
        assert unescaped(b"\\\\" * count + b"n", step) == "\\" * count + "n"
        assert unescaped(b"\\\\" * count + b"\\n", step) == "\\" * count + "\n"


def test_nothing_of_a_pair_leaves_before_it_is_whole() -> None:
    unescape = Unescape()
    assert unescape.feed(b"a\\ud83d") == b"a"
    assert unescape.feed(b"\\u") == b""
    assert unescape.feed(b"de0") == b""
    assert unescape.feed(b"0b") == "😀b".encode()
    assert unescape.finish() == b""


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_what_is_no_json_becomes_a_mark_of_that(step: int) -> None:
    assert unescaped(rb"a\xb", step) == "a\ufffdb"
    assert unescaped(b"a\\", step) == "a\ufffd"
    assert unescaped(rb"\u00", step).startswith("\ufffd")
    assert unescaped(rb"\uzzzz\n", step).endswith("\n")
    assert unescaped(b"\xff\\n\xc3", step) == "\ufffd\n\ufffd"
    assert unescaped(b"tab\there\\n", step) == "tab\there\n"  # a control character that ought to be escaped


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(1, 9), st.booleans(), st.booleans())
def test_any_bytes_come_back_from_base64(data: bytes, step: int, padded: bool, lines: bool) -> None:
    text = base64.encodebytes(data) if lines else base64.b64encode(data)
    text = text if padded else text.rstrip(b"=\n")
    decoder = Base64()
    found = b"".join(decoder.feed(text[begin : begin + step]) for begin in range(0, len(text), step))
    assert found + decoder.finish() == data


@pytest.mark.parametrize("text", [b"a", b"ab*d", b"abcde", b"ab==abcd", b"====", b"ab=c", b"a===", b"abc=d"])
@pytest.mark.parametrize("step", [1, 2, 4, 8])
def test_what_is_no_base64_is_refused(text: bytes, step: int) -> None:
    decoder = Base64()
    with pytest.raises(NotBase64):
        for begin in range(0, len(text), step):
            decoder.feed(text[begin : begin + step])
        decoder.finish()
