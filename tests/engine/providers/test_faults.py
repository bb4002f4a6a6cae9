from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import PeerError
from engine.providers.faults import MESSAGE_MAX, error_from_status, error_of_object, printable, retry_after, shown

URL = "http://127.0.0.1:1/v1/chat/completions"


def fault(
    status: int, body: Any = b"", headers: dict[str, str] | None = None, key: str | None = "the file k"
) -> PeerError:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return error_from_status(status, headers or {}, data, model="m-1", url=URL, key_source=key)


@pytest.mark.parametrize(
    ("status", "retry"),
    [(400, False), (401, False), (403, False), (404, False), (408, True), (409, True), (422, False), (429, True),
     (500, True), (502, True), (503, True), (529, True), (307, False)],
)  # fmt: skip
def test_which_statuses_are_worth_another_attempt(status: int, retry: bool) -> None:
    error = fault(status, {"error": {"message": "because"}})
    assert error.code == "provider_error"
    assert error.retry is retry
    assert error.data == {"status": status}
    assert f"answered {status}: because" in error.message


def test_a_refused_key_says_where_it_came_from() -> None:
    assert fault(401, key="the environment variable MY_KEY").message.endswith(
        "check the key: the environment variable MY_KEY"
    )
    assert "no key is configured" in fault(403, key=None).message


def test_not_found_names_the_model_and_the_url() -> None:
    message = fault(404, {"error": "nope"}).message
    assert "'m-1'" in message
    assert URL in message


def test_a_spent_account_is_not_tried_again() -> None:
    body = {
        "error": {
            "message": "You exceeded your current quota",
            "type": "insufficient_quota",
            "code": "insufficient_quota",
        }
    }
    assert fault(429, body).retry is False


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "…", "code": "context_length_exceeded"}),
        (400, {"message": "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens"}),
        (400, {"message": "the request exceeds the available context size, try increasing it"}),
        (400, {"message": "prompt is too long: 210000 tokens > 200000 maximum"}),
        (400, {"message": "Please reduce the length of the messages or completion."}),
        (413, {"message": "Request too large"}),
        (413, "Payload refused"),
        (422, {"message": "Input is too long for requested model."}),
    ],
)
def test_a_conversation_that_does_not_fit(status: int, error: Any) -> None:
    assert fault(status, {"error": error}).code == "context_overflow"
    assert fault(status, {"error": error}).retry is False


@pytest.mark.parametrize(
    "error",
    [
        {"message": "Request too large for m-1 on tokens per min (TPM)", "code": "rate_limit_exceeded"},
        {"message": "Rate limit reached: the request is too large", "code": 429},
    ],
)
def test_a_rate_limit_is_not_an_overflow(error: Any) -> None:
    found = error_of_object({"error": error})
    assert (found.code, found.retry) == ("provider_error", True)


@pytest.mark.parametrize(
    ("error", "retry"),
    [
        ({"message": "Overloaded", "type": "overloaded_error"}, True),
        ({"message": "x", "type": "server_error"}, True),
        ({"message": "x", "code": 502}, True),
        ({"message": "x", "code": "503"}, True),
        ({"message": "Provider returned error", "code": 400}, False),
        ({"message": "bad tool", "type": "invalid_request_error"}, False),
        ("The server had an internal error", True),
        ({"unknown": "shape"}, False),
        ([], False),
        (None, False),
    ],
)
def test_errors_inside_an_answer(error: Any, retry: bool) -> None:
    found = error_of_object({"error": error})
    assert found.code == "provider_error"
    assert found.retry is retry


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:29:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "٣"}, None),
        ({}, None),
    ],
)
def test_the_pause_that_a_service_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds
    assert fault(429, b"", headers).data.get("retry_after") == seconds


def test_a_page_is_called_a_page() -> None:
    assert "answered 502: a web page" in fault(502, b"<html><h1>Bad gateway</h1></html>").message
    assert fault(502, b"<html>").retry is True


def test_words_are_cut_and_cannot_move_a_terminal() -> None:
    message = fault(500, {"error": {"message": "\x1b]0;title\x07\n" + "long " * 10_000}}).message
    assert len(message) < MESSAGE_MAX + 200
    assert message.isprintable()
    assert printable("a\n\tb\x1b[0m", 20) == "a b [0m"
    assert printable("abcdef", 4) == "abc…"
    assert shown(b"\xff\xfe ok") == r"“\xff\xfe ok”"
    assert shown(b"") == "nothing"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["error", "message", "code", "type", "status", "detail"]), inner, max_size=4
    ),
)  # fmt: skip


@given(
    st.integers(100, 599),
    JSON | st.binary(max_size=50),
    st.dictionaries(st.sampled_from(["retry-after", "date"]), st.text()),
)
def test_any_error_answer_has_words(status: int, body: Any, headers: dict[str, str]) -> None:
    error = fault(status, body, headers)
    assert error.code in ("provider_error", "context_overflow")
    assert error.message.isprintable()
