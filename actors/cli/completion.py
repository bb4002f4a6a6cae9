"""`greenroom completion`: a script made from the argument parser."""

from __future__ import annotations

import argparse
from typing import Final

from actors.cli.arguments import Arguments, make_parser

_FILES: Final = ("config", "tls_cert", "tls_key", "output", "file")


def main(arguments: Arguments) -> None:
    import shtab

    parser = make_parser()
    _complete(parser, shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(parser, arguments.shell))


def _complete(parser: argparse.ArgumentParser, files: object, folders: object) -> None:
    """Say which options take files, on every level of commands: shtab reads an attribute."""
    for action in parser._actions:
        if action.dest in _FILES:
            action.complete = files  # type: ignore[attr-defined]
        elif action.dest in ("data", "target"):
            action.complete = folders  # type: ignore[attr-defined]
        elif isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _complete(below, files, folders)
