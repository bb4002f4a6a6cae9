"""What can go wrong between a client and a daemon, by what the caller can do about it."""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """Base of all that a client raises on purpose."""


class NoDaemon(ClientError):
    """Nobody serves there: start a daemon."""


class AccessDenied(ClientError):
    """A daemon serves there and refuses this client (HTTP status): the token or the address is wrong."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the daemon refuses the connection (HTTP {status}): is the token that of this daemon?")
        self.status = status


class Untrusted(ClientError):
    """A daemon serves there with a certificate that nobody who is trusted has signed for its address."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"the certificate of {url} is not trusted: {why} (SSL_CERT_FILE names who to trust)")


class ConnectionLost(ClientError):
    """The connection ended while something was waited for. Whether a request was carried out is not known; a daemon
    that goes away on purpose closes with `code` 1001."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"the connection to the daemon was lost ({code}{f', {reason}' if reason else ''})")
        self.code = code


class RemoteError(ClientError):
    """The daemon's error reply. `code` is the contract's (`unknown_run`, `session_busy`, …), or the JSON-RPC number as
    text for malformed requests; `data` has what the code's meaning mentions."""

    def __init__(self, error: dict[str, Any]) -> None:
        data = error.get("data")
        self.data: dict[str, Any] = data if isinstance(data, dict) else {}
        self.number: int = error["code"]
        self.code: str = str(self.data.get("code", self.number))
        self.message: str = error["message"]
        super().__init__(f"{self.message} [{self.code}]")

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The mistakes of a request's parameters as (path, message)."""
        listed = self.data.get("fields", [])
        return [(field["path"], field["message"]) for field in listed]
