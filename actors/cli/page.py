"""`greenroom page`: the address with which a browser signs in to the daemon."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from actors.cli.arguments import Arguments
from actors.cli.exits import FAILED, GOOD, NO_DAEMON, Exit
from actors.cli.listing import ask
from actors.cli.output import note
from actors.client import Client
from actors.places import data_dir, read_daemon_file, read_token


def main(arguments: Arguments) -> int:
    folder = data_dir(arguments.data)
    ask(arguments, Client.request, "ping")  # that it runs, and takes this token; otherwise why not
    daemon = read_daemon_file(folder)
    if daemon is None:
        raise Exit(NO_DAEMON, f"the daemon of {folder} has just ended")
    if daemon.url.startswith("unix:"):
        raise Exit(
            FAILED,
            f"the daemon listens at {daemon.url}, which no browser reaches:",
            "give it an address (listen in greenroom.toml), or put a proxy before the socket",
        )
    url = f"{daemon.url}/?token={quote(read_token(Path(daemon.token_file)), safe='')}"
    note("this address is a key: who has it can do all that the daemon can")
    print(url, flush=True)
    if arguments.open and not _open(url):
        note("no browser could be opened: put the address into one yourself")
        return FAILED
    return GOOD


def _open(url: str) -> bool:
    """In the browser that $BROWSER names, else the platform's."""
    import webbrowser  # looks for browsers when it is imported

    try:
        return webbrowser.open(url)
    except (webbrowser.Error, OSError):
        return False
