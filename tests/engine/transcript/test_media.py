"""What stands for an image in a piece of a request."""

from __future__ import annotations

import base64

import orjson
import pytest

from engine.transcript.media import Shown, marker, split

ONE, TWO = "1" * 64, "a" * 64


def test_a_piece_without_a_marker_is_itself() -> None:
    assert split(b'{"text":"greenroom-media:"}') == [b'{"text":"greenroom-media:"}']


def test_markers_are_found_in_json() -> None:
    piece = orjson.dumps({"a": f"data:x,{marker(ONE, 5)}", "b": marker(TWO, 70_000), "c": "end"})
    assert split(piece) == [b'{"a":"data:x,', Shown(ONE, 5), b'","b":"', Shown(TWO, 70_000), b'","c":"end"}']


@pytest.mark.parametrize("size", range(1, 8))
def test_the_length_is_that_of_the_base64(size: int) -> None:
    assert len(Shown(ONE, size)) == len(base64.b64encode(bytes(size)))
