"""The reader of shell commands against real shells: what they run, it has found.

Random scripts run in a folder of their own, where `rm` and others only leave a note that they were run. A script in
which `rm` was run has to be denied by a rule on `rm`; one that is allowed may run what was allowed, and write nothing.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from engine.tools.permissions import Judge

SCRIPTS = 400
SEED = 20_261_121
JUDGE = Judge(
    deny=["shell(command=rm *)"],
    allow=["shell(command=ls *)", "shell(command=cat *)", "shell(command=date *)", "shell(command=echo *)"],
)

WORDS = [
    "ls",
    "cat",
    "date",
    "a",
    "-l",
    "x",
    "'a b'",
    '"a"',
    "r\\m",
    "~",
    "2",
    "*",
    "{a,b}",
    "\\;",
    "\\#",
    "''",
    '"$x"',
    "$x",
    "$(C)",
    "`C`",
    '"$(C)"',
    "<(C)",
    "$((1+1))",
    "${x}",
    "#a",
    "a#",
    "\\\n",
    "$'a'",
    "{}",
    "[",
    "]",
    "=",
    "a=b",
    "!",
    "'",
    '"',
    "\\",
    "-c",
    "E",
    "case",
    "in",
]
DOCUMENTS = ["a\n", "'\n", "$(C)\n", "`\n", "\\\n", '"\n', ")\n", "\tE\n", "E \n"]
SPLICES = [
    "'",
    '"',
    "\\",
    "`",
    "$(",
    ")",
    "(",
    "\n",
    "\\\n",
    "#",
    " ",
    "<<E\n",
    "$",
    ";",
    "{",
    "}",
    "&",
    ">",
    "<",
    "E\n",
    "!",
    "((",
    "[[",
]


class Scripts:
    """Scripts as people write them, some with a character too many or too few."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def one(self) -> str:
        script = self._script(0)
        chance = self._random.random()
        place = self._random.randrange(len(script) + 1)
        if chance < 0.3:
            return script[:place] + self._random.choice(SPLICES) + script[place:]
        return script[:place] + script[place + 1 :] if chance < 0.4 else script

    def _word(self, depth: int) -> str:
        word = self._random.choice(WORDS if self._random.random() < 0.5 else WORDS[:8])
        if "C" not in word:
            return word
        return word.replace("C", "rm x" if self._random.random() < 0.3 or depth > 2 else self._script(depth + 1))

    def _simple(self, depth: int) -> str:
        choose, chance = self._random.choice, self._random.random()
        command = "rm x" if self._random.random() < 0.12 else choose(["ls", "cat", "date", "echo", "echo"])
        for _ in range(self._random.randint(0, 3)):
            command += choose([" ", " ", " ", "\t", ""]) + self._word(depth)
        if chance < 0.3:
            quoted = "sh -c '" + command.replace("'", "") + "'"
            prefixes = [
                f"env {command}",
                f"sudo {command}",
                quoted,
                f"eval {command}",
                f"x=1 {command}",
                f"! {command}",
            ]
            return choose([*prefixes, f"xargs {command}", f"echo a | xargs {command}"])
        if chance < 0.36:
            return command + choose([" > /dev/null", " 2>&1", " < /dev/null", " >&2", " > f"])
        if chance < 0.42:
            body = choose(DOCUMENTS).replace("C", self._simple(depth + 1) if depth < 3 else "ls")
            return (
                command + choose([" <<E\n", " <<'E'\n", " <<-E\n", " <<\\E\n"]) + body + choose(["E\n", "E", "\tE\n"])
            )
        return command

    def _script(self, depth: int) -> str:
        choose, chance = self._random.choice, self._random.random()
        script = self._simple(depth)
        for _ in range(self._random.randint(0, 2)):
            script += choose(
                [";", "; ", " && ", " || ", " | ", "|", "&", " & ", "\n", " # a\n", "\\\n"]
            ) + self._simple(depth)
        if depth < 3 and chance < 0.32:
            case = choose(["a", "(a", "a|b", "*"])
            return choose([
                f"({script})", f"{{ {script}; }}", f"if {self._simple(depth + 1)}; then {script}; fi",
                f"for i in a b; do {script}; done", f"case a in {case}) {script};; esac", f"f() {{ {script}; }}; f",
                f"function f {{ {script}; }}; f", f"while {script}; do break; done",
            ])  # fmt: skip
        return script


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the scripts can run: those that only note their names, and some that run others."""
    folder = tmp_path_factory.mktemp("programs")
    for name in ("rm", "ls", "cat", "date"):
        (folder / name).write_text(f'#!/bin/sh\necho {name} >> "$RAN"\n')
        (folder / name).chmod(0o755)
    (folder / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    (folder / "sudo").chmod(0o755)
    for name in ("sh", "env", "xargs"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return folder


def run(shell: str, script: str, programs: Path, folder: Path) -> set[str]:
    """The names of the programs that the script ran, and of the files that it left."""
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    ran = folder / "ran"
    ran.write_text("")
    environment = {"PATH": str(programs), "RAN": str(ran), "x": "rm x", "LC_ALL": "C.UTF-8"}
    silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        subprocess.run([shell, "-c", script], env=environment, cwd=work, timeout=5, check=False, **silent)
    except subprocess.TimeoutExpired:
        return set()
    return {*ran.read_text().split(), *(f"file {name}" for name in os.listdir(work))}


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_what_a_shell_runs_was_found(shell: str, programs: Path, tmp_path: Path) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"no {shell} here")
    assert run(path, "ls | cat; sudo rm x > f", programs, tmp_path) == {"ls", "cat", "rm", "file f"}
    scripts = Scripts(SEED)
    decisions: dict[str, int] = {}
    for _ in range(SCRIPTS):
        script = scripts.one()
        verdict = JUDGE.verdict("shell.run", {"command": script})
        decisions[verdict.decision] = decisions.get(verdict.decision, 0) + 1
        if verdict.decision != "deny":
            done = run(path, script, programs, tmp_path)
            assert "rm" not in done, script
            if verdict.decision == "allow":
                assert done <= {"ls", "cat", "date"}, script
    assert all(decisions[decision] > SCRIPTS // 20 for decision in ("allow", "ask", "deny")), decisions
