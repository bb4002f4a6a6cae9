"""The scripts around the project: pins, the environment they are installed into, the commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from tests.e2e.terminal import Terminal
from tests.test_imports import load

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("scripts/run", "scripts/test", "scripts/check", ".ci/run")


# ------------------------------------------------------------------ pins
def mistakes(root: Path) -> list[str]:
    found: list[str] = load("pins").mistakes(root)
    return found


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    for name in ("pyproject.toml", "scripts/pins.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return tmp_path


def edit(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    path.write_text(text)


def test_the_pins_fit() -> None:
    assert mistakes(ROOT) == []


def test_a_missing_pin_is_found(copy: Path) -> None:
    edit(copy / "scripts/pins.txt", r"^outcome==.*\n", "")
    assert any("which is not pinned" in line and "outcome" in line for line in mistakes(copy))


def test_a_pin_that_nobody_needs_is_found(copy: Path) -> None:
    with open(copy / "scripts/pins.txt", "a") as file:
        file.write("requests==2.0\n")
    assert mistakes(copy) == ["requests is pinned, but nothing requires it"]


@pytest.mark.parametrize("line", ["trio>=0.35", "trio", "trio==0.*", "trio @ https://example.org/trio.whl"])
def test_only_exact_versions_are_pins(copy: Path, line: str) -> None:
    edit(copy / "scripts/pins.txt", r"^trio==.*$", line)
    assert f"pins.txt: {line!r} is not NAME==VERSION" in mistakes(copy)


def test_a_pin_outside_of_what_the_project_asks_for_is_found(copy: Path) -> None:
    edit(copy / "scripts/pins.txt", r"^trio==.*$", "trio==0.20.0")
    found = mistakes(copy)
    assert any("pyproject.toml requires trio" in line for line in found)
    assert any("is pinned to 0.20.0, but" in line and "is installed" in line for line in found)


# ------------------------------------------------------------------ the environment
@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/_venv.py over a folder of its own, with what it runs replaced by lines in `calls`."""
    module = load("_venv")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "pins.txt").write_text("trio==0.35.0\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    names = {"ROOT": ".", "VENV": ".venv", "PINS": "scripts/pins.txt", "PROJECT": "pyproject.toml"}
    for name, path in names.items():
        monkeypatch.setattr(module, name, tmp_path / path)

    def pip(*arguments: str | Path) -> None:
        with open(tmp_path / "calls", "a") as file:
            print(f"pip {arguments[0]} {'--editable' in arguments}", file=file)
        if "--editable" in arguments:
            (tmp_path / ".venv" / "bin" / "greenroom").touch()

    class Maker:
        @staticmethod
        def create(folder: Path, **options: bool) -> None:
            with open(tmp_path / "calls", "a") as file:
                print(f"venv {options['clear']}", file=file)
            (folder / "bin").mkdir(parents=True, exist_ok=True)
            for stamp in folder.glob("greenroom-*"):
                stamp.unlink()
            (folder / "bin" / "python").touch(mode=0o755)

    monkeypatch.setattr(module, "pip", pip)
    monkeypatch.setattr(module, "venv", Maker)
    return module


MADE = ["venv True", "pip install False", "pip check False"]
INSTALLED = ["pip install True"]


def calls(module: ModuleType) -> list[str]:
    """What was done since this was asked last."""
    path: Path = module.ROOT / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_the_environment_is_made_once(venv: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert venv.main() == 0
    assert calls(venv) == MADE + INSTALLED
    output = capsys.readouterr()
    assert output.out == "" and "setting up .venv" in output.err
    assert venv.main() == 0
    assert calls(venv) == []
    assert capsys.readouterr().err == ""


def test_other_pins_make_it_anew(venv: ModuleType) -> None:
    venv.main()
    calls(venv)
    venv.PINS.write_text("trio==0.35.1\n")
    venv.main()
    assert calls(venv) == MADE + INSTALLED


def test_another_project_file_installs_the_project_only(venv: ModuleType) -> None:
    venv.main()
    calls(venv)
    venv.PROJECT.write_text("[project]\nname = 'x'\n")
    venv.main()
    assert calls(venv) == INSTALLED


def test_another_interpreter_or_place_makes_it_anew(venv: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.main()
    calls(venv)
    monkeypatch.setattr(venv.sys, "executable", "/bin/sh")
    venv.main()
    assert calls(venv) == MADE + INSTALLED


@pytest.mark.parametrize("gone", ["greenroom-made", "bin/python"])
def test_half_of_it_is_repaired(venv: ModuleType, gone: str) -> None:
    venv.main()
    calls(venv)
    (venv.VENV / gone).unlink()
    assert venv.main() == 0
    assert calls(venv) == MADE + INSTALLED


def test_an_interrupted_installation_is_repeated(venv: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: str | Path) -> None:
        raise subprocess.CalledProcessError(1, ["pip"])

    with monkeypatch.context() as broken:
        broken.setattr(venv, "pip", fail)
        assert venv.main() == 1
    calls(venv)
    assert venv.main() == 0
    assert calls(venv) == MADE + INSTALLED


def test_two_at_the_same_time_make_it_once(venv: ModuleType) -> None:
    # Locks are of open files, so that threads lock each other out as processes do.
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: venv.main(), range(4))) == [0] * 4
    assert calls(venv) == MADE + INSTALLED


# ------------------------------------------------------------------ the commands
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_plain_shell_and_can_be_run(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/bin/sh\n")
    assert subprocess.run(["sh", "-n", str(path)], check=False).returncode == 0


@pytest.fixture
def greenroom(tmp_path: Path) -> Path:
    """scripts/run beside an environment that is made, whose program shows what it was called with."""
    for folder in ("scripts", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "scripts/run", tmp_path / "scripts")
    (tmp_path / "scripts/_venv.sh").write_text(f"venv={tmp_path}/.venv\n")
    program = tmp_path / ".venv/bin/greenroom"
    program.write_text('#!/bin/sh\nprintf "<%s>" "$@"; pwd; [ -t 0 ] || cat; exit 5\n')
    program.chmod(0o755)
    return tmp_path / "scripts/run"


@pytest.mark.parametrize(
    ("words", "called"),
    [
        (["search this folder for def"], "<run><--start><search this folder for def>"),
        (["--json", "a", "'b' $c"], "<run><--start><--json><a><'b' $c>"),
        ([], "<run><--start><->"),
    ],
)
def test_run_answers_once_where_it_is_called(greenroom: Path, tmp_path: Path, words: list[str], called: str) -> None:
    """Its exit code and its input are the program's."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    command = [str(greenroom), *words]
    ended = subprocess.run(command, cwd=place, input="hi\n", capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (5, "")
    assert ended.stdout == f"{called}{place}\nhi\n"


def test_run_opens_a_chat_on_a_terminal(greenroom: Path) -> None:
    terminal = Terminal([str(greenroom)], os.environ)
    assert terminal.wait() == 5
    assert terminal.seen.startswith(b"<chat><--start>")


def test_without_a_python_the_scripts_say_what_they_need(tmp_path: Path) -> None:
    """A python3 that is too old, and one that only pretends to be there, as version managers leave it."""
    for name, body in (("python3", "exit 1"), ("python3.12", "echo not installed >&2; exit 127")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    for tool in ("dirname", "sh"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    ended = subprocess.run(
        [str(ROOT / "scripts/run"), "hello"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "needs Python 3.11 or newer" in ended.stderr and "not installed" not in ended.stderr


def test_ci_runs_what_the_readme_says() -> None:
    lines = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith("#")]
    assert "scripts/test" in lines and "scripts/check" in lines
    assert "scripts/test" in (ROOT / "README.md").read_text()


def test_no_tests_at_all_is_a_failure(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_the_version_is_said_once() -> None:
    from engine.version import VERSION

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hatch = project["tool"]["hatch"]["version"]
    match = re.search(hatch["pattern"], (ROOT / hatch["path"]).read_text())
    assert match is not None and match["version"] == VERSION
    assert project["project"]["dynamic"] == ["version"]
