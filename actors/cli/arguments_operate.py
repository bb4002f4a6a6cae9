"""The arguments of commands for whoever operates a daemon: doctor, top, page, config. See actors.cli.arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

Command = Callable[..., argparse.ArgumentParser]
# What `top` can sort memory by; it begins with the first.
SORTS: Final = ("size", "name")


def add_commands(command: Command) -> None:
    _doctor(command)
    _top(command)
    _page(command)
    _config(command)


def _doctor(command: Command) -> None:
    parser = command(
        "doctor",
        "doctor",
        "check that all is as it should be, and say what to do",
        "greenroom doctor",
        "greenroom doctor --offline",
        "greenroom doctor --json | jq '.checks[] | select(.state != \"good\")'",
        description="Check the configuration, the data directory, the daemon, each model's service, each tool server,\n"
        "the system and the terminal. Nothing is changed, and a daemon at work is not disturbed. Tool servers are\n"
        "started and stopped again, models are only asked whether they are there. The exit code is 0 when nothing\n"
        "failed (warnings are allowed), 1 when a check failed, 2 when the configuration is wrong.",
    )
    parser.add_argument("--offline", action="store_true", help="leave out whatever needs a network")
    parser.add_argument(
        "--call", action="store_true", help="also let each model answer one word, which costs what it costs"
    )
    parser.add_argument("--timeout", metavar="TIME", default="30s", help="of each check (30s)")
    parser.add_argument("--json", action="store_true", help="print JSON when all is done")


def _top(command: Command) -> None:
    parser = command(
        "top",
        "top",
        "show live what the daemon holds: memory by owner, runs, toolsets, latency",
        "greenroom top",
        "greenroom top --interval 5s",
        "greenroom top --once | less",
        "greenroom top --json | jq .memory.resident",
        description="Show live what the daemon holds. Keys: q leaves, p pauses, s sorts another way. It comes back by\n"
        "itself when the daemon does.",
    )
    parser.add_argument("--interval", metavar="TIME", default="1s", help="between two looks (1s)")
    parser.add_argument("--once", action="store_true", help="print one view and end, as it is done in a pipe")
    parser.add_argument("--sort", choices=SORTS, default=SORTS[0], help=f"memory by size or by name ({SORTS[0]})")
    parser.add_argument(
        "--json", action="store_true", help="print each look as a line of JSON; with --once a single one"
    )


def _page(command: Command) -> None:
    parser = command(
        "page",
        "page",
        "print the address with which a browser signs in",
        "greenroom page --open",
        "greenroom page | wl-copy",
        description="Print the address with which a browser signs in to the running daemon. It is a key: do not hand\n"
        "it on.",
    )
    parser.add_argument("--open", action="store_true", help="open it in a browser, too")


def _config(command: Command) -> None:
    parser = command(
        "config",
        "config",
        "print every setting with its default and its reason, or check a file",
        "greenroom config | less",
        "greenroom config > ~/.config/greenroom/greenroom.toml",
        "greenroom config check",
        "greenroom config check new.toml",
        description="Print a configuration file that changes nothing: every setting in comments, with its default,\n"
        "what it may be, and what it is for.",
    )
    parser.add_argument("--markdown", action="store_true", help="print it as a document")
    parser.set_defaults(action=None, json=False)
    actions = parser.add_subparsers(metavar="ACTION", dest="action", title="actions (print, if there is none)")
    check = actions.add_parser("check", help="say whether a file is right, and each mistake with its place")
    check.add_argument("file", nargs="?", metavar="FILE", help="the file (the one that the daemon reads)")
    check.add_argument("--json", action="store_true", help="print JSON")
    # As every command has them; `file` goes before.
    check.add_argument("--data", metavar="DIR", default=argparse.SUPPRESS, help="data directory")
    check.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="configuration")
