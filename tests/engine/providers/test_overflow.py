from __future__ import annotations

from typing import Any

import orjson
import pytest

from engine.limits import DEFAULT
from engine.providers.anthropic_answer import AnthropicDecoder
from engine.providers.faults import error_from_status, error_of_object
from engine.providers.openai_answer import OpenAIDecoder
from tests.overflows import NO_IMAGES, OTHERS, WORDINGS

NAMES = [one[0] for one in WORDINGS]
URL = "http://127.0.0.1:1/v1"


def body_of(error: Any) -> bytes:
    return error.encode() if isinstance(error, str) else orjson.dumps(error)


@pytest.mark.parametrize(
    ("status", "error", "kind", "window"), [one[1:] for one in WORDINGS], ids=[w[0] for w in WORDINGS]
)
def test_each_known_wording_is_an_overflow(status: int, error: Any, kind: str, window: int | None) -> None:
    found = error_from_status(status, {}, body_of(error), model="m", url=URL)
    assert (found.code, found.retry) == ("context_overflow", False)
    assert found.data["overflow"] == kind
    assert found.data.get("window_tokens") == window
    assert found.data["status"] == status


@pytest.mark.parametrize(
    ("error", "kind", "window"),
    [(one[2], one[3], one[4]) for one in WORDINGS if isinstance(one[2], dict)],
    ids=[one[0] for one in WORDINGS if isinstance(one[2], dict)],
)
def test_and_inside_a_stream(error: Any, kind: str, window: int | None) -> None:
    """With status 200, as services do that found out too late, or always."""
    decoder = OpenAIDecoder(DEFAULT)
    decoder.feed(b"data: " + orjson.dumps(error if "error" in error else {"error": error}) + b"\n\n")
    assert decoder.error is not None and decoder.error.code == "context_overflow"
    assert (decoder.error.data["overflow"], decoder.error.data.get("window_tokens")) == (kind, window)


@pytest.mark.parametrize("name", [one[0] for one in WORDINGS if one[0].startswith("Anthropic")])
def test_and_inside_a_stream_of_messages(name: str) -> None:
    _, _, error, kind, window = next(one for one in WORDINGS if one[0] == name)
    decoder = AnthropicDecoder(DEFAULT)
    decoder.feed(b"event: error\ndata: " + orjson.dumps(error) + b"\n\n")
    assert decoder.error is not None and decoder.error.code == "context_overflow"
    assert (decoder.error.data["overflow"], decoder.error.data.get("window_tokens")) == (kind, window)


@pytest.mark.parametrize(("status", "error"), OTHERS)
def test_what_sounds_alike_is_none(status: int, error: Any) -> None:
    assert error_from_status(status, {}, body_of(error), model="m", url=URL).code == "provider_error"


@pytest.mark.parametrize(("status", "error"), [one[1:] for one in NO_IMAGES], ids=[one[0] for one in NO_IMAGES])
def test_images_that_a_service_does_not_take(status: int, error: Any) -> None:
    found = error_from_status(status, {}, body_of(error), model="m", url=URL)
    assert (found.code, found.retry, found.data.get("images")) == ("provider_error", False, True)


@pytest.mark.parametrize(("status", "error"), OTHERS)
def test_what_is_not_about_images(status: int, error: Any) -> None:
    assert "images" not in error_from_status(status, {}, body_of(error), model="m", url=URL).data


@pytest.mark.parametrize("number", ["1", "0", "255", "999999999999", "100000001", "-5"])
def test_a_window_that_makes_no_sense_is_not_believed(number: str) -> None:
    found = error_of_object(
        {"message": f"maximum context length is {number} tokens: reduce the length of the messages"}
    )
    assert found.code == "context_overflow" and "window_tokens" not in found.data


def test_the_bounds_of_a_window_that_is_believed() -> None:
    for number in (256, 100_000_000):
        found = error_of_object({"message": f"This model's maximum context length is {number} tokens."})
        assert found.data["window_tokens"] == number
    assert error_of_object({"message": "x", "type": "exceed_context_size_error", "n_ctx": True}).data == {
        "overflow": "tokens"
    }


def test_a_hostile_text_costs_little() -> None:
    """Patterns with gaps meet a text that nearly fits them, many times over; it is cut before it is searched."""
    text = "request too large for " + "image exceed input token count prompt length of tokens + request body " * 60
    assert error_of_object({"message": text}).code in ("provider_error", "context_overflow")
