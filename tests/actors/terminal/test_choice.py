"""Which chat is begun, and what is said when the full-screen one is left."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from actors.cli import chat as command
from actors.cli import line_chat
from actors.cli.arguments import Arguments, make_parser
from actors.terminal import chat
from actors.terminal.chat import Left

LEFT = Left(session_id=None, run_id=None, unsent=None, crashed=False)


class Stream(io.StringIO):
    encoding = "utf-8"

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was begun, instead of beginning it; on a terminal, with the library."""
    found: list[str] = []

    def plainly(arguments: Arguments) -> int:
        found.append("line by line")
        return 7

    def fully(opener: object, **options: Any) -> Left:
        found.append("full screen")
        return LEFT

    monkeypatch.setattr(line_chat, "main", plainly)
    monkeypatch.setattr(chat, "run", fully)
    monkeypatch.setenv("TERM", "xterm-256color")
    return found


def begin(*words: str, piped: str | None = None) -> int:
    """On a terminal, but for the stream that is piped. What is said on standard error is in `said` afterwards."""
    with pytest.MonkeyPatch.context() as patched:  # pytest sets its own streams behind the fixtures
        for name in ("stdin", "stdout", "stderr"):
            patched.setattr(sys, name, Stream(name != piped))
        code = _begin(*words)
        assert isinstance(sys.stderr, Stream)
        said[:] = sys.stderr.getvalue().splitlines()
    return code


said: list[str] = []


def _begin(*words: str) -> int:
    return command.main(make_parser().parse_args(["chat", *words], Arguments()))


def test_on_a_terminal_it_fills_the_screen(begun: list[str]) -> None:
    assert begin() == 0 and begun == ["full screen"]


def test_plain_is_line_by_line(begun: list[str]) -> None:
    assert begin("--plain") == 7 and begun == ["line by line"]


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_a_pipe_is_line_by_line(begun: list[str], name: str) -> None:
    assert begin(piped=name) == 7 and begun == ["line by line"]


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {"TERM": ""}, {}])
def test_a_dumb_terminal_is_line_by_line(
    begun: list[str], environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TERM")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert begin() == 7 and begun == ["line by line"]


def test_without_the_library_it_is_line_by_line_and_says_what_is_missing(
    begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "is_installed", lambda: False)
    assert begin() == 7 and begun == ["line by line"]
    (line,) = said
    assert "pip install 'greenroom[chat]'" in line


def test_what_goes_on_is_said_on_leaving(begun: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    left = Left(session_id="ses_1", run_id="run_1", unsent="not\x1b[2J yet", crashed=True)
    monkeypatch.setattr(chat, "run", lambda *_, **__: left)
    assert begin() == 1
    assert said == [
        "[not acknowledged by the daemon: not␛[2J yet]",
        "[the run goes on: greenroom runs stop run_1 ends it]",
        "[greenroom chat --session ses_1 goes on with this session]",
    ]
