"""What a chat costs its terminal: the client's own process, driven by keys, on a terminal, against a real daemon.

    python scripts/bench_chat.py [--quick] [--json]

`greenroom chat` and, as the floor, `greenroom chat --plain`, each in a pseudo-terminal of 100 × 30; the daemon and the
model's service (tests/model_server.py) are processes of their own. Measured:

- answers of 8 KiB, one after another in one session, 300 to warm up and 600 measured (plain: 100 and 200): by how much
  the client's resident memory grows a message (a question or an answer), and its CPU by the KB
- one answer of 400 KB at 100 KB a second: CPU by the KB when pictures are drawn while it comes, and memory
- a session of 5,000 messages, paged from the daemon: the first picture, a page up, the way to the very beginning and
  back to the end, a resize: time, CPU and memory
- CPU of a chat that nobody uses

Conditions: < 2 KiB a message in both, a page up within 100 ms, all 5,000 messages within 24 MB, idle < 2 % of a core.
--quick: 10 + 10 answers, one of 100 KB, 200 messages; slopes and times are told and not judged. The last line is JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import trio
from _daemon import ROOT, Daemon, Findings, cpu_seconds, model_server, percentile, resident, say, slope
from make_history import make

from tests.e2e.screen import LIMIT, Screen

MESSAGE = 8192  # bytes of an answer
LONG, LONG_QUICK, LONG_RATE = 400_000, 100_000, 400  # bytes of a long one, and pieces of 256 bytes a second
SLOPE_KIB = 2.0
PAGE_MS = 100.0
HELD_MB = 24.0
IDLE = 0.02  # the cursor blinks
AGAIN = 1.0  # seconds without another page, after which a person presses the key again
SAMPLE = 5  # answers between two looks at memory
COMMAND = [sys.executable, "-P", "-c", "from actors.cli import main; import sys; sys.exit(main())", "chat"]
PAGE_UP, HOME, END = "\x1b[5~", "\x1b[H", "\x1b[F"
READY = {"chat": "Enter: send", "plain": "> "}
MB = 1e6


def opened(daemon: Daemon, kind: str, *words: str, emulated: bool = False) -> Screen:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GREENROOM_", "XDG_"))}
    environment = {
        **kept,
        "PYTHONPATH": str(ROOT),
        "GREENROOM_DATA": str(daemon.folder / "data"),
        "TERM": "xterm-256color",
        "XDG_CONFIG_HOME": "/nonexistent",
    }
    plain = ["--plain"] if kind == "plain" else []
    return Screen([*COMMAND, *plain, *words], environment, daemon.folder, emulated=emulated)


def leave(screen: Screen, kind: str) -> None:
    screen.type("\x11" if kind == "chat" else "/quit\n")
    code = screen.wait()
    assert code == 0, (code, bytes(screen.raw[-2000:]))


# ------------------------------------------------------------ answers that stream in
def answers(findings: Findings, daemon: Daemon, kind: str, warm: int, measured: int, *, quick: bool) -> None:
    say(f"{kind}: {warm} + {measured} answers of 8 KiB")
    points: list[tuple[float, float]] = []
    with opened(daemon, kind) as screen:
        screen.expect_written(READY[kind])
        pid, before = screen.process.pid, 0.0
        for number in range(warm + measured):
            if number == warm:
                before = cpu_seconds(pid)
            screen.type(f"!document n={number} size={MESSAGE}\r")
            screen.expect_written(f"end-{number}.", READY[kind])
            if number >= warm and number % SAMPLE == 0:
                points.append((2 * number, resident(pid)))  # a question and an answer
        cpu = cpu_seconds(pid) - before
        grown = slope(points) / 1024
        what = f"{kind}, {warm} + {measured} answers"
        if quick:
            findings.note(f"{kind}_kib", round(grown, 2), "KiB a message", f"{what}: resident, aim < {SLOPE_KIB:g}")
        else:
            good = grown < SLOPE_KIB
            findings.hold(f"{kind}_kib", round(grown, 3), good, "KiB a message", f"{what}: resident < {SLOPE_KIB:g}")
        findings.note(f"{kind}_mb", round(resident(pid) / MB, 1), "MB", f"{what}: resident at the end")
        findings.note(f"{kind}_burst_ms_a_kb", round(cpu / measured / MESSAGE * 1e6, 2), "ms a KB", f"{what}: CPU")
        long_answer(findings, screen, kind, LONG_QUICK if quick else LONG)
        if kind == "chat":
            idle(findings, screen, 1.0 if quick else 5.0)
        leave(screen, kind)


def long_answer(findings: Findings, screen: Screen, kind: str, size: int) -> None:
    say(f"{kind}: an answer of {size // 1000} KB")
    pid = screen.process.pid
    cpu, held = cpu_seconds(pid), resident(pid)
    screen.type(f"!document n=long size={size} rate={LONG_RATE}\r")
    screen.expect_written("end-long.", READY[kind])
    cpu, held = cpu_seconds(pid) - cpu, resident(pid) - held
    what = f"{kind}, an answer of {size // 1000} KB at {LONG_RATE * 256 // 1000} KB/s"
    findings.note(f"{kind}_stream_ms_a_kb", round(cpu / size * 1e6, 2), "ms a KB", f"{what}: CPU")
    findings.note(f"{kind}_stream_mb", round(held / MB, 1), "MB", f"{what}: resident, more than before")


def idle(findings: Findings, screen: Screen, seconds: float) -> None:
    say("nobody uses it")
    pid = screen.process.pid
    screen.quiet(1.0)
    cpu = cpu_seconds(pid)
    screen.quiet(seconds)
    share = (cpu_seconds(pid) - cpu) / seconds
    findings.hold("idle_share", round(share, 4), share < IDLE, "of a core", f"nobody uses it: CPU < {IDLE:g}")


# ------------------------------------------------------------ a long session
def long_session(findings: Findings, daemon: Daemon, session: str, count: int, pages: int, *, quick: bool) -> None:
    say(f"a session of {count} messages")
    begin = trio.run(begin_of, daemon, session)
    began = time.perf_counter()
    with opened(daemon, "chat", "--session", session, emulated=True) as screen:
        screen.expect("connected")
        screen.until(lambda: drawn(screen), "the last messages")
        findings.note("open_ms", round((time.perf_counter() - began) * 1000), "ms", "process start to the last page")
        pid = screen.process.pid
        held, cpu = resident(pid), cpu_seconds(pid)
        findings.note("open_mb", round(held / MB, 1), "MB", "resident then")
        times = []
        for _ in range(pages):
            times.append(moved(screen, PAGE_UP))
        cpu = cpu_seconds(pid) - cpu
        findings.aim("page_ms", round(percentile(times, 0.5), 1), PAGE_MS, "ms", f"a page up, of {pages} the median")
        findings.note("page_p95_ms", round(percentile(times, 0.95), 1), "ms", f"a page up, 95 of 100 of {pages}")
        findings.note("page_cpu_ms", round(cpu / pages * 1000, 1), "ms", "a page up, CPU of the client")
        say("to the very beginning")
        began, cpu = time.perf_counter(), cpu_seconds(pid)
        screen.type(HOME)
        screen.until(lambda: begin in screen.text and drawn(screen), begin)
        findings.note("top_s", round(time.perf_counter() - began, 2), "s", f"to the very beginning, {count} messages")
        findings.note("top_cpu_s", round(cpu_seconds(pid) - cpu, 2), "s", "likewise, CPU of the client")
        grown = (resident(pid) - held) / MB
        what = f"all {count} messages were paged: resident, more than at first"
        findings.hold("top_mb", round(grown, 1), grown <= HELD_MB, "MB", f"{what} ≤ {HELD_MB:g}")
        findings.note("end_ms", round(moved(screen, END), 1), "ms", "back to the end")
        began = time.perf_counter()
        screen.resize(80, 30)
        # The composer's corner is where it is drawn for this width.
        screen.until(lambda: drawn(screen) and any(line[79:] == "╮" for line in screen.lines), "80 columns")
        findings.note("resize_ms", round((time.perf_counter() - began) * 1000, 1), "ms", "a resize")
        leave(screen, "chat")


def drawn(screen: Screen) -> bool:
    """Whether there are messages, and none of them is still waited for."""
    rows = [line.rstrip("▐ ") for line in screen.lines[1:-4]]
    return any(rows) and not any(row.strip() == "…" for row in rows)


def moved(screen: Screen, key: str) -> float:
    """Milliseconds until another page is on the screen."""
    before = screen.text
    began = time.perf_counter()
    while True:
        screen.type(key)
        # At the top of what is loaded a key may come before the older messages do: a person presses it again.
        if screen.within(AGAIN, lambda: screen.text != before and drawn(screen)):
            break
        assert time.perf_counter() - began < LIMIT, screen.text
    return (time.perf_counter() - began) * 1000


async def begin_of(daemon: Daemon, session: str) -> str:
    """The first words of the session's first message."""
    async with daemon.connect() as client:
        page = await client.request("session.messages", session_id=session, limit=200)
        while "next_cursor" in page:
            page = await client.request("session.messages", session_id=session, limit=200, cursor=page["next_cursor"])
    return next(part["text"] for part in page["messages"][0]["parts"] if part["kind"] == "text")[:60]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of everything; times and slopes are not judged")
    parser.add_argument("--json", action="store_true", help="standard output has the JSON line alone")
    asked = parser.parse_args()
    quick = asked.quick
    findings = Findings("chat", quick)
    with tempfile.TemporaryDirectory(prefix="bench-chat-") as folder, findings.told(), model_server() as service:
        count = 200 if quick else 5000
        session = make(Path(folder) / "data", count, say)
        daemon = Daemon(service.url, Path(folder))
        try:
            answers(findings, daemon, "plain", *((10, 10) if quick else (100, 200)), quick=quick)
            answers(findings, daemon, "chat", *((10, 10) if quick else (300, 600)), quick=quick)
            long_session(findings, daemon, session, count, 10 if quick else 200, quick=quick)
        finally:
            daemon.stop()
    return findings.report(asked.json)


if __name__ == "__main__":
    sys.exit(main())
