"""The page, as somebody checked who had not written it: what one may be deceived by, and what one has to be told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.e2e.browser import browsing, chromium
from tests.e2e.raw import token_of
from tests.e2e.test_page import CONNECTED, go, sign_in, write
from tests.e2e.wire import DaemonProcess, connect, daemon
from tests.model_server import model_server

LIMIT = 120.0
TURNED = "safe\u202egpj.exe"  # shown as if it ended in .jpg
LONG = "b" * 40_000


@pytest.fixture(scope="module")
def browser() -> Iterator[str]:
    with chromium() as address:
        yield address


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, browser: str) -> Iterator[DaemonProcess]:
    with model_server() as service:
        config = f"""
            default_model = "theirs"
            [models.theirs]
            provider = "openai"
            base_url = "{service.url}"
            model = "greeting"
            [permissions]
            ask = ["files.read_file"]
            [limits]
            drain_timeout = "1s"
        """
        with daemon(tmp_path_factory.mktemp("checked") / "data", config) as process:
            yield process


def call(**values: str) -> str:
    """A message that makes the model call a tool that is asked for."""
    return f"!tool name=files__read_file input={json.dumps(values, separators=(',', ':'))}"


async def test_a_question_hides_nothing_of_the_input(server: DaemonProcess, browser: str) -> None:
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            session = (await wire.request("session.create"))["session"]["id"]
            tab = await sign_in(profile, server)
            await go(tab, session)
            started = await wire.request(
                "run.start", session_id=session, text=call(path=TURNED, read_more="also-this", long=LONG + "the-end")
            )
            await tab.until("document.querySelector('.ask')")
            shown = await tab.evaluate(
                "[...document.querySelectorAll('.ask dd')].map((value) => value.textContent.slice(0, 100))"
            )
            assert shown == [TURNED.replace("\u202e", "\ufffd"), "also-this", LONG[:100]]
            # Of a long one all of it can be read before it is allowed.
            assert "the-end" not in await tab.text(".ask")
            await tab.click(".ask .more button", "Show more")
            await tab.until("document.querySelector('.ask .result').innerText.includes('the-end')")
            await wire.request("run.stop", run_id=started["run"]["id"])
            await tab.until("!document.querySelector('.ask')")
            assert await tab.verdict() == []


async def test_who_did_not_decide_is_told(server: DaemonProcess, browser: str, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("a note")
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            session = (await wire.request("session.create", cwd=str(tmp_path)))["session"]["id"]
            one, two = await sign_in(profile, server), await sign_in(profile, server)
            await go(one, session)
            await go(two, session)
            await write(one, call(path="note.txt"))
            await two.until("document.querySelector('.ask')")
            await one.click(".ask button", "Deny")
            await two.sees("files.read_file was denied in another window or program.")
            await two.until("document.querySelector('#said').innerText !== ''")
            assert not await one.count(".told:not([hidden])")
            # The next question takes its place; this time the other one is the first.
            await one.until("document.querySelector('.composer .stop').hidden")
            await write(one, call(path="note.txt"))
            await one.until("document.querySelector('.ask')")
            await two.click(".ask button", "Allow")
            await one.sees("files.read_file was allowed in another window or program.")
            await two.until("!document.querySelector('.ask')")
            assert not await two.count(".told:not([hidden])")


async def test_the_send_button_of_a_phone_is_at_its_end(server: DaemonProcess, browser: str) -> None:
    right = "document.querySelector('.composer .row').getBoundingClientRect().right"
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile:
            tab = await sign_in(profile, server, width=360, height=640, phone=True)
            await tab.until(f"document.querySelector('.composer .primary').getBoundingClientRect().right === {right}")


async def test_the_largest_owner_is_the_first(server: DaemonProcess, browser: str) -> None:
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile:
            tab = await sign_in(profile, server)
            await tab.evaluate("location.hash = '#/holds'")
            await tab.until("document.querySelectorAll('.legend tbody tr').length > 5")
            shares = await tab.evaluate(
                "[...document.querySelectorAll('.legend td:nth-child(3)')].map((cell) => parseFloat(cell.innerText))"
            )
            assert shares == sorted(shares, reverse=True) and shares[0] > shares[-1]


async def test_text_that_is_written_from_the_right_stands_there(server: DaemonProcess, browser: str) -> None:
    text = "!stream n=1 text=שלום\xa0(abc)!\n\n-\tפריט\n\nabc\n\n-\titem"  # the scenario's settings have no spaces
    side = "(range.selectNode({}), range.getBoundingClientRect().left > innerWidth / 2)"
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            session = (await wire.request("session.create"))["session"]["id"]
            tab = await sign_in(profile, server, width=600)
            await go(tab, session)
            await wire.request("run.start", session_id=session, text=text)
            await tab.until("document.querySelectorAll('.markdown li').length === 2")
            await tab.evaluate("globalThis.range = document.createRange()")
            await tab.evaluate("globalThis.text = (node) => (node.firstChild ? text(node.firstChild) : node)")
            for place, at_right in (("p", True), ("li", True), ("ul + p", False)):
                words = f"document.querySelector('.markdown').querySelector({json.dumps(place)})"
                assert await tab.evaluate(side.format(f"text({words})")) is at_right, place
            directions = (
                "[...document.querySelectorAll('.markdown ul')].map((list) => getComputedStyle(list).direction)"
            )
            assert await tab.evaluate(directions) == ["rtl", "ltr"]


async def test_a_long_answer_is_there_to_its_end(server: DaemonProcess, browser: str) -> None:
    text = "document.querySelector('.text').innerText.trimEnd()"
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            session = (await wire.request("session.create"))["session"]["id"]
            tab = await sign_in(profile, server)
            await go(tab, session)
            await write(tab, "!document size=60000 piece=2000 n=7")
            await tab.until(f"{text}.endsWith('end-7.')")
            await tab.until("!document.querySelector('.markdown[aria-busy=true]')")
            written = await tab.evaluate(text)
            # Read again, over the same view and into a new one.
            await tab.offline(True)
            await tab.until("document.querySelector('.connection').dataset.state !== 'open'")
            await tab.offline(False)
            await tab.until("document.querySelector('.connection').dataset.state === 'open'")
            started = await wire.request("run.start", session_id=session, text="!stream n=1 text=next", watch=True)
            await wire.events(started["watch_id"])
            await tab.until("[...document.querySelectorAll('.text')].at(-1).innerText === 'next'")
            assert await tab.evaluate(text) == written
            await tab.reload()
            await tab.until("[...document.querySelectorAll('.text')].at(-1).innerText === 'next'")
            await tab.evaluate("document.querySelector('.message').scrollIntoView()")
            await tab.until(f"{text}.endsWith('end-7.')")
            await tab.until("!document.querySelector('.markdown[aria-busy=true]')")
            assert await tab.evaluate(text) == written
            assert not await tab.count(".more:not([hidden])")


async def test_settings_change_what_was_changed(server: DaemonProcess, browser: str) -> None:
    said = "Be brief. " * 5000  # more than a session's object has of it
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            session = (await wire.request("session.create", instructions=said))["session"]
            assert len(session["instructions"]) < len(said)
            tab = await sign_in(profile, server)
            await go(tab, session["id"])
            for words in ("", "The end."):
                await tab.click(".head button", "Menu")
                await tab.click(".menu button", "Settings")
                await tab.click("dialog textarea")
                await tab.key("Control+End")
                await tab.type(words)
                await tab.click("dialog button", "Save")
                await tab.until("!document.querySelector('dialog')")
                size = len((said + words).strip() if words else said)
                while (now := (await wire.request("session.get", session_id=session["id"]))["session"])[
                    "instructions_more"
                ]["bytes"] != size:
                    pass
            assert (now["model"], now["toolsets"]) == (session["model"], session["toolsets"])


async def test_a_file_with_a_long_name_stays_in_its_column(server: DaemonProcess, browser: str) -> None:
    file = {"kind": "file", "name": "n" * 200, "mime": "text/html", "data_base64": "eA=="}
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            session = (await wire.request("session.create"))["session"]["id"]
            tab = await sign_in(profile, server, width=360, height=640, phone=True)
            await go(tab, session)
            await wire.request("run.start", session_id=session, input=[file])
            await tab.until("document.querySelector('.file button')")
            assert await tab.evaluate("document.querySelector('.scroller').scrollWidth <= innerWidth")


async def test_a_token_that_is_none_is_told_and_one_with_spaces_is_taken(server: DaemonProcess, browser: str) -> None:
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile:
            tab = await profile.tab(server.url)
            await tab.sees("Or enter the token")
            assert "not the token" not in await tab.text("main")
            for given in ("another", f" {token_of(server.folder)} "):
                await tab.click("#token")
                await tab.type(given)
                await tab.key("Enter")
                await tab.until(
                    CONNECTED if given != "another" else "document.body.innerText.includes('not the token')"
                )
            assert "token" not in await tab.evaluate("location.href")
            assert await tab.verdict() == []


async def test_a_menu_is_left_by_tab(server: DaemonProcess, browser: str) -> None:
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            session = (await wire.request("session.create"))["session"]["id"]
            tab = await sign_in(profile, server)
            await go(tab, session)
            await tab.evaluate("document.querySelector('.head [aria-haspopup]').focus()")
            await tab.key("Enter")
            await tab.until("document.activeElement.role === 'menuitem'")
            await tab.key("Tab")
            await tab.until("!document.querySelector('.menu')")
            assert await tab.evaluate("document.querySelector('.main').contains(document.activeElement)")
