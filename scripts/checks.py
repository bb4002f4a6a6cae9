"""The static checks behind scripts/check: all of them, or those named on the command line. Every result is shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def tool(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


CHECKS = {
    "lint": tool("ruff", "check", "."),
    "format": tool("ruff", "format", "--check", "."),
    "types": tool("mypy"),
    "imports": [sys.executable, "scripts/import_rules.py", "."],
    "pins": [sys.executable, "scripts/pins.py"],
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        print(f"no such check: {', '.join(unknown)}; there are {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    results: dict[str, int] = {}
    for name in names or CHECKS:
        print(f"== {name}", flush=True)
        results[name] = subprocess.run(CHECKS[name], cwd=ROOT, check=False).returncode
    print("==", ", ".join(f"{name} {'failed' if code else 'ok'}" for name, code in results.items()))
    return int(any(results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
