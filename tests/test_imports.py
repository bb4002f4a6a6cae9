"""The rules of imports hold, and what would break them is found."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import actors
import actors.client
import engine

ROOT = Path(__file__).resolve().parent.parent


def load(name: str) -> ModuleType:
    """A module of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


import_rules = load("import_rules")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tree that the checks look at, to be spoilt."""
    for folder in ("engine", "actors", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def plant(root: Path, file: str, statement: str, *, inside: bool) -> int:
    """Write the import at the end of the file, as its own line or inside a function; the number of its line."""
    path = root / file
    text = path.read_text()
    planted = f"\n\ndef planted() -> object:\n    {statement}\n    return None\n" if inside else f"\n\n\n{statement}\n"
    path.write_text(text + planted)
    return text.count("\n") + 4


def test_this_tree_keeps_the_rules() -> None:
    assert import_rules.check(ROOT) == []


def test_the_public_names() -> None:
    assert sorted(actors.__all__) == ["Engine", "RunHandle", "SessionHandle", "open_engine"]
    assert all(getattr(actors, name).__module__ == "actors.api" for name in actors.__all__)
    assert not hasattr(engine, "__all__")  # rules are imported from where they are
    assert sorted(actors.client.__all__) == [
        "AccessDenied",
        "Client",
        "ClientError",
        "ConnectionLost",
        "NoDaemon",
        "Push",
        "RemoteError",
        "StartedRun",
        "Untrusted",
        "Watch",
        "connect",
    ]


PLANTED = [
    ("engine/ids.py", "import trio", "engine must not import trio"),
    ("engine/codec.py", "from trio import Event", "engine must not import trio"),
    ("engine/runs/log.py", "import actors._actor", "engine must not import actors"),
    ("engine/limits.py", "import time", "engine must not import time"),
    ("engine/runs/record.py", "from datetime import datetime", "engine must not import datetime"),
    ("engine/tools/search.py", "import subprocess", "engine must not import subprocess"),
    ("engine/wire/frames.py", "import socket", "engine must not import socket"),
    ("engine/providers/sse.py", "import threading", "engine must not import threading"),
    ("engine/config.py", "import sqlite3", "engine imports sqlite3 in engine.storage only"),
    ("engine/config.py", "from pathlib import Path", "engine imports pathlib in engine.storage, engine.tools only"),
    ("engine/transcript/records.py", "from engine.wire import frames", "not below it in ENGINE_ORDER"),
    ("engine/errors.py", "from ..engine import codec", "not below it in ENGINE_ORDER"),
    ("engine/ids.py", "import importlib; importlib.import_module('trio')", "engine must not import trio"),
    ("engine/ids.py", "__import__('trio.socket')", "engine must not import trio.socket"),
    ("actors/_actor.py", "from actors.registry import Registry", "actors._actor must not import actors.registry"),
    ("actors/store.py", "import actors.session", "actors.store must not import actors.session"),
    ("actors/store.py", "from . import session", "actors.store must not import actors.session"),
    ("actors/toolsets/files.py", "from ..cli import main", "must not import actors.cli"),
    ("actors/run.py", "import importlib; importlib.import_module('actors.gateway')", "must not import actors.gateway"),
    ("actors/run.py", "from actors import open_engine", "not from the package"),
    ("actors/run.py", "from actors import store", "not from the package"),
    ("actors/run.py", "from actors import session", "actors.run must not import actors.session"),
    ("actors/client/link.py", "import h11", "h11 is imported in actors.gateway, "),
    ("actors/registry.py", "from trio_websocket import open_websocket", "trio_websocket is imported in"),
    ("actors/api.py", "import asyncio", "asyncio is imported in actors.terminal only"),
]


@pytest.mark.parametrize("inside", [False, True], ids=["at the top", "inside a function"])
def test_planted_imports_are_found(copy: Path, inside: bool) -> None:
    wanted = {f"{file}:{plant(copy, file, statement, inside=inside)}": message for file, statement, message in PLANTED}
    found: dict[str, str] = {}
    for line in import_rules.check(copy):
        place, _, message = line.partition(": ")
        found[place] = found.get(place, "") + message
    assert found.keys() == wanted.keys()
    assert [place for place, message in wanted.items() if message not in found[place]] == []


def test_expensive_libraries_are_imported_inside_functions(copy: Path) -> None:
    plant(copy, "actors/_http.py", "import httpx2", inside=True)
    assert import_rules.check(copy) == []
    plant(copy, "actors/_http.py", "import httpx2", inside=False)
    (line,) = import_rules.check(copy)
    assert "httpx2 is imported inside functions only" in line


def test_the_screens_of_the_terminal_are_imported_inside_functions(copy: Path) -> None:
    plant(copy, "actors/terminal/ui/app.py", "import textual", inside=False)
    plant(copy, "actors/cli/chat.py", "from actors.terminal.ui import app", inside=True)
    assert import_rules.check(copy) == []
    plant(copy, "actors/terminal/conversation.py", "import textual", inside=False)
    plant(copy, "actors/cli/chat.py", "from actors.terminal.ui import app", inside=False)
    lines = import_rules.check(copy)
    assert len(lines) == 2
    assert "textual is imported inside functions only" in lines[1]
    assert "actors.terminal.ui is imported inside functions only" in lines[0]


def test_types_alone_may_come_from_an_expensive_library(copy: Path) -> None:
    path = copy / "actors" / "_http.py"
    path.write_text(path.read_text() + "\n\nif TYPE_CHECKING:\n    import httpcore2\n")
    assert import_rules.check(copy) == []


def test_rules_of_the_wire_do_not_touch_the_disk(copy: Path) -> None:
    planted = [
        ("_planted = os.path.exists('/')", "os.path.exists touches the system"),
        ("_planted = os.listdir('/')", "os.listdir touches the system"),
        ("_planted = open('/etc/hosts')", "open() touches the disk"),
        ("from os import listdir", "write `import os`"),
    ]
    for statement, _ in planted:
        plant(copy, "engine/wire/bounds.py", statement, inside=True)
    lines = import_rules.check(copy)
    assert len(lines) == len(planted)
    assert all(wanted in line for line, (_, wanted) in zip(lines, planted, strict=True))


def test_a_new_module_has_to_be_placed(copy: Path) -> None:
    (copy / "actors" / "novelty.py").write_text("")
    (copy / "engine" / "novelty.py").write_text("from engine import ids\n")
    found = import_rules.check(copy)
    assert [line.split(":")[0] for line in found] == ["engine/novelty.py", "actors/novelty.py"]
    assert all("has no place" in line for line in found)


def test_a_folder_without_the_packages_is_no_success(tmp_path: Path) -> None:
    assert import_rules.check(tmp_path) == [f"{tmp_path}: no engine and no actors here"]


def checks(root: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """scripts/check in a copy, by this interpreter instead of an environment of the copy's own."""
    command = [sys.executable, "scripts/checks.py", *names]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_the_check_script_turns_red(copy: Path) -> None:
    green = checks(copy, "lint", "imports")
    assert green.returncode == 0, green.stdout + green.stderr
    assert "lint ok, imports ok" in green.stdout

    plant(copy, "engine/ids.py", "import trio", inside=False)
    plant(copy, "engine/codec.py", "import trio", inside=True)
    plant(copy, "actors/_actor.py", "from actors.registry import Registry", inside=False)
    plant(copy, "actors/store.py", "from actors.session import Session", inside=True)
    red = checks(copy, "lint", "imports")
    assert red.returncode == 1 and "lint failed, imports failed" in red.stdout
    _, lint, imports = red.stdout.split("== ")[:3]
    assert lint.startswith("lint") and imports.startswith("imports")
    for found in (lint, imports):
        assert "trio" in found and "engine/ids.py" in found and "engine/codec.py" in found
    assert "actors/_actor.py" in imports and "must not import actors.registry" in imports
    assert "actors/store.py" in imports and "must not import actors.session" in imports


def test_a_check_that_does_not_exist_is_an_error() -> None:
    assert checks(ROOT, "lnt").returncode == 2
