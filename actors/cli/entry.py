"""From arguments to a command and its exit code; the one place where what went wrong becomes text and a code."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from actors.cli.allocator import use_system_allocator
from actors.cli.arguments import Arguments, make_parser
from actors.cli.exits import CANCELLED, FAILED, GOOD, Exit


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code (see actors.cli.exits). Wrong arguments raise SystemExit(2), as --help raises
    SystemExit(0): argparse has printed what there is to say."""
    _open_streams()
    arguments = make_parser().parse_args(argv, Arguments())
    if arguments.module == "serve" and argv is None:  # else this process is not ours to start again
        use_system_allocator()
    command: Callable[[Arguments], int | None] = importlib.import_module(f"actors.cli.{arguments.module}").main
    try:
        code = command(arguments) or GOOD
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _forget_output()
        return GOOD  # the reader had enough
    except KeyboardInterrupt:
        return CANCELLED
    except Exit as exc:
        return _say(exc.code, exc.lines)
    except Exception as exc:
        from actors.cli.failures import explain

        known = explain(exc)
        if known is None:
            raise  # a defect: its traceback is what helps, and Python's exit code is FAILED
        try:
            sys.stdout.flush()
        except OSError:
            _forget_output()
        return _say(known.code, known.lines)


def _say(code: int, lines: Sequence[str]) -> int:
    from actors.cli.output import shown

    with contextlib.suppress(OSError):
        for line in lines:
            print(shown(line, sys.stderr), file=sys.stderr)
    return code


def _open_streams() -> None:
    """A program that is started without standard streams gets such as have nothing and keep nothing."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - until the process ends


def _forget_output() -> None:
    """Nobody reads standard output any more: what is buffered must not fail once more when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


assert FAILED == 1, "what Python exits with after an exception that nobody handles"
