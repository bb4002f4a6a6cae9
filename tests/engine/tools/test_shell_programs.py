"""Programs that run others only if their arguments say so: no rule that allows the program lets those through."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from engine.tools.permissions import Judge
from engine.tools.shell_programs import runs
from engine.tools.shell_words import TEXT_MAX

PROGRAMS = """
    ls git uv npx awk sed tar python3 python make find sort rsync perl node split test printf env cat
    grep fd uvx npm yarn cargo sqlite3 vim less cmake export
"""
JUDGE = Judge(allow=[f"shell(command={name} *)" for name in PROGRAMS.split()], deny=["shell(command=rm *)"])


def decision(command: str) -> str:
    return JUDGE.verdict("shell.run", {"command": command}).decision


@pytest.mark.parametrize(
    "command",
    [
        "git -c core.pager='rm x' log",
        "git -c core.pager=rm log",
        "git -c alias.x='!rm y' x",
        "uv run rm x",
        "uv --directory d run rm x",
        "uv tool run rm x",
        "uvx rm x",
        "npx rm x",
        "npx -y -c 'rm x'",
        "npm exec -- rm x",
        "uv run python -c 'import os; os.system(\"rm x\")'",
        "awk 'BEGIN{system(\"rm x\")}'",
        'awk \'{print "x" | "rm x"}\'',
        "sed '1e rm x' f",
        "sed 's/x/rm y/e' f",
        "sed -n -e '1!G;e rm x' f",
        "sed -l 5 'e rm x' f",
        "sed --expression='e rm x'",
        "sed -i.bak -e 'e rm x'",
        "tar xf a --to-command='rm x'",
        "tar cIf 'rm x' a b",
        "tar -czI 'rm x' -f a",
        "python3 -c 'import os;os.system(\"rm x\")'",
        'python3.11 -Ic \'import subprocess as s; s.run(["rm","x"])\'',
        "perl -ne 'system \"rm x\"'",
        'node -e \'require("child_process").execSync("rm x")\'',
        "make SHELL='rm x'",
        "make --eval='$(shell rm x)'",
        "find . -exec awk 'BEGIN{system(\"rm x\")}' {} +",
        "sort --compress-program=rm f",
        "rsync -ae 'rm x' a b",
        "split --filter='rm x' f",
        "printf -v 'a[$(rm x)]' y",
        "test -v 'a[$(rm x)]'",
        "GIT_PAGER='rm x' git log",
        "PS4='$(rm x)' ; set -x; ls",
        "fd -x rm",
        "fd . -Hx rm",
        "sqlite3 db '.shell rm x'",
        "vim -c '!rm x' f",
        "vim '+!rm x'",
        "less '+!rm x' f",
        "git bisect run rm x",
        "git rebase -x 'rm x' main",
        "git rebase -ix 'rm x' main",
        "git submodule foreach 'rm x'",
        "git grep -O'rm x' y",
        "git config alias.x '!rm x'",
        "git config core.pager 'rm x'",
        "git difftool -x 'rm x'",
        "git fetch --upload-pack='rm x' y",
        "export EDITOR='rm y'",
        "BASH_ENV='$(rm x)' bash f",
        "echo 'import os; os.system(\"rm x\")' | python3 -",
        "git filter-branch --tree-filter 'rm x' HEAD",
        "cmake -E rm x",
        "env -iS'rm x'",
        "mapfile -C 'rm x' -c 1",
        "compgen -W '$(rm x)'",
    ],
)
def test_what_a_program_is_told_to_run_is_denied(command: str) -> None:
    assert decision(command) == "deny"


@pytest.mark.parametrize(
    "command",
    [
        "git --exec-path=/tmp log",
        "MESSAGE='rm old files'; git commit -m \"$MESSAGE\"",
        "export MESSAGE='rm old files'",
        "sed -f- <<E\ne rm x\nE",
        "git clone 'ext::sh -c rm% x' y",
        "git -C d -c x.y=z log",
    ],
)
def test_what_cannot_be_known_is_asked(command: str) -> None:
    assert decision(command) == "ask"


@pytest.mark.parametrize(
    "command",
    [
        "git log -c",
        "git log --oneline -n 5",
        "git -C d log",
        "git commit -m 'run rm x'",
        "git switch -c b",
        "uv pip install x",
        "uv sync",
        "npm run build",
        "npm test",
        "awk '{print $1}' f",
        "awk -F: '$1 > 5 || $2 {print $3}' f",
        "sed -n '1,5p' f",
        "sed 's/a/b/g' f",
        "sed -i 's|a/b|c|' f",
        "sed -e '/^#/d' -e 's/x/y/;s/z/w/' f",
        "sed '$d' f",
        "sed -n '/a/,/b/p;10q' f",
        "sed -E 's/([a-z]+) x/\\1/' f",
        "sed '1i hello' f",
        "sed 's/[^a-z]//g' f",
        "tar xf a",
        "tar -czf a.tgz b",
        "python3 x.py",
        "python3 --version",
        "python3 -m pytest -q",
        "perl x.pl",
        "node x.js",
        "make test",
        "make -j4 all",
        "find . -name '*.py'",
        "sort -u f",
        "rsync -av a b",
        "split -b 5 f",
        "printf '%s\\n' a",
        "test -f x",
        "git config user.name",
        "git fetch origin",
        "git push origin main",
        "git push -u origin main",
        "git grep foo",
        "git rebase main",
        "sqlite3 db 'select 1'",
        "vim f",
        "less f",
        "fd -e py",
        "cargo test",
        "cat f",
        "grep -e rm f",
        "git stash",
        "git pull --rebase",
        "git clone https://x/y",
        "sed -n 5p f",
        "sed --version",
    ],
)
def test_the_same_programs_may_be_allowed(command: str) -> None:
    assert decision(command) == "allow"


PIECES = [
    "s", "y", "/", "|", ",", "#", "e", "e touch M", "touch M", ";", "\n", "{", "}", "p", "d", "1", "$", "a", "i", " ",
    "\\", "[", "]", "g", "w", "n", "b", ":", "!", "[/]", "\\/", "s/a/touch M/e", "s/a/b/", "/a/", "1,2", "a touch", "~",
    "q", "%",
]  # fmt: skip
SCRIPTS = 6000
SEED = 20_261_121


def test_a_script_for_sed_that_is_harmless_runs_and_writes_nothing(tmp_path: Path) -> None:
    """Random scripts: those that may be allowed are run by the real program."""
    sed = shutil.which("sed")
    if sed is None:
        pytest.skip("no sed here")
    (tmp_path / "f").write_text("a\ntouch M\nb/a\n")
    chance = random.Random(SEED)
    harmless = []
    for _ in range(SCRIPTS):
        one, two = ("".join(chance.choices(PIECES, k=chance.randint(1, 9))) for _ in range(2))
        ways = (
            [one],
            ["-e", one],
            ["-n", "-e", one, "-e", two],
            ["-ne" + one],
            ["-l", "5", one],
            [f"--expression={one}"],
        )
        arguments = chance.choice(ways)
        if not runs("sed", arguments):
            harmless.append(arguments)
    assert len(harmless) > SCRIPTS // 50
    for arguments in harmless[:150]:
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([sed, *arguments, "f"], cwd=tmp_path, timeout=60, check=False, **silent)
        assert os.listdir(tmp_path) == ["f"], arguments


@pytest.mark.parametrize(
    "text",
    [
        "vi -c 'a b' ",
        "sudo vi ",
        "X='a b' ",
        "python -c 'a b' ",
        "socat a:exec ",
        "git -c a.b='c d' ",
        "awk '|' ",
    ],
)
def test_long_commands_take_a_part_of_a_second(text: str) -> None:
    """What went back over the text for each of its words would take minutes."""
    assert decision(text * (TEXT_MAX // len(text))) in ("ask", "deny")


@pytest.mark.parametrize(
    ("program", "text", "answer"), [("sed", "s|" + "[" * 16_000, True), ("sqlite3", "\n " * 8000, False)]
)
def test_a_long_argument_is_looked_at_once(program: str, text: str, answer: bool) -> None:
    """A second each, when what follows was looked at anew from each place."""
    assert all(runs(program, [text]) is answer for _ in range(20))
