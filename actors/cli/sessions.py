"""`greenroom sessions`: list, show, fork, rename, delete; export and import are in actors/cli/portable.py."""

from __future__ import annotations

import json
from typing import Any, Final

from actors.cli.arguments import Arguments
from actors.cli.listing import ask, listed
from actors.cli.output import columns, line, note, say, say_json, table, when
from actors.cli.spent import money, spent
from actors.client import Client

_TITLE_COLUMNS: Final = 60
_RESULT_COLUMNS: Final = 200
_MARKS: Final = {"pending": "[ ]", "in_progress": "[>]", "completed": "[x]"}


def main(arguments: Arguments) -> None:
    if arguments.action in ("export", "import"):
        from actors.cli.portable import export, take_in  # the store's code: no client needs it

        {"export": export, "import": take_in}[arguments.action](arguments)
    else:
        actions = {"list": _list, "show": _show, "fork": _fork, "rename": _rename, "delete": _delete}
        actions[arguments.action](arguments)


def _list(arguments: Arguments) -> None:
    sessions = ask(arguments, listed, "session.list", "sessions", {"query": arguments.query}, arguments.limit)
    if arguments.json:
        say_json({"sessions": sessions})
    else:
        tell_sessions(sessions)


def tell_sessions(sessions: list[dict[str, Any]]) -> None:
    rows = [
        (
            session["id"],
            when(session["updated_at"]),
            str(session["message_count"]),
            "active" if "active_run_id" in session else "",
            line(session["title"], _TITLE_COLUMNS),
        )
        for session in sessions
    ]
    table(("SESSION", "CHANGED", "MESSAGES", "RUN", "TITLE"), rows)


def _show(arguments: Arguments) -> None:
    session, messages, currency = ask(arguments, _read, arguments.id, arguments.limit)
    if arguments.json:
        say_json({"session": session, "messages": messages})
        return
    say(f"{session['id']}  {session['title']}".rstrip())
    say(f"model {session['model']}, in {session['cwd']}, {session['message_count']} messages")
    say(f"used {spent(session['usage'], currency)}")
    if "parent_id" in session:
        say(f"a fork of {session['parent_id']}")
    for todo in session["todos"]:
        say(f"{_MARKS.get(todo['status'], '[?]')} {line(todo['text'], columns() - len('[x] '))}")
    for message in messages:
        _tell(message)


async def _read(client: Client, session_id: str, limit: int) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    session = (await client.request("session.get", {"session_id": session_id}))["session"]
    # Newest page first, each in chronological order.
    messages: list[dict[str, Any]] = []
    params: dict[str, Any] = {"session_id": session_id}
    while len(messages) < limit:
        page = await client.request("session.messages", {**params, "limit": min(200, limit - len(messages))})
        messages = page["messages"] + messages
        if "next_cursor" not in page:
            break
        params["cursor"] = page["next_cursor"]
    return session, messages, client.hello.get("currency", "")


def _tell(message: dict[str, Any]) -> None:
    info = message["info"]
    cost = f", {money(info['usage']['cost'])}" if "cost" in info.get("usage", {}) else ""
    end = "" if info.get("finish", "stop") in ("stop", "tool_calls") else f" ({info['finish']})"
    say(f"\n── {info['role']}, {when(info['created_at'])}{cost}{end}")
    for part in message["parts"]:
        match part["kind"]:
            case "text":
                say(part["text"].rstrip("\n"))
                if "text_more" in part:
                    say(f"[… {part['text_more']['bytes']} bytes in all]")
            case "tool":
                result = part.get("output") or part.get("error") or part["state"]
                say(line(f"[{part['tool']} {json.dumps(part['input'], ensure_ascii=False)}]", columns()))
                say(line(f"  → {result}", min(columns(), _RESULT_COLUMNS)))
            case "compaction":
                say(f"[what the model is told of all before]\n{part['summary'].rstrip()}")
            case "file":
                say(f"[file {part.get('name', '')} {part['mime']}, {part['size']} bytes]")


def _fork(arguments: Arguments) -> None:
    params = {"session_id": arguments.id}
    if arguments.at is not None:
        params["message_id"] = arguments.at
    session = ask(arguments, Client.request, "session.fork", params)["session"]
    if arguments.json:
        say_json(session)
    else:
        say(session["id"])
        note(f"a copy of {session['message_count']} messages")


def _rename(arguments: Arguments) -> None:
    ask(arguments, Client.request, "session.update", {"session_id": arguments.id, "title": arguments.title})


def _delete(arguments: Arguments) -> None:
    ask(arguments, _delete_all, arguments.id)


async def _delete_all(client: Client, session_ids: list[str]) -> None:
    for session_id in session_ids:
        await client.request("session.delete", {"session_id": session_id})
        note(f"deleted {session_id}")
