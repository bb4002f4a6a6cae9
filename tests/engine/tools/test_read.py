"""Pages of a text file: exact counts, bounds, and memory that does not depend on the file."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from engine import codec
from engine.errors import CallerError
from engine.limits import MIB, Limits
from engine.tools.read import BLOCK_BYTES, READ_FILE, ReadFile, read_file
from engine.tools.spec import Media, ToolResult

SMALL = Limits(tool_result_bytes=1256, tool_result_lines=11)  # 1,000 bytes and 10 lines beside the note


def read(folder: Path, path: str = "file", limits: Limits = SMALL, **asked: int) -> ToolResult:
    return read_file(str(folder), ReadFile(path=path, **asked), lambda: None, limits)


def write(folder: Path, content: str | bytes) -> None:
    (folder / "file").write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("one", "one"),
        ("one\n", "one"),
        ("one\n\ntwo\n", "one\n\ntwo"),
        ("\n", ""),
        ("a\r\nb\r\n", "a\r\nb\r"),
        (b"caf\xe9 \xf0\x9f", "caf\ufffd \ufffd"),
        ("é🎈\n", "é🎈"),
    ],
)
def test_a_small_file_is_shown_as_it_is(tmp_path: Path, content: str | bytes, text: str) -> None:
    write(tmp_path, content)
    assert read(tmp_path) == ToolResult(text=text, title="file")


def test_lines_at_the_bound_and_one_past(tmp_path: Path) -> None:
    write(tmp_path, "x\n" * 10)
    assert read(tmp_path).text == "x\n" * 9 + "x"
    write(tmp_path, "x\n" * 11)
    assert read(tmp_path).text == "x\n" * 10 + "[lines 1 to 10 of 11; read on with offset 11]"


def test_bytes_at_the_bound_and_one_past(tmp_path: Path) -> None:
    write(tmp_path, "é" * 249 + "a\n" + "b" * 499 + "\n")
    assert read(tmp_path).text == "é" * 249 + "a\n" + "b" * 499
    write(tmp_path, "é" * 249 + "a\n" + "b" * 501 + "\nc")
    assert read(tmp_path).text == "é" * 249 + "a\n[lines 1 to 1 of 3; read on with offset 2]"


def test_reading_on_gives_every_line_once(tmp_path: Path) -> None:
    lines = [f"{number} " + "x" * (number % 300) for number in range(1, 2000)]
    write(tmp_path, "\n".join(lines))
    got: list[str] = []
    offset = 1
    while offset <= len(lines):
        shown = read(tmp_path, offset=offset).text.split("\n")
        note = shown.pop()
        got += shown
        assert note.startswith(f"[lines {offset:,} to {len(got):,} of 1,999")
        assert note.endswith(f"read on with offset {len(got) + 1}]") is (len(got) < 1999)
        offset = len(got) + 1
    assert got == lines


def test_offset_and_limit(tmp_path: Path) -> None:
    write(tmp_path, "1\n2\n3\n4\n5\n")
    assert read(tmp_path, offset=2, limit=2).text == "2\n3\n[lines 2 to 3 of 5; read on with offset 4]"
    assert read(tmp_path, offset=4).text == "4\n5\n[lines 4 to 5 of 5]"
    assert read(tmp_path, limit=5).text == "1\n2\n3\n4\n5"
    assert read(tmp_path, offset=6) == ToolResult(
        text="'file' has 5 lines: there is no line 6.", title="file", is_error=True
    )


def test_lines_on_both_sides_of_a_block(tmp_path: Path) -> None:
    first = "a" * (BLOCK_BYTES - 3)
    write(tmp_path, f"{first}\nbé\nlast")
    assert read(tmp_path, offset=2).text == "bé\nlast\n[lines 2 to 3 of 3]"
    write(tmp_path, "a" * (BLOCK_BYTES - 1) + "\nnext")
    assert read(tmp_path, offset=2).text == "next\n[lines 2 to 2 of 2]"


def test_empty_and_binary(tmp_path: Path) -> None:
    write(tmp_path, "")
    assert read(tmp_path) == ToolResult(text="'file' is empty.", title="file")
    write(tmp_path, b"PNG\0\1\2")
    assert read(tmp_path) == ToolResult(
        text="'file' is a binary file of 6 bytes; only text can be read.", is_error=True
    )
    write(tmp_path, b"a" * 8192 + b"\0")
    assert not read(tmp_path).is_error


def test_a_long_first_line_is_cut_with_an_exact_count(tmp_path: Path) -> None:
    write(tmp_path, "é" * 5000 + "\nnext\n")
    text = read(tmp_path).text
    assert text == "é" * 500 + "\n[9,000 more bytes of line 1 are cut; lines 1 to 1 of 2; read on with offset 2]"
    write(tmp_path, b"\xff" * 5000)
    text = read(tmp_path).text
    assert text == "\ufffd" * 333 + "\n[4,667 more bytes of line 1 are cut]"
    write(tmp_path, "first\n" + "🎈" * 5000)
    assert read(tmp_path).text == "first\n[lines 1 to 1 of 2; read on with offset 2]"
    assert read(tmp_path, offset=2).text.startswith("🎈" * 250 + "\n[19,000 more bytes of line 2")


def test_the_total_of_a_huge_file_is_left_open(tmp_path: Path) -> None:
    limits = Limits(tool_result_bytes=1256, tool_result_lines=11, file_tool_bytes=100_000)
    write(tmp_path, "x\n" * 1_000_000)
    text = read(tmp_path, limits=limits).text
    assert text.startswith("x\n" * 10 + "[lines 1 to 10 of more than ")
    assert text.endswith("; read on with offset 11]")


def test_memory_does_not_depend_on_the_file(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        for _ in range(50):
            file.write(b"x" * MIB)
    tracemalloc.start()
    try:
        result = read(tmp_path, limits=Limits())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MIB
    assert f"[{50 * MIB - 50 * 1024 + 256:,} more bytes of line 1 are cut]" in result.text
    assert len(result.text) <= 50 * 1024


def test_a_cancelled_call_ends_within_a_block(tmp_path: Path) -> None:
    write(tmp_path, "x" * (4 * BLOCK_BYTES))
    calls = 0

    def checkpoint() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyError("cancelled")

    with pytest.raises(KeyError, match="cancelled"):
        read_file(str(tmp_path), ReadFile(path="file"), checkpoint)
    assert calls == 2


def test_outside(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="leads out"):
        read(tmp_path, "../file")


def test_the_schema_is_what_is_accepted() -> None:
    schema = codec.parse(READ_FILE.input_schema)
    assert schema["required"] == ["path"] and set(schema["properties"]) == {"path", "offset", "limit"}
    with pytest.raises(codec.DecodeError) as caught:
        codec.decode({"path": 3, "offset": 0, "lines": 2}, ReadFile)
    assert sorted(caught.value.fields) == [
        ("lines", "is not a known field"),
        ("offset", "expected 1 or more"),
        ("path", "expected a string, not an integer"),
    ]


# ------------------------------------------------------------------ images
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@pytest.mark.parametrize(
    ("head", "mime"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "image/jpeg"),
        (b"GIF89a\x01\0\x01\0", "image/gif"),
        (b"GIF87a\x01\0\x01\0", "image/gif"),
        (b"RIFF\x1a\0\0\0WEBPVP8L", "image/webp"),
    ],
)
def test_an_image_is_given_as_it_is(tmp_path: Path, head: bytes, mime: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(head)
    result = read(tmp_path, "sub/a.png")
    assert result.media == (Media(mime=mime, name="a.png", data=head),)
    assert result.text == f"'sub/a.png' is an image: {mime}, {len(head)} bytes."
    assert not result.is_error


@pytest.mark.parametrize("content", [b"RIFF\x1a\0\0\0WAVEfmt ", b"\0PNG", b"BM\0\0", b"x" + PNG])
def test_other_binary_files_are_no_images(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, content)
    result = read(tmp_path)
    assert result.is_error and result.media == ()


def test_a_text_that_begins_like_an_image(tmp_path: Path) -> None:
    write(tmp_path, "GIF89a is a format\n")
    assert read(tmp_path) == ToolResult(text="GIF89a is a format", title="file")


def test_an_image_at_the_bound_and_one_byte_past(tmp_path: Path) -> None:
    whole = PNG + b"\0" * (64 * 1024 - len(PNG))
    write(tmp_path, whole)
    (media,) = read(tmp_path, limits=Limits()).media
    assert media.data == whole
    write(tmp_path, whole + b"\0")
    result = read(tmp_path, limits=Limits())
    assert result == ToolResult(
        text="'file' is an image: image/png, 65,537 bytes. It is not shown: the bound is 65,536.", title="file"
    )
