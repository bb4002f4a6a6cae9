"""What a model's service did wrong, in words for a person and with a code for the run.

Services agree on little: errors come with a status or inside a stream with status 200, as an object, a string or a
page. All of it is hostile text, so it is cut, stripped of control characters, and never trusted for more than the
choice between `provider_error` and `context_overflow` and whether trying again makes sense.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

from engine.errors import PeerError
from engine.providers import overflow

# Characters of a service's own words that are shown: enough for its longest sentence.
MESSAGE_MAX: Final = 500
# Bytes of an unexpected body that are shown: enough to recognise a page.
SHOWN_MAX: Final = 120
# Statuses after which the same call may succeed: timeouts, conflicts, rate limits, and all of the 500s.
_RETRY_STATUSES: Final = frozenset({408, 409, 425, 429})
_RETRY_WORDS: Final = re.compile(
    r"overloaded|rate.?limit|too.?many.?requests|server.?error|internal.?error|unavailable|time.?out|try again", re.I
)
# A spent account answers like a rate limit, but waiting does not help.
_FINAL_WORDS: Final = re.compile(r"insufficient.?quota|billing|credit balance", re.I)


def printable(text: str, most: int = MESSAGE_MAX) -> str:
    """One line of `text`: what a terminal would act on becomes a space, and at most `most` characters stay."""
    head = text[: 2 * most]
    clean = " ".join("".join(c if c.isprintable() else " " for c in head).split())
    return clean if len(clean) <= most and len(head) == len(text) else clean[: most - 1] + "…"


def shown(data: bytes, most: int = SHOWN_MAX) -> str:
    """The begin of unexpected bytes, quoted: text as it is, bytes that are no UTF-8 as \\xNN."""
    head = bytes(data[: most + 1]).decode("utf-8", "backslashreplace")
    return f"“{printable(head, most)}”" if data else "nothing"


def error_of_object(error: Any, *, status: int | None = None, where: str = "reported an error") -> PeerError:
    """The error that a service put into its answer: a JSON value of whatever shape."""
    message, kinds = _words(error)
    text = printable(message) or "it gave no reason"
    number = next((kind for kind in kinds if isinstance(kind, int)), status)
    names = " ".join(kind for kind in kinds if isinstance(kind, str))
    limited = number == 429 or re.search(r"rate.?limit", names, re.I) is not None
    too_large = overflow.find(message, names, number, limited=limited, told=_field(error, "n_ctx"))
    if too_large is not None:
        return PeerError(
            "context_overflow", f"the conversation does not fit the model's window: {text}", **too_large.data()
        )
    if not limited and overflow.refuses_images(message, number):
        return PeerError("provider_error", f"the model's service {where}: {text}", images=True)
    final = _FINAL_WORDS.search(f"{names} {message}") is not None
    by_number = number is not None and (number >= 500 or number in _RETRY_STATUSES)
    retry = not final and (by_number or (number is None and _RETRY_WORDS.search(f"{names} {message}") is not None))
    return PeerError("provider_error", f"the model's service {where}: {text}", retry=retry)


def error_from_status(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    model: str,
    url: str,
    key_source: str | None = None,
) -> PeerError:
    """The error of an answer whose status is not 200. `headers` have lower-case names; `body` is its begin.

    `data` has `status`, of an overflow what there was too much of (engine.providers.overflow), and `retry_after`
    (seconds, a float) if the service asked for a pause. `key_source` says where the key was looked for ("the
    environment variable X"); the key itself is never known here.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = None
    where = f"at {url} answered {status}"
    if value is None:
        value = "a web page" if _is_page(body) else body[: 8 * MESSAGE_MAX].decode("utf-8", "backslashreplace")
    found = error_of_object(value, status=status, where=where)
    message = found.message
    if status in (401, 403):
        place = key_source or "no key is configured (api_key_env or api_key_file)"
        message = f"{message}; check the key: {place}"
    elif status == 404 and found.code == "provider_error":
        message = f"{message}; check that it serves the model {printable(model, 100)!r} and that base_url is right"
    elif 300 <= status < 400:
        message = f"{message}; redirects are not followed, check base_url"
    data: dict[str, object] = {"status": status}
    pause = retry_after(headers)
    if pause is not None:
        data["retry_after"] = pause
    return PeerError(found.code, message, retry=found.retry, **found.data, **data)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a service asks to wait; a date is taken relative to the answer's own `date`. None if it is
    absent or makes no sense."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text, re.ASCII):
            return float(text) * unit
    try:
        there = parsedate_to_datetime(headers["retry-after"])
        here = parsedate_to_datetime(headers["date"])
        return max(0.0, (there - here).total_seconds())
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def not_an_answer(head: bytes) -> PeerError:
    """The error of a body that is neither events nor JSON. `head` is its begin."""
    what = "a web page" if _is_page(head) else "what is no answer"
    return PeerError("provider_error", f"the model's service sent {what}: {shown(head)}; check base_url")


def _is_page(body: bytes) -> bool:
    return body.lstrip()[:1] == b"<"


def _words(error: Any) -> tuple[str, list[str | int]]:
    """The message of an error in any shape, and its kinds: types and codes."""
    kinds: list[str | int] = []
    for _ in range(4):  # {"error": {"error": …}}: no service nests deeper
        if isinstance(error, dict):
            for key in ("type", "code", "status", "status_code"):
                kind = error.get(key)
                if isinstance(kind, str):
                    kinds.append(int(kind) if re.fullmatch(r"\d{3}", kind, re.ASCII) else kind[:MESSAGE_MAX])
                elif type(kind) is int:
                    kinds.append(kind)
            inner = error.get("error") or error.get("message") or error.get("detail")
            if inner is None:
                return _dumped(error)[:MESSAGE_MAX] if error else "", kinds
            error = inner
        elif isinstance(error, list) and error:
            error = error[0]
        else:
            break
    text = error if isinstance(error, str) else _dumped(error)
    return text[: 8 * MESSAGE_MAX], kinds


def _field(error: Any, name: str) -> object:
    """A field of the error or of the object inside it."""
    inner = error.get("error") if isinstance(error, dict) else None
    for value in (error, inner):
        if isinstance(value, dict) and name in value:
            return value[name]
    return None


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value)
    except RecursionError:  # a reader takes more levels than a writer
        return "an error nested too deeply to be shown"
