"""The page in a real browser against a real daemon: a walk, two tabs, and the daemon and the network lost and back."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.browser import Browser, Tab, browsing, chromium
from tests.e2e.raw import token_of
from tests.e2e.wire import DaemonProcess, Wire, connect, daemon

LIMIT = 120.0
CONFIG = """
[permissions]
ask = ["files.read_file"]
[limits]
drain_timeout = "1s"
"""
CONNECTED = "document.querySelector('.connection').dataset.state === 'open'"
# A test's screenshots go here, if it is set.
SHOTS = os.environ.get("GREENROOM_SCREENSHOTS")


@pytest.fixture(scope="module")
def browser() -> Iterator[str]:
    with chromium() as address:
        yield address


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, browser: str) -> Iterator[DaemonProcess]:
    with daemon(tmp_path_factory.mktemp("page") / "data", CONFIG) as process:
        yield process


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "secret.txt").write_text("the word is *heron*")
    return folder


async def sign_in(browser: Browser, process: DaemonProcess, **how: Any) -> Tab:
    """A tab at the page, connected."""
    tab = await browser.tab(f"{process.url}/?token={token_of(process.folder)}", **how)
    await tab.until(CONNECTED)
    return tab


async def go(tab: Tab, session: str) -> None:
    await tab.evaluate(f"location.hash = '#/s/{session}'")
    await tab.until("document.querySelector('.head h1').innerText !== '…'")


async def write(tab: Tab, text: str) -> None:
    """Type a message and send it."""
    await tab.click(".composer textarea")
    await tab.type(text)
    await tab.key("Enter")


async def shoot(tab: Tab, name: str) -> None:
    if SHOTS:
        await tab.screenshot(Path(SHOTS) / f"{name}.png")


async def shows(tab: Tab, texts: list[str]) -> None:
    """Wait until the messages that are shown have exactly these texts, all of them rendered."""
    shown = "JSON.stringify([...document.querySelectorAll('.message .parts')].map((one) => one.innerText.trim()))"
    wanted = json.dumps(json.dumps(texts, separators=(",", ":"), ensure_ascii=False))
    await tab.until(f"!document.querySelector('.markdown[aria-busy=true]') && {shown} === {wanted}")


async def stored_texts(wire: Wire, session: str) -> list[str]:
    """The texts of a session's messages, as the daemon has them."""
    page = await wire.request("session.messages", session_id=session)
    return [
        "".join(part["text"] for part in message["parts"] if part["kind"] == "text").strip()
        for message in page["messages"]
    ]


async def test_a_walk(server: DaemonProcess, browser: str, place: Path) -> None:
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            tab = await sign_in(profile, server)
            assert "token" not in await tab.evaluate("location.href")
            # A session is made by its first message.
            await tab.until("document.querySelector('select option')")
            await tab.click("input[placeholder^='the daemon']")
            await tab.type(str(place))
            await write(tab, "count to 300 every 10 ms")
            # The answer is there while it is being written, and is told when it is finished.
            await tab.until("document.querySelector('.assistant .text')?.innerText.startsWith('1 2 3')")
            assert await tab.count(".assistant[aria-busy='true']") == 1
            assert await tab.text("#said") == ""
            await shoot(tab, "streaming")
            await tab.until("document.querySelector('.rows [aria-current]')?.innerText.includes('count to 300')")
            await tab.until("document.querySelector('.assistant .text').innerText.trim().endsWith('299 300')")
            await tab.until("document.querySelector('#said').innerText.startsWith('Answer: 1 2 3')")
            (session,) = (await wire.request("session.list"))["sessions"]
            assert session["cwd"] == str(place)

            # A call that is asked: allowed, then denied with a reason.
            await write(tab, "read secret.txt")
            await tab.click(".tool .ask button", "Allow")
            await tab.until("[...document.querySelectorAll('.text')].at(-1).innerText.includes('the word is')")
            await tab.until("document.querySelector('.text pre code').innerText.includes('the word is *heron*')")
            await tab.click(".tool summary", "files.read_file")
            await tab.until("document.querySelector('.result').innerText.includes('the word is *heron*')")
            await write(tab, "read secret.txt")
            await tab.click(".tool .ask .deny input")
            await tab.type("not today")
            await shoot(tab, "question")
            await tab.click(".tool .ask button", "Deny")
            await tab.until("[...document.querySelectorAll('.tool')].at(-1).dataset.state === 'error'")
            await tab.sees("not today")
            await tab.until("!document.querySelector('.ask') && document.querySelector('.composer .stop').hidden")

            # Stop, by its key.
            await write(tab, "count to 100000 every 20 ms")
            await tab.until("[...document.querySelectorAll('.text')].at(-1).innerText.startsWith('1 2 3')")
            # What waits is seen, and can be cancelled.
            await write(tab, "count to 2")
            await tab.until("document.querySelector('.waiting li')?.innerText.includes('the next')")
            assert "count to 2" in await tab.text(".waiting li")
            await tab.click(".waiting button", "Cancel")
            await tab.until("document.querySelector('.waiting').hidden")
            await tab.key("Escape")
            await tab.until("[...document.querySelectorAll('.end')].at(-1).innerText.includes('Stopped')")
            (run,) = (await wire.request("run.list", session_id=session["id"], limit=2))["runs"][1:]
            assert run["status"] == "cancelled"

            # Rename, fork and delete, each from the menu.
            await tab.click(".head button", "Menu")
            await tab.click(".menu button", "Rename")
            await tab.until("document.activeElement.localName === 'input'")
            await tab.type("Herons")
            await tab.key("Enter")
            await tab.until("document.querySelector('.head h1').innerText === 'Herons'")
            await tab.click(".head button", "Menu")
            await tab.click(".menu button", "Fork")
            await tab.until("document.querySelectorAll('.rows li').length === 2")
            await tab.until(
                f"!location.hash.includes('{session['id']}') && document.querySelectorAll('.message').length"
            )
            await tab.click(".head button", "Menu")
            await tab.click(".menu button", "Delete")
            await tab.until("document.activeElement.innerText === 'Cancel'")
            await tab.click("dialog button", "Delete")
            await tab.until("document.querySelectorAll('.rows li').length === 1 && location.hash === '#/new'")
            assert [one["id"] for one in (await wire.request("session.list"))["sessions"]] == [session["id"]]
            assert await tab.verdict() == []


async def test_two_tabs_of_a_session_show_the_same(server: DaemonProcess, browser: str, place: Path) -> None:
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            session = (await wire.request("session.create", cwd=str(place)))["session"]["id"]
            one, two = await sign_in(profile, server), await sign_in(profile, server)
            await go(one, session)
            await go(two, session)
            await write(one, "count to 40 every 5 ms")
            await two.until("document.querySelector('.user')?.innerText.includes('count to 40')")
            await two.until("document.querySelector('.assistant .text').innerText.trim().endsWith('39 40')")
            # What one is asked, the other may answer.
            await write(two, "read secret.txt")
            await one.until("document.querySelector('.ask')")
            await two.click(".ask button", "Allow")
            for tab in (one, two):
                await tab.until("[...document.querySelectorAll('.text')].at(-1).innerText.includes('heron')")
                await tab.until("!document.querySelector('.ask')")
            parts = "[...document.querySelectorAll('.message .parts')].map((one) => one.innerText.trim())"
            await shows(two, await one.evaluate(parts))
            assert await one.verdict() == await two.verdict() == []


async def test_the_daemon_is_killed_and_comes_back(tmp_path: Path, browser: str) -> None:
    folder = tmp_path / "data"
    with trio.fail_after(LIMIT), daemon(folder, CONFIG) as process:
        port = process.url.rpartition(":")[2]
        async with browsing(browser) as profile:
            tab = await sign_in(profile, process)
            await write(tab, "count to 100000 every 10 ms")
            await tab.until("document.querySelector('.assistant .text')?.innerText.includes('1 2 3 4 5')")
            async with connect(folder) as wire:
                (session,) = (await wire.request("session.list"))["sessions"]
                while len(texts := await stored_texts(wire, session["id"])) < 2 or not texts[1]:
                    pass  # what is shown is not stored yet
            process.signal(signal.SIGKILL)
            process.process.wait()
            await tab.until("!document.querySelector('#banner').hidden")
            shown = await tab.evaluate("document.querySelector('.assistant .text').innerText.trim()")
            # What is sent meanwhile is kept, and sent once; what is only written stays where it is.
            await write(tab, "count to 3")
            await tab.until("document.querySelector('.waiting li')?.innerText.includes('count to 3')")
            await tab.click(".composer textarea")
            await tab.type("half a thought")
            await shoot(tab, "lost")
            with daemon(folder, CONFIG, "--listen", f"127.0.0.1:{port}"):
                await tab.until(CONNECTED)
                await tab.until("[...document.querySelectorAll('.text')].at(-1).innerText.trim() === '1 2 3'")
                assert await tab.evaluate("document.querySelector('.composer textarea').value") == "half a thought"
                await tab.until("document.querySelector('.composer .stop').hidden")
                async with connect(folder) as wire:
                    stored = await stored_texts(wire, session["id"])
                # The text that was kept may be shorter than what was shown; the page shows what was kept.
                assert stored[1] and shown.startswith(stored[1])
                await shows(tab, stored)
                assert stored[2:] == ["count to 3", "1 2 3"]
                assert "Interrupted" in await tab.text(".assistant .end")
                await tab.reload()
                await tab.until("document.querySelectorAll('.message').length === 4")
                assert await tab.evaluate("document.querySelector('.composer textarea').value") == "half a thought"
                await shows(tab, stored)
                assert [offence for offence in await tab.verdict() if "ERR_CONNECTION" not in offence] == []


async def test_offline_and_back(server: DaemonProcess, browser: str) -> None:
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            session = (await wire.request("session.create"))["session"]["id"]
            tab = await sign_in(profile, server)
            await go(tab, session)
            await write(tab, "count to 400 every 5 ms")
            await tab.until("document.querySelector('.assistant .text')?.innerText.includes('1 2 3 4 5')")
            await tab.offline(True)
            await tab.until("document.querySelector('.connection').dataset.state !== 'open'")
            await tab.until("document.querySelector('#banner').innerText.includes('No network')")
            while (await wire.request("session.get", session_id=session))["session"].get("active_run_id"):
                pass  # the run goes on to its end meanwhile
            # A whole run begins and ends while the page is away.
            watch = await wire.request("run.start", session_id=session, text="count to 3", watch=True)
            await wire.events(watch["watch_id"])
            assert await tab.count(".user") == 1
            await tab.offline(False)
            await tab.until(CONNECTED)
            await tab.until("[...document.querySelectorAll('.text')].at(-1).innerText.trim() === '1 2 3'")
            numbers = " ".join(str(number) for number in range(1, 401))
            await shows(tab, ["count to 400 every 5 ms", numbers, "count to 3", "1 2 3"])
            await tab.until("document.querySelector('#banner').hidden")
