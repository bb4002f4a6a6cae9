"""Make or refresh .venv from scripts/pins.txt; at once when nothing changed. Runs under any Python >= 3.11.

Two stamps in .venv say what it was made from: `made` (pins, interpreter, place) and `installed` (pyproject.toml).
A stamp is written when its step is complete, so that whatever was interrupted is done again from its beginning. A
lock lets one process work while others wait; the kernel frees it with its holder, however that ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PINS = ROOT / "scripts" / "pins.txt"
PROJECT = ROOT / "pyproject.toml"


def main() -> int:
    if is_made() and is_installed():
        return 0
    (ROOT / ".cache").mkdir(exist_ok=True)
    with open(ROOT / ".cache" / "venv.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is setting up .venv: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if not is_made():
                make()
            if not is_installed():
                install()
        except subprocess.CalledProcessError as exc:
            say(f"setting up .venv failed: {' '.join(map(str, exc.cmd))}")
            return 1
    return 0


def make() -> None:
    say(f"setting up .venv from pinned versions (Python {sys.version.split()[0]}); once, about half a minute")
    venv.create(VENV, clear=True, with_pip=True, symlinks=True)
    # --no-deps: the list is complete, and nothing that is not on it comes in.
    pip("install", "--no-deps", "--requirement", PINS)
    pip("check")
    write_stamp("made", made_from())


def install() -> None:
    say("installing greenroom into .venv")
    pip("install", "--no-deps", "--no-build-isolation", "--editable", ROOT)
    write_stamp("installed", digest(PROJECT.read_bytes()))


def is_made() -> bool:
    return read_stamp("made") == made_from() and os.access(VENV / "bin" / "python", os.X_OK)


def is_installed() -> bool:
    return read_stamp("installed") == digest(PROJECT.read_bytes()) and (VENV / "bin" / "greenroom").exists()


def made_from() -> str:
    """A virtual environment belongs to an interpreter and does not survive being moved."""
    interpreter = f"{os.path.realpath(sys.executable)} {sys.version}"
    return digest(b"\0".join((PINS.read_bytes(), interpreter.encode(), os.fsencode(VENV))))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_stamp(name: str) -> str:
    try:
        return (VENV / f"greenroom-{name}").read_text()
    except OSError:
        return ""


def write_stamp(name: str, text: str) -> None:
    temporary = VENV / f".greenroom-{name}"
    temporary.write_text(text)
    temporary.replace(VENV / f"greenroom-{name}")


def pip(*arguments: str | Path) -> None:
    """Quiet when it works; on failure, what pip said."""
    command = [str(VENV / "bin" / "python"), "-I", "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        sys.stderr.buffer.write(done.stdout)
        raise subprocess.CalledProcessError(done.returncode, command)


def say(text: str) -> None:
    print(f"greenroom: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
