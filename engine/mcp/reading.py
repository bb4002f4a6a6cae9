"""A message of a tool server from its line: JSON as servers write it, and which of the protocol's kinds it is."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import orjson

from engine.codec import Json
from engine.mcp.scanner import Rejected

# An answer's own id stands before its result, as every server writes it.
_ANSWERED: Final = re.compile(rb'\A\s*\{(?:\s*"jsonrpc"\s*:\s*"2\.0"\s*,)?\s*"id"\s*:\s*(\d{1,18}|"[^"\\]{1,100}")\s*,')
_FAILED: Final = -32000  # the first of JSON-RPC's codes for what an implementation finds


class NoMessage(ValueError):
    """The line is not of the protocol; the text says why, without repeating it."""


def parse_json(data: bytes) -> Json:
    """The value; also with half a surrogate pair, a number beyond 64 bits or bytes that are not UTF-8 in it, for which
    no answer is given up. Raises NoMessage."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            return json.loads(data.decode(errors="replace"))
        except (ValueError, RecursionError):
            raise NoMessage("is not JSON") from None


def read_message(data: bytes) -> dict[str, Any]:
    """A request (`id`, `method`, `params`?), a notification (`method`, `params`?), an answer (`id`, `result`) or an
    error (`id`, `error` with `code` and `message`), and nothing else in it. An answer that is neither is an error.
    Raises NoMessage."""
    value = parse_json(data)
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        raise NoMessage("is not one of JSON-RPC 2.0")
    kept: dict[str, Any] = {}
    if "id" in value:
        number = kept["id"] = value["id"]
        nameless = number is None and "error" in value
        if not nameless and (isinstance(number, bool) or not isinstance(number, int | str)):
            raise NoMessage("has an id that none may have")
    if "method" in value:
        params = value.get("params")
        if not isinstance(value["method"], str) or not isinstance(params, dict | None):
            raise NoMessage("has a method or parameters that cannot be")
        return kept | {"method": value["method"]} | ({} if params is None else {"params": params})
    if "id" not in value:
        raise NoMessage("is no request, no answer and no notification")
    if isinstance(value.get("result"), dict):
        return kept | {"result": value["result"]}
    if "result" not in value and "error" not in value:
        raise NoMessage("is an answer without a result and without an error")
    # Whatever it is, it is the answer: nobody is to wait for another.
    error = value.get("error")
    told = error if isinstance(error, dict) else {"message": error}
    message = told.get("message")
    if not isinstance(message, str):
        message = "the answer has neither a result nor an error as it should be"
    code = told["code"] if type(told.get("code")) is int else _FAILED
    return kept | {"error": {"code": code, "message": message}}


def refusal_of(rejected: Rejected) -> dict[str, Any] | None:
    """What stands for an answer that broke a bound or cannot be read: an error, so that nobody waits for it; None if it
    was none, as far as its beginning tells."""
    found = _ANSWERED.match(rejected.head)
    if found is None or b'"method"' in rejected.head:
        return None
    return {"id": orjson.loads(found[1]), "error": {"code": _FAILED, "message": f"the answer {rejected.reason}"}}
