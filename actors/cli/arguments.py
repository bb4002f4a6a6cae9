"""The arguments of every command, and their help. Imports nothing that takes time."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final

from actors.cli.arguments_operate import add_commands
from engine.version import VERSION

EXIT_CODES: Final = """\
exit codes:
  0 good   1 the run or check failed   2 usage or configuration   3 no daemon
  4 the data directory is held by another daemon   5 cancelled"""

_DESCRIPTION: Final = """\
A long-lived daemon for chat agents whose memory stays flat. The daemon keeps sessions and works on runs; every
other command is a client of it. Nothing has to be configured: without a file there is a model, demo, that needs no
network."""


class Arguments(argparse.Namespace):
    """What the parser gives. `module` is the command's module below actors.cli."""

    module: str
    data: str | None
    config: str | None


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="greenroom",
        description=_DESCRIPTION,
        epilog=_epilog("greenroom serve", 'greenroom run --start "search this folder for def"', "greenroom chat"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"greenroom {VERSION}")
    _places(parser, default=None)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")

    def command(name: str, module: str, help: str, *examples: str, description: str = "") -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=help,
            description=description or help[0].upper() + help[1:] + ".",
            epilog=_epilog(*examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(module=module)
        # Also behind the command, where they are looked for; what stands before it counts unless given again.
        _places(added, default=argparse.SUPPRESS)
        return added

    _serve(command)
    _chat(command)
    _run(command)
    _sessions(command)
    _runs(command)
    _toolsets(command)
    _stats(command)
    _store(command)
    add_commands(command)
    _stop(command)
    _completion(command)
    return parser


_Command = Callable[..., argparse.ArgumentParser]


class _Parser(argparse.ArgumentParser):
    def __init__(self, **settings: Any) -> None:
        # An option that is cut short would change its meaning when another one is added.
        super().__init__(**{"allow_abbrev": False, **settings})


def _epilog(*examples: str) -> str:
    return "\n".join(["examples:", *(f"  {example}" for example in examples), "", EXIT_CODES])


def _places(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument(
        "--data", metavar="DIR", default=default, help="data directory ($GREENROOM_DATA, else ~/.local/state/greenroom)"
    )
    parser.add_argument(
        "--config", metavar="FILE", default=default, help="configuration (~/.config/greenroom/greenroom.toml if there)"
    )


def _json(parser: argparse.ArgumentParser, help: str = "print JSON") -> None:
    parser.add_argument("--json", action="store_true", help=help)


def _start(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--start", action="store_true", help="start a daemon if none runs; it ends after 60 s without clients and runs"
    )


def _serve(command: _Command) -> None:
    parser = command(
        "serve",
        "serve",
        "run the daemon until it is stopped",
        "greenroom serve",
        "greenroom serve --listen 127.0.0.1:0 --data /tmp/try",
        "greenroom serve --listen unix:/run/user/1000/greenroom.sock",
        "greenroom serve --listen 0.0.0.0:8765 --tls-cert cert.pem --tls-key key.pem",
        description="Run the daemon in the foreground. Prints `greenroom ready URL` on standard output when it can be\n"
        "used and logs on standard error. SIGTERM or Ctrl-C end it: active runs get their time, a second signal cuts "
        "it short.\nUnder a supervisor such as systemd it says when it is ready (NOTIFY_SOCKET, WATCHDOG_USEC) and "
        "listens at\nthe sockets that were opened for it (LISTEN_FDS).",
    )
    parser.add_argument("--listen", metavar="WHERE", help="host:port, port 0 for a free one, or unix:/path")
    parser.add_argument(
        "--insecure", action="store_true", default=None, help="listen beyond this machine without TLS all the same"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate with its chain (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", help="the certificate's key (PEM)")
    parser.add_argument("--idle-exit", metavar="TIME", help="end by itself after this time without clients and runs")
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="how to log: for people, or one JSON object a line (text)",
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="what to log (info)")


def _chat(command: _Command) -> None:
    parser = command(
        "chat",
        "chat",
        "talk with a model",
        "greenroom chat",
        "greenroom chat --start --session ses_…",
        "greenroom chat --plain",
        description="Talk with a model. On a terminal the chat fills it: F1 lists the keys. In pipes, on a terminal\n"
        "that says it is dumb, and with --plain it goes line by line: Ctrl-C stops the answer, once more leaves,\n"
        "and /help lists what else there is.",
    )
    parser.add_argument("--plain", action="store_true", help="line by line, nothing of the screen but lines")
    parser.add_argument("--session", metavar="ID", help="go on with this session")
    parser.add_argument("--model", metavar="NAME", help="the model to ask (the session's)")
    _approve(parser)
    _start(parser)


def _approve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--approve",
        choices=("ask", "allow", "deny"),
        help="what to answer when a tool call needs a person's consent (ask in a terminal, else deny)",
    )


def _run(command: _Command) -> None:
    parser = command(
        "run",
        "run",
        "answer once",
        'greenroom run "search this folder for def"',
        "git diff | greenroom run explain this change: -",
        'greenroom run --json "count to 3" | jq .type',
        "greenroom run --session ses_… --timeout 30s and now in one sentence",
        description="Send one message and print the answer as it comes; tool calls are told on standard error.\n"
        "Ctrl-C stops the run. The exit code is 0 when it completed, 1 when it failed, 5 when it was cancelled.",
    )
    parser.add_argument("prompt", nargs="*", metavar="WORD", help="the message; a last `-` adds standard input to it")
    parser.add_argument("--session", metavar="ID", help="go on with this session (else a new one, in this folder)")
    parser.add_argument("--model", metavar="NAME", help="the model to ask (the session's)")
    parser.add_argument(
        "--when-busy",
        choices=("reject", "queue", "steer", "interrupt"),
        default="reject",
        help="while the session has an active run: fail; wait for it; put the message into it; stop it first (reject)",
    )
    _approve(parser)
    parser.add_argument("--timeout", metavar="TIME", help="stop the run after this time, such as 90s, and fail")
    _json(parser, "print each event as a line of JSON")
    _start(parser)


def _groups(
    parser: argparse.ArgumentParser, list_help: str, options: Callable[[argparse.ArgumentParser], None]
) -> _Command:
    """The actions of a command; without one it lists."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", title="actions (list, if there is none)")
    parser.set_defaults(action="list")
    options(parser)

    def action(name: str, help: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        _places(added, default=argparse.SUPPRESS)
        return added

    options(action("list", list_help))
    return action


def _list_sessions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=_count, default=20, metavar="N", help="at most this many (20)")
    parser.add_argument("--query", metavar="TEXT", help="only those with this in their title")
    _json(parser)


def _list_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--session", metavar="ID", help="only those of this session")
    parser.add_argument("--active", action="store_true", default=None, help="only those that have not ended")
    parser.add_argument("--limit", type=_count, default=20, metavar="N", help="at most this many (20)")
    _json(parser)


def _sessions(command: _Command) -> None:
    action = _groups(
        command(
            "sessions",
            "sessions",
            "list, show, rename, compact, delete, export and import sessions",
            "greenroom sessions list --query review",
            "greenroom sessions show ses_… | less",
            "greenroom sessions export ses_… | gzip > talk.gz",
            "gunzip < talk.gz | greenroom sessions import --data ~/elsewhere",
            "greenroom sessions delete ses_…",
        ),
        "list sessions, the latest change first",
        _list_sessions,
    )
    show = action("show", "show a session's messages")
    show.add_argument("id", metavar="ID")
    show.add_argument("--limit", type=_count, default=50, metavar="N", help="the latest N messages (50)")
    _json(show)
    fork = action("fork", "make a new session with a copy of the messages, and print its id")
    fork.add_argument("id", metavar="ID")
    fork.add_argument("--at", metavar="MESSAGE", help="the id of the last message that is copied (all)")
    _json(fork)
    rename = action("rename", "give a session another title")
    rename.add_argument("id", metavar="ID")
    rename.add_argument("title", metavar="TITLE")
    compact = action("compact", "put a summary in place of a conversation's beginning, for the model; Ctrl-C stops it")
    compact.add_argument("id", metavar="ID")
    _json(compact, "print each event as a line of JSON")
    compact.set_defaults(module="compact")
    delete = action("delete", "delete sessions with all that belongs to them; their runs are stopped first")
    delete.add_argument("id", nargs="+", metavar="ID")
    export = action("export", "write a session with its files as lines of JSON; beside a daemon, too")
    export.add_argument("id", metavar="ID")
    export.add_argument("--output", metavar="FILE", help="a new file (standard output)")
    importing = action("import", "make a session of what was exported; not while a daemon holds the data directory")
    importing.add_argument("file", nargs="?", default="-", metavar="FILE", help="what to read (standard input)")
    _json(importing)


def _runs(command: _Command) -> None:
    action = _groups(
        command(
            "runs",
            "runs",
            "list, show and stop runs",
            "greenroom runs list --active",
            "greenroom runs stop run_…",
        ),
        "list runs, the latest first",
        _list_runs,
    )
    show = action("show", "show a run")
    show.add_argument("id", metavar="ID")
    _json(show)
    stop = action("stop", "stop runs; returns when all of them have ended")
    stop.add_argument("id", nargs="+", metavar="ID")
    stop.add_argument("--reason", metavar="TEXT", help="shown beside the run")
    _json(stop)


def _toolsets(command: _Command) -> None:
    action = _groups(
        command(
            "toolsets",
            "toolsets",
            "list toolsets and open them anew",
            "greenroom toolsets",
            "greenroom toolsets list --json | jq '.toolsets[].state'",
            "greenroom toolsets show shell",
            "greenroom toolsets restart shell",
        ),
        "list toolsets with their state, calls at work and tools",
        _json,
    )
    show = action("show", "show what toolsets have: tools, and prompts and resources of a tool server")
    show.add_argument("name", nargs="+", metavar="NAME")
    _json(show)
    restart = action("restart", "close toolsets, their calls ending with an error, and open them again")
    restart.add_argument("name", nargs="+", metavar="NAME")
    _json(restart)


def _stats(command: _Command) -> None:
    parser = command(
        "stats", "stats", "show what the daemon holds", "greenroom stats", "greenroom stats --json | jq .memory"
    )
    parser.add_argument("--tree", action="store_true", help="every actor under its parent")
    _json(parser)


def _store(command: _Command) -> None:
    parser = command(
        "store",
        "store",
        "back up, check and shrink what is stored",
        "greenroom store backup ~/greenroom-2026-11-21",
        "greenroom store check",
        "greenroom store check --data ~/greenroom-2026-11-21 --json",
        "greenroom store vacuum",
        description="Work on the files of a data directory. A backup and a check can be made beside a daemon at work.",
    )
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True, title="actions")

    def action(name: str, help: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        _places(added, default=argparse.SUPPRESS)
        _json(added)
        return added

    backup = action("backup", "copy the database and its blobs, as they are at one moment, to a new data directory")
    backup.add_argument("target", metavar="TARGET", help="a folder that is not there yet, or is empty")
    action("check", "look at all that is stored: the database, the blobs, each transcript; exit code 1 if it is wrong")
    action("vacuum", "write the database anew without gaps; not while a daemon holds the data directory")


def _stop(command: _Command) -> None:
    parser = command(
        "stop",
        "stop",
        "end the daemon",
        "greenroom stop",
        "greenroom stop --timeout 5s",
        description="End the daemon and wait until it has ended: active runs get their time (drain_timeout), then they "
        "are cancelled.",
    )
    parser.add_argument("--timeout", metavar="TIME", default="60s", help="fail if it has not ended by then (60s)")


def _completion(command: _Command) -> None:
    parser = command(
        "completion",
        "completion",
        "print a completion script for a shell",
        'eval "$(greenroom completion bash)"',
        "greenroom completion zsh > ~/.zfunc/_greenroom",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 10_000:
        raise argparse.ArgumentTypeError("a number from 1 to 10000")
    return value
