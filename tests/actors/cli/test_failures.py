"""Exceptions to exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.cli.exits import Exit
from actors.cli.failures import explain
from actors.client import AccessDenied, ConnectionLost, NoDaemon, RemoteError
from engine.config import ConfigError
from engine.errors import CallerError, OwnError, PeerError
from engine.storage.lock import Held

INVALID = {"code": -32602, "message": "the parameters do not fit", "data": {"fields": [{"path": "a", "message": "b"}]}}


@pytest.mark.parametrize(
    ("exc", "code", "lines"),
    [
        (Exit(5, "x"), 5, ("x",)),
        (ConfigError([("a.b", "is wrong"), ("", "is not TOML")]), 2, ("a.b: is wrong", "is not TOML")),
        (
            PeerError("disk_full", "the data directory /x cannot be written"),
            2,
            ("the data directory /x cannot be written",),
        ),
        (Held(Path("/d"), 7), 4, ("the data directory /d is held by another daemon (pid 7)",)),
        (NoDaemon("none"), 3, ("none",)),
        (ConnectionLost(1001, "shutdown"), 3, ("the connection to the daemon was lost (1001, shutdown)",)),
        (AccessDenied(401), 2, ("the daemon refuses the connection (HTTP 401): is the token that of this daemon?",)),
        (RemoteError({"code": -32000, "message": "no", "data": {"code": "unknown_run"}}), 1, ("no",)),
        (RemoteError(INVALID), 1, ("the parameters do not fit", "a: b")),
        (CallerError("unknown_model", "no model is named x"), 1, ("no model is named x",)),
        (ExceptionGroup("", [ExceptionGroup("", [NoDaemon("none")])]), 3, ("none",)),
    ],
)
def test_what_is_known_has_a_code_and_words(exc: Exception, code: int, lines: tuple[str, ...]) -> None:
    known = explain(exc)
    assert known is not None and (known.code, known.lines) == (code, lines)


@pytest.mark.parametrize("exc", [KeyError("x"), ExceptionGroup("", [NoDaemon("none"), KeyError("x")])])
def test_a_defect_is_not_explained_away(exc: Exception) -> None:
    assert explain(exc) is None


def test_an_error_of_our_own_is_a_failure() -> None:
    known = explain(OwnError("internal", "broken"))
    assert known is not None and known.code == 1
