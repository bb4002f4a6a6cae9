"""A tool server that does not want to end, for stress_processes: run by path, with how it is to be, and a file.

`answers`: it says every line again. `serves`: it is a tool server (MCP) with the tools `echo`, and `wait`, which never
answers. `silent`: it takes lines and says nothing. A file that ends in `-` gets the pid behind its name.

It makes a child in a session of its own that ignores SIGTERM, a daemon (forked twice, another session, nothing in its
environment, no descriptor of ours), and a child in its own group that ignores SIGTERM. Each process writes its pid to
the file before it does anything else. Then it is what it was told to be, until its standard input ends.
"""

import json
import os
import signal
import sys


def wait() -> None:
    while True:
        signal.pause()


def fork(record: int, *, session: bool) -> bool:
    """True in the child."""
    if os.fork():
        return False
    if session:
        os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(record, f"{os.getpid()}\n".encode())
    return True


def served(line: bytes) -> None:
    request = json.loads(line)
    match request.get("method"):
        case "initialize":
            version = request["params"]["protocolVersion"]
            server = {"name": "stress", "version": "1"}
            result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server}
        case "tools/list":
            result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ("echo", "wait")]}
        case "tools/call" if request["params"]["name"] == "echo":
            result = {"content": [{"type": "text", "text": "echo"}]}
        case _:
            return
    os.write(1, json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode() + b"\n")


def main(how: str, file: str) -> None:
    if file.endswith("-"):
        file += str(os.getpid())
    record = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(record, f"{os.getpid()}\n".encode())
    if fork(record, session=False):
        wait()
    if fork(record, session=True):
        if fork(record, session=True):
            null = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            os.execve("/bin/sleep", ["sleep", "100000"], {})
        wait()
    while line := sys.stdin.buffer.readline():
        if how == "answers":
            os.write(1, line)
        elif how == "serves":
            served(line)


main(*sys.argv[1:])
