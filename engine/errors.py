"""Errors by whose fault they are, each with a stable wire code.

The tree has three branches, because the one who reads a failure first asks whose it is:

- CallerError: the request (or configuration) is wrong or cannot be granted now. Nothing was changed.
- PeerError: something that we use failed us: a model, a tool, a disk. A later attempt may succeed.
- OwnError: a defect of greenroom. Its text is logged; the wire shows a reference only.

Codes are part of the wire contract (engine/wire/PROTOCOL.md): they never change their meaning. An error is
translated to a reply in one place, engine.wire.frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# Code -> what it says to the reader of a reply. The documents' table is held against this one by a test.
CALLER_CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "not_initialized": "`initialize` has to come first on a connection",
        "unsupported_protocol": "the daemon does not speak the version asked for; `supported` lists those it does",
        "unknown_session": "no session has this id",
        "unknown_run": "no run has this id",
        "unknown_watch": "this connection has no watch with this id",
        "unknown_message": "the session has no message with this id",
        "unknown_model": "no model of this name is configured",
        "unknown_toolset": "no toolset of this name is configured",
        "unknown_approval": "no approval is pending for this run and call",
        "unknown_output": "the handle is not of a stored output",
        "invalid_path": "a path does not exist, is not of the kind needed, or leads out of its folder",
        "session_busy": "the session has an active run; `run_id` names it",
        "queue_full": "the session's queue of waiting messages is at its bound",
        "stale_revision": "the session changed since `expected_revision`; `revision` is the present one",
        "idempotency_conflict": "the idempotency key was used before with another payload",
        "already_resolved": "the approval has been answered; `decision` and `by` say how",
        "overloaded": "the daemon is at a bound; try again after `retry_after_ms`",
        "payload_too_large": "a value is over its bound; `limit` names it in bytes or characters",
        "draining": "the daemon is shutting down and takes no new work",
    }
)
PEER_CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "disk_full": "the data directory cannot be written; nothing was changed",
        "provider_error": "the model's service refused or broke its answer",
        "provider_timeout": "the model's service made no progress in time",
        "context_overflow": "the conversation does not fit the model's window",
        "max_turns": "the run reached its bound of turns",
        "deadline": "the run reached its bound of time",
        "tool_error": "a tool failed; the text says how",
    }
)
OWN_CODES: Final[Mapping[str, str]] = MappingProxyType(
    {"internal": "a defect of the daemon; `ref` finds it in the log"}
)


class EngineError(Exception):
    """Base of all errors that greenroom raises on purpose.

    `code` is one of the branch's codes, `message` one sentence for a person that names what was wrong and
    where, `data` extra JSON values for programs (the names that the code's meaning mentions).
    """

    codes: Mapping[str, str] = MappingProxyType({**CALLER_CODES, **PEER_CODES, **OWN_CODES})

    def __init__(self, code: str, message: str, /, **data: object) -> None:
        assert code in self.codes, f"{code!r} is no code of {type(self).__name__}"
        super().__init__(code, message, data)
        self.code = code
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"


class CallerError(EngineError):
    """The request is wrong or cannot be granted now; nothing was changed."""

    codes = CALLER_CODES


class PeerError(EngineError):
    """A model, a tool or the disk failed us. `retry` tells if the same call may succeed later."""

    codes = PEER_CODES

    def __init__(self, code: str, message: str, /, *, retry: bool = False, **data: object) -> None:
        super().__init__(code, message, **data)
        self.retry = retry


class OwnError(EngineError):
    """A defect of greenroom."""

    codes = OWN_CODES
