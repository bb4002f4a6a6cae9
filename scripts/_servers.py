"""Make or refresh the real tool servers that tests talk to: `.venv-servers` (Python) and `.servers` (node).

At once when nothing changed. Never fails: the tests that need what could not be set up are skipped and say so; with
GREENROOM_NEED_SERVERS in the environment, as in .ci/run, they fail.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-servers"
NODE = ROOT / ".servers"
PINS = ROOT / "scripts" / "pins-servers.txt"
LOCKED = [ROOT / "scripts" / "servers" / name for name in ("package.json", "package-lock.json")]
# A registry that does not answer must not hold up the tests for long.
LIMIT = 240.0


def main() -> int:
    (ROOT / ".cache").mkdir(exist_ok=True)
    with open(ROOT / ".cache" / "servers.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder, sources, make in ((PYTHON, [PINS], make_python), (NODE, LOCKED, make_node)):
            wanted = made_from(folder, sources)
            stamp = folder / "greenroom-made"
            if stamp.exists() and stamp.read_text() == wanted:
                continue
            try:
                make()
                stamp.write_text(wanted)
            except (OSError, subprocess.SubprocessError) as exc:
                said = (getattr(exc, "output", None) or b"").decode(errors="replace")[-2000:]
                print(f"greenroom: no test servers in {folder.name}: {exc}\n{said}", file=sys.stderr, flush=True)
    return 0


def make_python() -> None:
    print("greenroom: setting up Python test servers in .venv-servers; once", file=sys.stderr, flush=True)
    venv.create(PYTHON, clear=True, with_pip=True, symlinks=True)
    pip = [str(PYTHON / "bin" / "python"), "-I", "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "install", "--no-deps", "--requirement", str(PINS)])


def make_node() -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise OSError("node is not installed")
    print("greenroom: setting up node test servers in .servers; once", file=sys.stderr, flush=True)
    shutil.rmtree(NODE, ignore_errors=True)
    NODE.mkdir()
    for file in LOCKED:
        shutil.copy(file, NODE)
    run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(NODE)])


def run(command: list[str]) -> None:
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    subprocess.run(command, check=True, timeout=LIMIT, cwd=ROOT, **quiet)  # type: ignore[call-overload]


def made_from(folder: Path, sources: list[Path]) -> str:
    parts = [os.fsencode(folder), sys.version.encode()]
    with contextlib.suppress(OSError):
        parts += [file.read_bytes() for file in sources]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
