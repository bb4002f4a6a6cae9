"""No secret is left in what was redacted, whatever surrounds it."""

from __future__ import annotations

import json
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.redaction import HIDDEN, PIECE, SECRET_MIN, SECRETS_MAX, TEXT_MAX, Redactor

# A small alphabet makes secrets overlap, contain one another and repeat.
KEYS = st.text("ab/=", min_size=SECRET_MIN, max_size=12) | st.text(
    st.characters(min_codepoint=33, max_codepoint=126), min_size=SECRET_MIN, max_size=40
)


@given(st.data(), st.lists(KEYS, min_size=1, max_size=5))
def test_no_known_secret_is_left(data: st.DataObject, secrets: list[str]) -> None:
    pieces = data.draw(
        st.lists(st.sampled_from(secrets) | st.text("ab/= :&?@\"'\n", max_size=5) | st.text(), max_size=12)
    )
    redactor = Redactor()
    for secret in secrets:
        redactor.hide(secret)
    text = "".join(pieces)
    redacted = redactor.redact(text)
    assert not [secret for secret in secrets if secret in redacted]
    if not any(secret in text for secret in secrets):
        assert redacted == Redactor().redact(text)


@given(KEYS)
def test_nor_in_another_way_to_write_it(secret: str) -> None:
    redactor = Redactor()
    redactor.hide(secret)
    for written in (quote(secret), quote(secret, safe=""), json.dumps(secret), repr(secret), repr(secret.encode())):
        assert secret not in redactor.redact(written)
        assert len(redactor.redact(f"<{written}>")) <= len(HIDDEN) + 5


@given(st.text())
def test_what_has_no_secret_and_no_shape_of_one_stays(text: str) -> None:
    plain = text.replace(":", "").replace("=", "").replace("sk-", "").replace("earer", "")
    plain = plain.replace("'", "").replace('"', "")
    redactor = Redactor()
    redactor.hide("a-secret-that-is-not-there")
    assert redactor.redact(plain) == plain


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abcdef123", "abcdef123"),
        ("authorization: abc", "abc"),
        ("Proxy-Authorization: Basic dXNlcjpw", "dXNlcjpw"),
        ("{'authorization': 'Bearer abcdef123', 'accept': 'x'}", "abcdef123"),
        ('{"x-api-key":"abcdef123"}', "abcdef123"),
        ("[(b'authorization', b'Bearer abcdef123'), (b'host', b'x')]", "abcdef123"),
        ("(b'x-api-key', b'abcdef123')", "abcdef123"),
        ("X-Api-Key=abcdef123", "abcdef123"),
        ("Cookie: greenroom=abcdef123; other=zyxw98765", "abcdef123"),
        ("Cookie: greenroom=abcdef123; other=zyxw98765", "zyxw98765"),
        ("set-cookie: greenroom=abcdef123; Path=/", "abcdef123"),
        ("it said: bearer abcdef123", "abcdef123"),
        ("https://user:pass@host/path", "pass"),
        ("https://user:p@ss@host/path", "p@ss"),
        ("http://token@host", "token"),
        ("GET /?token=abc HTTP/1.1", "abc"),
        ("/x?a=1&access_token=abc&b=2", "abc"),
        ("/x?api_key=abc#top", "abc"),
        ("Incorrect key: sk-proj-0123456789abcdef", "0123456789abcdef"),
    ],
)
def test_what_has_the_shape_of_a_secret(text: str, secret: str) -> None:
    redacted = Redactor().redact(text)
    assert secret not in redacted and HIDDEN in redacted


def test_what_surrounds_a_secret_is_left() -> None:
    redacted = Redactor().redact(
        "POST https://me:pw@host:80/v1?key=k&model=m failed, Authorization: Bearer 123456789, x"
    )
    assert redacted == (f"POST https://{HIDDEN}@host:80/v1?key={HIDDEN}&model=m failed, Authorization: {HIDDEN}, x")


def test_a_short_secret_is_not_hidden() -> None:
    redactor = Redactor()
    redactor.hide("s" * (SECRET_MIN - 1))
    redactor.hide("")
    assert redactor.redact("sssssss is no secret") == "sssssss is no secret"


def test_a_long_secret_is_hidden_whole() -> None:
    secret = "".join(chr(33 + number % 90) for number in range(3 * PIECE))
    redactor = Redactor()
    redactor.hide(secret)
    assert redactor.redact(f"<{secret}>") == f"<{HIDDEN}>"


def test_only_so_many_are_known() -> None:
    redactor = Redactor()
    for number in range(SECRETS_MAX + 1):
        redactor.hide(f"secret-{number:08}")
    assert redactor.redact("secret-00000000 secret-00000001") == f"secret-00000000 {HIDDEN}"


def test_a_secret_at_the_cut_of_a_long_text_is_not_left_in_part() -> None:
    redactor = Redactor()
    redactor.hide("secret-secret")
    for shift in range(13):
        text = "x" * (TEXT_MAX - shift) + "secret-secret"
        redacted = redactor.redact(text)
        assert len(redacted) <= TEXT_MAX and set(redacted) == {"x"}


@pytest.mark.parametrize(
    "part", ["authorization", "authorization:", "bearer ", "://", "://a@", "?token=", "cookie=", " ", "'", "sk-", "a"]
)
def test_hostile_text_costs_no_more_than_its_length(part: str) -> None:
    text = (part * TEXT_MAX)[:TEXT_MAX]
    began = time.process_time()
    Redactor().redact(text)
    assert time.process_time() - began < 2  # quadratic would be minutes
