"""Ways through the page beside the straight one: a log that is too short, other sessions, files, retries, steering."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.e2e.browser import browsing, chromium
from tests.e2e.test_page import go, shoot, shows, sign_in, stored_texts, write
from tests.e2e.wire import DaemonProcess, connect, daemon
from tests.model_server import model_server

LIMIT = 120.0


@pytest.fixture(scope="module")
def browser() -> Iterator[str]:
    with chromium() as address:
        yield address


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, browser: str) -> Iterator[DaemonProcess]:
    with model_server() as service:
        # Whoever comes to a run that is at work finds that its log begins later, and gets a snapshot.
        config = f"""
            default_model = "demo"
            [models.theirs]
            provider = "openai"
            base_url = "{service.url}"
            model = "greeting"
            [models.theirs.price]
            input = 3.0
            output = 15.0
            [permissions]
            ask = ["files.read_file"]
            [limits]
            run_log_entries = 4
            drain_timeout = "1s"
        """
        with daemon(tmp_path_factory.mktemp("paths") / "data", config) as process:
            yield process


def picture(side: int) -> bytes:
    """A PNG of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes((40, 110, 80)) * side) * side
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


async def test_who_comes_late_gets_a_snapshot_and_goes_on(server: DaemonProcess, browser: str) -> None:
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            session = (await wire.request("session.create"))["session"]["id"]
            other = (await wire.request("session.create", title="Other"))["session"]["id"]
            await wire.request("run.start", session_id=session, text="count to 500 every 10 ms")
            tab = await sign_in(profile, server)
            # There and away and there again, while it is written.
            for _ in range(3):
                await go(tab, session)
                await tab.until("document.querySelector('.assistant .text')?.innerText.startsWith('1 2 3')")
                await go(tab, other)
                await tab.until("!document.querySelector('.main .empty').hidden")
            await go(tab, session)
            await tab.reload()
            await tab.until("document.querySelector('.assistant .text')?.innerText.trim().endsWith(' 500')")
            numbers = " ".join(str(number) for number in range(1, 501))
            await shows(tab, ["count to 500 every 10 ms", numbers])
            await tab.until("document.querySelector('.composer .stop').hidden")
            # A question that waits is there for who comes late, too, and goes when somebody else has answered it.
            started = await wire.request("run.start", session_id=session, text="read nothing.txt")
            await tab.until("document.querySelector('.tool .ask')")
            await tab.reload()
            await tab.until("document.querySelector('.tool .ask')")
            run = started["run"]["id"]
            (asked,) = await tab.evaluate("[...document.querySelectorAll('.ask code')].map((one) => one.innerText)")
            assert asked == "files.read_file"
            await wire.request("run.stop", run_id=run)
            await tab.until("!document.querySelector('.ask')")
            await tab.until("[...document.querySelectorAll('.end')].at(-1).innerText.includes('Stopped')")
            # What is deleted elsewhere is left.
            await wire.request("session.delete", session_id=session)
            await tab.until("location.hash === '#/new'")
            await tab.sees("does not exist any more")
            assert await tab.verdict() == []


async def test_what_is_sent_to_a_run_at_work(server: DaemonProcess, browser: str) -> None:
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            session = (await wire.request("session.create"))["session"]["id"]
            tab = await sign_in(profile, server)
            await go(tab, session)
            await write(tab, "count to 60 every 10 ms")
            await tab.until("document.querySelector('.assistant .text')?.innerText.startsWith('1 2 3')")
            await tab.click(".composer .modes label", "Steer")
            await write(tab, "count to 100000 every 20 ms")
            await tab.until("[...document.querySelectorAll('.user')].at(-1).innerText.includes('100000')")
            await tab.until("[...document.querySelectorAll('.text')].at(-1).innerText.startsWith('1 2 3 4')")
            await tab.click(".composer .modes label", "Interrupt")
            await write(tab, "count to 3")
            while (stored := await stored_texts(wire, session))[-2:] != ["count to 3", "1 2 3"]:
                pass
            await shows(tab, stored)
            runs = (await wire.request("run.list", session_id=session))["runs"]
            assert [run["status"] for run in runs] == ["completed", "cancelled"]
            # For the model, a summary takes the place of what was said; here nothing goes.
            before = await tab.count(".message")
            await tab.click(".head button", "Menu")
            await tab.click(".menu button", "Summarise")
            await tab.until(f"document.querySelectorAll('.message').length > {before}")
            await tab.until("document.querySelector('.composer .stop').hidden")
            assert await tab.verdict() == []


async def test_files_retries_and_costs(server: DaemonProcess, browser: str, tmp_path: Path) -> None:
    image, text = tmp_path / "green.png", tmp_path / "notes.txt"
    image.write_bytes(picture(400))
    text.write_text("a note")
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            session = (await wire.request("session.create", model="theirs"))["session"]["id"]
            tab = await sign_in(profile, server)
            await go(tab, session)
            document = (await tab.command("DOM.getDocument"))["root"]["nodeId"]
            node = await tab.command("DOM.querySelector", nodeId=document, selector=".composer input[type=file]")
            await tab.command("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(image), str(text)])
            await tab.until("document.querySelectorAll('.chips li').length === 2")
            await write(tab, "What is it?")
            await tab.until("document.querySelector('.user img')?.naturalWidth === 400")
            assert await tab.count(".user .file") == 2 and "notes.txt" in await tab.text(".user")
            await tab.until("document.querySelector('.text')?.innerText.includes('Hello from the model server')")
            await tab.until("document.querySelector('.head .used').innerText.includes('USD')")
            await shoot(tab, "files")
            # A service that fails once: it is told, and the answer comes.
            await write(tab, "!flaky id=page fails=1 how=status")
            await tab.until("document.querySelector('.now').innerText.includes('Attempt 2 of')")
            await tab.until("[...document.querySelectorAll('.text')].at(-1).innerText.includes('Hello from')")
            await tab.until("document.querySelectorAll('.text').length === 2")
            await tab.until("document.querySelector('.messages').innerText.includes('Attempt 2, after')")
            await tab.reload()
            await tab.until("document.querySelector('.user img')?.naturalWidth === 400")
            assert await tab.verdict() == []


async def test_a_browser_whose_token_is_not_the_daemon_s_any_more(tmp_path: Path, browser: str) -> None:
    folder = tmp_path / "data"
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile:
            with daemon(folder) as process:
                port = process.url.rpartition(":")[2]
                tab = await sign_in(profile, process)
            await tab.until("document.querySelector('.connection').dataset.state !== 'open'")
            (folder / "token").unlink()
            with daemon(folder, None, "--listen", f"127.0.0.1:{port}"):
                await tab.until("document.querySelector('.connection').dataset.state === 'refused'")
                await tab.sees("not signed in any more")
