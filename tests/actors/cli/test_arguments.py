"""Arguments, help, completion: there at once, and without importing what takes time."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from actors.cli.arguments import Arguments, make_parser
from actors.cli.entry import main


def parsers(parser: argparse.ArgumentParser, name: str = "") -> dict[str, argparse.ArgumentParser]:
    """Every parser by its command's words."""
    found = {name: parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                found |= parsers(below, f"{name} {word}".strip())
    return found


COMMANDS = parsers(make_parser())


def test_the_commands() -> None:
    top = {name for name in COMMANDS if name and " " not in name}
    everyday = {"serve", "chat", "run", "sessions", "runs", "toolsets", "stats", "store", "stop", "completion"}
    assert top == everyday | {"doctor", "top", "page", "config"}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--data" in text and "--config" in text
    if " " not in name:
        assert "examples:" in text and "exit codes:" in text


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nothing"],
        ["serve", "--lis", "x"],
        ["runs", "nothing"],
        ["runs", "show"],
        ["sessions", "list", "--limit", "0"],
    ],
)
def test_wrong_usage_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "usage: greenroom" in captured.err


@pytest.mark.parametrize(
    ("argv", "data"),
    [
        (["stats"], None),
        (["--data", "a", "stats"], "a"),
        (["stats", "--data", "b"], "b"),
        (["--data", "a", "stats", "--data", "b"], "b"),
        (["--data", "a", "runs", "list"], "a"),
        (["runs", "list", "--data", "c"], "c"),
    ],
)
def test_the_data_directory_may_stand_before_and_behind_the_command(argv: list[str], data: str | None) -> None:
    assert make_parser().parse_args(argv, Arguments()).data == data


@pytest.mark.parametrize("command", ["sessions", "runs"])
def test_lists_are_what_a_group_does_without_an_action(command: str) -> None:
    short, whole = (make_parser().parse_args(argv, Arguments()) for argv in ([command], [command, "list"]))
    assert vars(short) == vars(whole) and short.action == "list"


def test_examples_of_the_help_can_be_parsed() -> None:
    import shlex

    seen = 0
    for parser in COMMANDS.values():
        lines = (parser.epilog or "").partition("exit codes:")[0].splitlines()[1:]
        for line in filter(None, map(str.strip, lines)):
            command = line.partition("greenroom ")[2].partition(" | ")[0].partition(" > ")[0].removesuffix(')"')
            make_parser().parse_args(shlex.split(command), Arguments())
            seen += 1
    assert seen > 15


SLOW = ("trio", "attrs", "cattrs", "orjson", "h11", "httpx2", "ssl", "sqlite3")


@pytest.mark.parametrize("argv", [["--help"], ["run", "--help"], ["--version"], ["completion", "bash"], ["nothing"]])
def test_nothing_slow_is_imported_for_it(argv: list[str]) -> None:
    script = (
        "import sys\n"
        "from actors.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        f"print('\\nslow:', *[name for name in {SLOW!r} if name in sys.modules])\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1].strip() == "slow:"


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("sessions", "rename", "--idle-exit" if shell != "tcsh" else "idle-exit"):
        assert word in script


def test_completion_completes() -> None:
    script = f'eval "$({sys.executable} -m actors.cli completion bash)"; complete -p greenroom'
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and "greenroom" in ended.stdout
