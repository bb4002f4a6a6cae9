# A client of the daemon for programs and for the command line. `dial` opens a socket and is the only part that knows
# trio-websocket, `link` is one connection, `watch` a reader's place in events, `connect` puts them together.

from actors.client.connect import Client, StartedRun, connect
from actors.client.errors import AccessDenied, ClientError, ConnectionLost, NoDaemon, RemoteError, Untrusted
from actors.client.link import Push
from actors.client.watch import Watch

__all__ = [
    "AccessDenied",
    "Client",
    "ClientError",
    "ConnectionLost",
    "NoDaemon",
    "Push",
    "RemoteError",
    "StartedRun",
    "Untrusted",
    "Watch",
    "connect",
]
