"""What can be raised through a command, as an exit code and lines for people."""

from __future__ import annotations

import errno

from actors.cli.exits import FAILED, HELD, NO_DAEMON, USAGE, Exit
from actors.client.errors import AccessDenied, ClientError, ConnectionLost, NoDaemon, RemoteError, Untrusted
from engine.config import ConfigError
from engine.errors import EngineError
from engine.storage.lock import Held


def explain(exc: BaseException) -> Exit | None:
    """None for what is a defect of the program. Of a group whose parts all can be explained, the first one."""
    match exc:
        case Exit():
            return exc
        case ExceptionGroup():
            parts = [explain(part) for part in exc.exceptions]
            return parts[0] if all(parts) else None
        case ConfigError():
            return Exit(USAGE, *(f"{path}: {text}" if path else text for path, text in exc.fields))
        case Held():
            return Exit(HELD, str(exc))
        case NoDaemon():
            return Exit(NO_DAEMON, str(exc))
        case ConnectionLost():
            return Exit(NO_DAEMON, str(exc))
        case AccessDenied() | Untrusted():
            return Exit(USAGE, str(exc))
        case RemoteError():
            return Exit(FAILED, exc.message, *(f"{path}: {text}" for path, text in exc.fields))
        case ClientError():
            return Exit(FAILED, str(exc))
        case OSError() if exc.errno == errno.ENOSPC:
            return Exit(FAILED, f"what it writes to is full: {exc.strerror}")
        case EngineError():
            return Exit(USAGE if exc.code == "disk_full" else FAILED, exc.message)
        case _:
            return None
