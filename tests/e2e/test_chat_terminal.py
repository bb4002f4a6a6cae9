"""The full-screen chat as a person has it: in a terminal of its own, against a real daemon and a model's service."""

from __future__ import annotations

import base64
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.attacks import ALL
from tests.e2e.screen import Screen, sequences
from tests.e2e.test_cli import COMMAND, environment
from tests.e2e.wire import DaemonProcess, connect, daemon
from tests.model_server import ModelServer, model_server

ESCAPE, QUIT, NEW, SESSIONS, COPY, SELECT = "\x1b", "\x11", "\x0e", "\x0f", "\x03", "\x1b[1;5A"
READ = '!tool name=files__read_file input={"path":"secret.txt"}'
# The call that this model makes has what a terminal obeys in its path.
ATTACKER = r'tool name=files__read_file input={"path":"\u001b]0;owned\u0007\u009b2J\u202etxt"}'
KEYS = "y Allow"  # the panel has the keys, which it takes only when nobody is typing
ASKED = re.compile(r"y allow.* n deny")


@pytest.fixture(scope="module")
def service() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


def config(service: ModelServer) -> str:
    return f"""
        default_model = "real"
        [models.real]
        provider = "openai"
        base_url = "{service.url}"
        model = "theirs"
        [models.attacker]
        provider = "openai"
        base_url = "{service.url}"
        model = '{ATTACKER}'
        [permissions]
        ask = ["files.read_file(path=secret.txt)", "files.read_file(path=*owned*)"]
    """


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, service: ModelServer) -> Iterator[DaemonProcess]:
    with daemon(tmp_path_factory.mktemp("chat") / "data", config(service)) as process:
        yield process


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "secret.txt").write_text("the word is heron")
    (folder / "evil.txt").write_text(ALL.replace("\0", ""))  # with one it is a binary file
    return folder


def chat(folder: Path, place: Path, *words: str) -> Screen:
    """The size is that of the terminal, whatever the environment says of it."""
    variables = environment(GREENROOM_DATA=str(folder), TERM="xterm-256color", COLUMNS="80", LINES="24")
    return Screen([*COMMAND, "chat", *words], variables, place)


def say(screen: Screen, text: str) -> None:
    screen.type(f"{text}\r")
    screen.expect(f"> {text}")


# Of Textual's own: the other screen, the cursor, the mouse, pasting, focus, keys; questions whether the terminal
# draws at once and tells of its size; the pointer's shape.
MODES = {"1000", "1003", "1004", "1006", "1015", "1049", "2004", "2026", "2031", "2048", "25", "7"}
OWN_CSI = re.compile(r"[0-9;:]*m|[0-9]*;?[0-9]*H|>[0-9;]*u|<u|\?2026\$p|\?2048\$p|\?(?P<mode>[0-9]+)[hl]")


def foreign(raw: bytes | bytearray) -> set[tuple[str, str]]:
    """What a terminal obeys in this output that is none of the client's own."""
    found = set()
    for kind, says in sequences(raw):
        if kind == "csi":
            own = OWN_CSI.fullmatch(says)
            if own is not None and (own["mode"] is None or own["mode"] in MODES) and "5" not in sgr(says):
                continue  # nothing of the client's blinks
        elif (kind, says) in (("osc", "22;default"), ("control", "\r"), ("control", "\n")):
            continue
        found.add((kind, says))
    return found


def sgr(says: str) -> list[str]:
    """The attributes that a sequence sets, its colours left out."""
    return re.sub(r"[34]8;(?:5;\d+|2;\d+;\d+;\d+)", "", says[:-1]).split(";") if says.endswith("m") else []


def leave(screen: Screen, key: str = QUIT) -> None:
    """The terminal is as it was: its own screen, a cursor, no mouse; and nothing foreign ever came to it."""
    screen.type(key)
    assert screen.wait() == 0, screen.text
    raw = screen.raw.decode()
    for mode in ("1049", "1000", "1003", "1006", "2004"):
        assert raw.rfind(f"\x1b[?{mode}l") > raw.rfind(f"\x1b[?{mode}h"), mode
    assert raw.rfind("\x1b[?25h") > raw.rfind("\x1b[?25l")
    assert foreign(screen.raw) == set()


# ------------------------------------------------------------------ the walk
def test_a_prompt_is_answered_as_it_streams_escape_stops_it_and_what_is_queued_has_its_turn(
    host: DaemonProcess, place: Path
) -> None:
    with chat(host.folder, place) as screen:
        before = screen.mode()
        screen.expect("connected", "Enter: send")
        say(screen, "!stream n=5 text=**w{n}**.")
        screen.expect("w0.w1.w2.w3.w4.", re.compile("tokens.* connected"))
        say(screen, "!silence n=3")
        screen.expect("partial partial partial", "Esc stops", re.compile("running.* connected"))  # it has not ended
        screen.type(ESCAPE)
        screen.expect("[stopped]", "Enter: send")
        screen.expect_gone("running")
        say(screen, "!greeting")
        screen.expect("Hello from the model server.", "partial partial partial", "Enter: send")
        say(screen, "!silence n=2")
        screen.expect(re.compile("^partial partial$", re.M), "Enter: queue")
        screen.type("!stream n=4 text=later{n}_\r")
        screen.expect("1 queued")
        assert "later0" not in screen.text
        screen.type(ESCAPE)
        screen.expect("later0_later1_later2_later3_", "Enter: send")
        screen.expect_gone("1 queued")
        rows = screen.lines
        assert rows.index("[stopped]", rows.index("> !silence n=2")) < screen.row_of("later0_")
        leave(screen)
        assert screen.mode() == before


def test_what_asks_is_allowed_and_denied_in_place(host: DaemonProcess, place: Path) -> None:
    with chat(host.folder, place) as screen:
        screen.expect("connected")
        say(screen, READ)
        screen.expect("allow files.read_file?", "path: secret.txt", ASKED, "waiting approval", KEYS)
        screen.type("n")
        screen.expect("the user denied it", re.compile("✗ files.read_file"), "Enter: send")
        screen.expect_gone(ASKED)
        assert "heron" not in screen.text
        say(screen, f"{READ} again=1")
        screen.expect(ASKED, KEYS)
        screen.type("y")
        screen.expect("The tool said: the word is heron", re.compile("✓ files.read_file"), "Enter: send")
        screen.expect_gone(ASKED)
        leave(screen)


def test_sessions_are_listed_found_and_opened_and_a_resize_wraps_anew(host: DaemonProcess, place: Path) -> None:
    with chat(host.folder, place) as screen:
        screen.expect("connected")
        say(screen, "!stream n=40 text=w{n}_")
        screen.expect("w39_", "Enter: send")
        screen.resize(70, 24)
        words = "".join(f"w{number}_" for number in range(40))
        screen.until(lambda: words in "".join(line.rstrip("▐ ") for line in screen.lines), "all words")
        assert max(map(len, screen.lines)) <= 70
        screen.type(NEW)
        screen.expect("new session")
        screen.expect_gone("w39_")
        say(screen, "!greeting other")
        screen.expect("Hello from the model server.", "Enter: send")
        screen.type(SESSIONS)
        screen.expect("type to filter", "!stream n=40", "!greeting other")
        screen.type("n=40 text")  # at once: what was found for the whole of it counts
        screen.until(lambda: screen.text.count("!greeting other") <= 2, "the list without the other session")
        screen.type("\r")
        screen.expect("w39_", "> !stream n=40")
        screen.expect_gone("Hello from")
        leave(screen)


def test_a_daemon_that_is_killed_and_started_again_is_come_back_to(
    tmp_path: Path, service: ModelServer, place: Path
) -> None:
    folder = tmp_path / "data"
    with daemon(folder, config(service)) as first, chat(folder, place) as screen:
        screen.expect("connected")
        say(screen, "!stream n=3 text=before{n}_")
        screen.expect("before0_before1_before2_", "Enter: send")
        say(screen, "!silence n=3")
        screen.expect("partial partial partial")
        first.signal(signal.SIGKILL)
        first.wait()
        screen.expect("reconnecting")
        screen.type("!stream n=3 text=after{n}_")  # written while nobody is there
        with daemon(folder, config(service), "--listen", first.url.removeprefix("http://")):
            screen.expect("· connected", "before0_before1_before2_", "Enter: send", "interrupted")
            # What of the answer was on the disk is there, once, and nothing else of it.
            stored = trio.run(answers, folder)
            assert stored[0] == "before0_before1_before2_" and len(stored) <= 2
            screen.until(lambda: screen.text.count("partial") == "".join(stored).count("partial"), stored)
            screen.type("\r")
            screen.expect("> !stream n=3 text=after{n}_", "after0_after1_after2_", "Enter: send")
            assert screen.row_of("before0_b") < screen.row_of("> !silence") < screen.row_of("after0_a")
            leave(screen)


async def answers(folder: Path) -> list[str]:
    """The texts of the newest session's answers, as they are stored."""
    with trio.fail_after(60):
        async with connect(folder) as wire:
            [session] = (await wire.request("session.list"))["sessions"]
            messages = (await wire.request("session.messages", session_id=session["id"]))["messages"]
    return [
        "".join(part["text"] for part in message["parts"] if part["kind"] == "text")
        for message in messages
        if message["info"]["role"] == "assistant"
    ]


# ------------------------------------------------------------------ what is hostile
def test_nothing_that_a_model_or_a_tool_says_reaches_the_terminal(host: DaemonProcess, place: Path) -> None:
    with chat(host.folder, place) as screen:
        screen.expect("connected")
        screen.type("!attack\r")
        screen.expect("the attack is over", "interlinear: ab", "Enter: send")
        screen.type('!tool name=files__read_file input={"path":"evil.txt"}\r')
        screen.expect(re.compile("✓ files.read_file evil.txt"), "The tool said", "Enter: send")
        screen.type(f"{SELECT}{SELECT}\r")
        screen.expect("escape in an address: [a](http://x/)")  # the call is unfolded: what the tool gave is shown
        screen.type("!status code=400 message=a\u202etxt.exe\u200b\r")
        screen.expect("the model call failed", "Enter: send")
        screen.type(SESSIONS)
        screen.expect("type to filter", "▸")
        screen.type(ESCAPE)
        screen.expect_gone("type to filter")
        assert foreign(screen.raw) == set()
        # What is copied is all that goes to the clipboard, and clean.
        screen.type(NEW)
        screen.expect("new session")
        screen.type("!attack\r")
        screen.expect("the attack is over", "Enter: send")
        screen.type(SELECT)
        screen.type(COPY)
        screen.expect("copied")
        [(kind, says)] = foreign(screen.raw)
        copied = base64.b64decode(says.removeprefix("52;c;")).decode()
        assert kind == "osc" and copied.endswith("the attack is over") and "␛]0;owned␇" in copied
        assert not list(sequences(copied.replace("\n", "").encode()))
        screen.resize(50, 20)
        screen.expect(re.compile("· connected$", re.M))  # the state stays when the width goes
        screen.type(QUIT)
        assert screen.wait() == 0


def test_nor_what_a_call_asks_for_or_a_person_pastes(host: DaemonProcess, place: Path) -> None:
    with chat(host.folder, place, "--model", "attacker") as screen:
        screen.expect("connected")
        say(screen, "go")
        screen.expect("path: ␛]0;owned␇\ufffd2J\ufffdtxt", KEYS)
        screen.type(ESCAPE)
        screen.expect("[stopped]", "Enter: send")
        screen.type("\x1b[200~pasted \x9b31m\u202etxt\x07\x85\u200b end\x1b[201~")
        screen.expect(re.compile("│ .*pasted.* end"))
        screen.type(SESSIONS)
        screen.expect("type to filter")
        screen.type("\x1b[200~found \x9b31m\u202etxt\u200b end\x1b[201~")
        screen.expect(re.compile("│ found .* end"))
        screen.type(ESCAPE)
        screen.expect_gone("type to filter")
        leave(screen)


def test_a_signal_leaves_the_terminal_as_it_was(host: DaemonProcess, place: Path) -> None:
    with chat(host.folder, place) as screen:
        before = screen.mode()
        screen.expect("connected")
        screen.process.send_signal(signal.SIGTERM)
        screen.wait()
        assert "\x1b[?1049l" in screen.raw.decode() and screen.mode() == before
        assert "Traceback" not in screen.text


def test_without_a_daemon_it_says_so_on_the_ordinary_screen(tmp_path: Path) -> None:
    with chat(tmp_path / "none", tmp_path) as screen:
        assert screen.wait() == 3
        assert "no daemon runs on" in screen.text and not list(sequences_of_screens(screen))


def sequences_of_screens(screen: Screen) -> Iterator[str]:
    return (says for kind, says in sequences(screen.raw) if kind != "control")
