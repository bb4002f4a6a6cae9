"""Where greenroom keeps things: folders of the platform, the token, and daemon.json.

All of it is small and read or written a few times in a daemon's life, so the calls are synchronous. The data
directory and every file in it are for their owner only (0700, 0600).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import tempfile
from pathlib import Path
from typing import Final

import attrs

from engine import codec
from engine.errors import PeerError

DATA_VARIABLE: Final = "GREENROOM_DATA"
CONFIG_NAME: Final = "greenroom.toml"
_TOKEN_BYTES: Final = 32  # 256 bits, as secrets recommends
# What can stand in a header behind `Bearer`; a longer one would not fit a request's head.
_TOKEN: Final = re.compile(r"[!-~]{0,4096}", re.ASCII)
_SMALL: Final = 16 * 1024  # no file here is larger; a larger one is not ours


@attrs.frozen(slots=True, kw_only=True)
class DaemonFile:
    """`daemon.json`: how to reach the daemon of a data directory. For a Unix socket `url` is `unix:PATH`."""

    url: str
    ws_url: str
    pid: int
    token_file: str


def data_dir(given: str | Path | None = None) -> Path:
    """The data directory: given, else $GREENROOM_DATA, else the platform's state folder. Absolute; not created."""
    chosen = given or os.environ.get(DATA_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    state = os.environ.get("XDG_STATE_HOME")
    base = Path(state) if state and os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "greenroom"


def config_file() -> Path:
    """The configuration file in the platform's configuration folder; it need not exist."""
    config = os.environ.get("XDG_CONFIG_HOME")
    base = Path(config) if config and os.path.isabs(config) else Path.home() / ".config"
    return base / "greenroom" / CONFIG_NAME


def make_private(folder: Path) -> None:
    """Make the folder (0700) with its parents. Raises PeerError disk_full if it cannot be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, probe = tempfile.mkstemp(dir=folder, prefix=".probe-")
        os.close(handle)
        os.unlink(probe)
    except OSError as exc:
        raise PeerError("disk_full", f"the data directory {folder} cannot be written: {exc.strerror or exc}") from exc


def write_private(path: Path, text: str) -> None:
    """Replace the file atomically (mode 0600)."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def token_file(folder: Path) -> Path:
    return folder / "token"


def ensure_token(folder: Path) -> str:
    """The data directory's bearer token, made at first use. Raises OSError."""
    path = token_file(folder)
    try:
        token = read_token(path)
    except FileNotFoundError:
        token = ""
    if not token:
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        write_private(path, token + "\n")
    os.chmod(path, 0o600)
    return token


def read_token(path: Path) -> str:
    """The token in a data directory's token file, empty if that is. Raises OSError, also if it holds something else."""
    with contextlib.suppress(UnicodeDecodeError):
        token = _read_small(path).strip()
        if _TOKEN.fullmatch(token):
            return token
    raise OSError(errno.EINVAL, "no token is in this file: remove it, and the next start makes one", str(path))


def write_daemon_file(folder: Path, daemon: DaemonFile) -> None:
    write_private(folder / "daemon.json", json.dumps(codec.plain(daemon)) + "\n")


def read_daemon_file(folder: Path) -> DaemonFile | None:
    """None if there is none, or if it is damaged: both mean that no daemon can be found through it."""
    try:
        return codec.load(_read_small(folder / "daemon.json").encode(), DaemonFile)
    except (OSError, ValueError, codec.DecodeError):
        return None


def remove_daemon_file(folder: Path, pid: int) -> None:
    """Remove daemon.json if it is this process's own."""
    daemon = read_daemon_file(folder)
    if daemon is not None and daemon.pid == pid:
        (folder / "daemon.json").unlink(missing_ok=True)


def _read_small(path: Path) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read(_SMALL)
