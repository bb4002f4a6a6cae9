from __future__ import annotations

import attrs

from engine.limits import Limits
from engine.tools.output_pages import ReadOutput, page, piece_bytes

LIMITS = attrs.evolve(Limits(), tool_result_bytes=2048, tool_result_lines=10)


def read_on(whole: str) -> list[str]:
    """The results of reading the output from its begin to its end, as the store would give it."""
    data, offset, results = whole.encode(), 0, []
    while True:
        end = min(offset + piece_bytes(LIMITS), len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        piece = data[offset:end].decode()
        result = page(ReadOutput(handle="h", offset=offset), piece, end if end < len(data) else None, len(data), LIMITS)
        assert not result.is_error
        assert len(result.text.encode()) <= 2048
        assert len(result.text.splitlines()) <= 10
        results.append(result.text)
        if "read on with offset" not in result.text:
            return results
        offset = int(result.text.rpartition(" ")[2].removesuffix("]"))


def test_every_byte_is_shown_once() -> None:
    for whole in ("line é漢\n" * 500, "x" * 10_000, "\n" * 55, "a\n" * 9, "😀" * 3000):
        results = read_on(whole)
        shown = ""
        for result in results:
            text, _, note = result.rpartition("\n")
            if not note.startswith("[bytes "):
                text = result
            elif len(results) > 1 and not whole[len(shown) :].startswith(text + "\n"):
                pass
            else:
                text += "\n"
            shown += text
        assert shown == whole


def test_a_whole_output_has_no_note() -> None:
    assert page(ReadOutput(handle="h"), "all of it\n", None, 10, LIMITS).text == "all of it\n"


def test_beyond_the_end() -> None:
    result = page(ReadOutput(handle="h", offset=99), "", None, 10, LIMITS)
    assert result.is_error and result.text == "The output has 10 bytes: there is no byte 99."
    assert page(ReadOutput(handle="h"), "", None, 0, LIMITS).text == "The output is empty."
