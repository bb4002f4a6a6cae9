"""The README's examples run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.wire import daemon

ROOT = Path(__file__).parents[1]


def run_example(number: int, **environment: str) -> subprocess.CompletedProcess[str]:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(examples) == 2
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", examples[number]],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_engine_inside_a_program() -> None:
    ended = run_example(0)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "1 2 3 completed\n"


def test_a_client_of_a_daemon(tmp_path: Path) -> None:
    with daemon(tmp_path / "data"):
        ended = run_example(1, GREENROOM_DATA=str(tmp_path / "data"))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "1 2 3 completed\n"
