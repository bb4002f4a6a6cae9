"""The page for everybody: by keyboard alone, on a phone, for a screen reader; long sessions, and the drawn figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from tests.e2e.browser import Tab, browsing, chromium
from tests.e2e.test_cli import answer, greenroom
from tests.e2e.test_page import go, shoot, sign_in, write
from tests.e2e.wire import DaemonProcess, connect, daemon

LIMIT = 120.0
CONFIG = """
[permissions]
ask = ["files.list_directory", "files.read_file"]
[limits]
drain_timeout = "1s"
"""
LARGE = 24  # messages of a page that is nearly empty
LONG = 400  # messages: more than are in the document at once
MOST = 200
VIEWS = ("new", "runs", "toolsets", "holds")


def long_session() -> Iterator[dict[str, Any]]:
    session = {"id": "ses_l", "title": "A long one", "model": "demo", "cwd": "/", "created_at": 1}
    yield {"greenroom": "session", "version": 1, "session": session}
    for number in range(LONG):
        message = {"role": "assistant", "finished_at": number, "finish": "stop"} if number % 2 else {"role": "user"}
        yield {"message": {**message, "id": f"msg_{number}", "created_at": number}}
        yield {"part": {"kind": "text", "id": f"prt_{number}", "text": f"message {number} " + "of many words " * 12}}
    yield {"end": {"messages": LONG, "parts": LONG, "blobs": 0}}


def large_session() -> Iterator[dict[str, Any]]:
    """Calls of which a few fill a page of the protocol, and that take next to no room while they are folded."""
    session = {"id": "ses_b", "title": "Large results", "model": "demo", "cwd": "/", "created_at": 1}
    yield {"greenroom": "session", "version": 1, "session": session}
    for number in range(LARGE):
        message = {"role": "assistant", "finished_at": number, "finish": "tool_calls"}
        yield {"message": {**message, "id": f"msg_{number}", "created_at": number}}
        call = {"call_id": f"call_{number}", "tool": "shell.run", "state": "completed", "title": f"command {number}"}
        part = {"kind": "tool", "id": f"prt_{number}", **call, "input": "{}"}
        yield {"part": part, "long": {"output": 40_000}}
        for _ in range(4):
            yield {"piece": "z" * 10_000}
    yield {"end": {"messages": LARGE, "parts": LARGE, "blobs": 0}}


@pytest.fixture(scope="module")
def browser() -> Iterator[str]:
    with chromium() as address:
        yield address


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, browser: str) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("reach") / "data"
    for lines in (large_session(), long_session()):
        answer(greenroom(folder, "sessions", "import", text="".join(json.dumps(line) + "\n" for line in lines)))
    with daemon(folder, CONFIG) as process:
        yield process


async def has_focus(tab: Tab, selector: str) -> None:
    await tab.until(f"document.activeElement.matches({json.dumps(selector)})")


# The element with the focus: what it is, and whether one sees that it has it.
STOP = """(() => {
    const element = document.activeElement;
    if (element === document.body) return null;
    element.dataset.stopped = "yes";
    const style = getComputedStyle(element.closest(".composer textarea")?.form ?? element);
    const box = element.getBoundingClientRect();
    const marked = style.outlineStyle !== "none" || style.boxShadow !== "none";
    return [element.className || element.localName, marked && box.width > 0 && box.top >= 0];
})()"""


async def test_by_keyboard_alone(server: DaemonProcess, browser: str) -> None:
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            tab = await sign_in(profile, server)
            await tab.until("document.querySelector('.rows li')")
            # The first stop skips the rest; then Tab goes through everything, and each stop is seen.
            await tab.evaluate("document.querySelector('.skip').focus()")
            assert await tab.evaluate(STOP) == ["skip", True]
            stops = {}
            for _ in range(60):
                await tab.key("Tab")
                if (stop := await tab.evaluate(STOP)) is None or stop[0] == "skip":
                    break
                stops.setdefault(*stop)
            assert all(stops.values()), stops
            wanted = (
                ".brand",
                "a.new",
                "input[type=search]",
                ".rows a",
                ".rows button",
                ".places a",
                "select",
                "textarea",
            )
            found = await tab.evaluate(
                f"{json.dumps(wanted)}.map((one) => document.querySelector(one).dataset.stopped)"
            )
            assert found == ["yes"] * len(wanted)
            await tab.evaluate("document.querySelector('.skip').focus()")
            await tab.key("Enter")
            await has_focus(tab, "main")
            assert await tab.evaluate("location.hash") in ("", "#/new")  # it is no other view

            # A session, an approval and a stop, without a pointer.
            await tab.key("Alt+n")
            await has_focus(tab, ".composer textarea")
            await tab.type("read nothing.txt")
            await tab.key("Enter")
            await tab.until("document.querySelector('.ask')")
            await tab.key("Alt+a")
            await has_focus(tab, ".ask .primary")
            await tab.until("document.querySelector('#said').innerText.includes('asks for approval')")
            await tab.key("Enter")
            await tab.until("!document.querySelector('.ask')")
            await tab.until("document.querySelector('.tool').dataset.state === 'error'")
            await has_focus(tab, ".composer textarea")
            await tab.until("document.querySelector('.composer .stop').hidden")
            await tab.type("count to 100000 every 20 ms")
            await tab.key("Enter")
            await tab.until("[...document.querySelectorAll('.text')].at(-1).innerText.startsWith('1 2')")
            # The help takes Escape for itself; the next one is the run's.
            await tab.evaluate("document.querySelector('h1').focus()")
            await tab.key("Shift+?")
            await tab.until("document.querySelector('dialog[open]')")
            assert "Ctrl + K\nSearch the sessions" in await tab.text("dialog")
            await tab.key("Escape")
            await tab.until("!document.querySelector('dialog')")
            assert not await tab.evaluate("document.querySelector('.composer .stop').hidden")
            await tab.key("Escape")
            await tab.until("[...document.querySelectorAll('.end')].at(-1)?.innerText.includes('Stopped')")

            # The search, the list, and a menu.
            await tab.key("Control+k")
            await tab.type("A long")
            await tab.key("Enter")
            await tab.until("document.querySelector('.head h1').innerText === 'A long one'")
            await tab.evaluate("document.querySelector('.head [aria-haspopup]').focus()")
            await tab.key("Enter")
            await has_focus(tab, ".menu .entry:first-child")
            await tab.key("ArrowUp")
            await has_focus(tab, ".menu .entry:last-child")
            await tab.key("Escape")
            await has_focus(tab, ".head [aria-haspopup]")
            for number, view in enumerate(VIEWS[1:], 2):
                await tab.key(f"Alt+{number}")
                await tab.until(f"location.hash === '#/{view}' && document.activeElement.localName === 'h1'")
            assert await tab.verdict() == []
            # What a screen reader is told of each control.
            tree = (await tab.command("Accessibility.getFullAXTree"))["nodes"]
            roles: dict[str, list[str]] = {}
            for node in tree:
                roles.setdefault(node.get("role", {}).get("value"), []).append(node.get("name", {}).get("value", ""))
            for role in ("button", "link", "searchbox"):
                assert roles[role] and all(roles[role])
            assert {"main", "navigation", "complementary", "banner"} <= set(roles)
            assert (await wire.request("daemon.stats"))["counts"]["defects"] == 0


WIDE = """(() => {
    const wide = [...document.querySelectorAll("body *")].filter((element) => {
        if (!element.checkVisibility() || element.closest(".hidden, .skip, .side:not(.open)")) return false;
        if (element.getBoundingClientRect().right <= innerWidth + 0.5) return false;
        for (let up = element.parentElement; up !== document.body; up = up.parentElement)
            if (up.getBoundingClientRect().right <= innerWidth + 0.5 && getComputedStyle(up).overflowX === "auto")
                return false;
        return true;
    });
    const places = [...document.querySelectorAll(".scroller, .view, .side.open")];
    const scrolled = places.filter((one) => one.scrollWidth > one.clientWidth);
    return [...wide, ...scrolled].map((element) => element.className || element.localName);
})()"""


async def test_on_a_phone(server: DaemonProcess, browser: str) -> None:
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            tab = await sign_in(profile, server, width=360, height=740, phone=True)
            session = (await wire.request("session.create", title="word" * 45))["session"]["id"]
            await go(tab, session)
            await tab.click(".composer textarea")
            await tab.type("read " + "a-long-name-without-a-space-" * 20)
            await tab.click(".composer .primary")
            await tab.until("document.querySelector('.ask')")
            assert await tab.evaluate(WIDE) == []
            await shoot(tab, "phone")
            await tab.click(".ask button", "Deny")
            await tab.until("document.querySelector('.tool').dataset.state === 'error'")
            await tab.evaluate("document.querySelector('.tool details').open = true")
            assert await tab.evaluate(WIDE) == []
            for view in VIEWS:
                # The drawer has the focus while it is open, and gives it back.
                await tab.click(".head button", "Sessions and views")
                await tab.until("document.querySelector('.side').classList.contains('open')")
                assert await tab.evaluate("document.querySelector('.side').contains(document.activeElement)")
                assert await tab.evaluate("document.querySelector('.stage').inert")
                assert await tab.evaluate(WIDE) == []
                await tab.click(f".side a[href='#/{view}']:not(.brand)")
                await tab.until(f"location.hash === '#/{view}' && !document.querySelector('.side.open')")
                ready = {"runs": "tbody tr", "toolsets": ".card", "holds": ".plot .area"}.get(view, "select option")
                await tab.until(f"document.querySelector('.main {ready}')")
                assert await tab.evaluate(WIDE) == []
            await tab.click(".head button", "Sessions and views")
            await tab.until("document.querySelector('.side').classList.contains('open')")
            await tab.key("Escape")
            await has_focus(tab, ".head button")
            assert await tab.verdict() == []


NUMBERS = "[...document.querySelectorAll('.message')].map((one) => Number(one.innerText.match(/message (\\d+)/)?.[1]))"


async def test_a_long_session_is_paged_and_the_document_stays_small(server: DaemonProcess, browser: str) -> None:
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            (session,) = (await wire.request("session.list", query="A long"))["sessions"]
            tab = await sign_in(profile, server)
            await go(tab, session["id"])
            await tab.until("document.querySelectorAll('.message').length === 50")
            # The most messages that were ever there, seen after each change of the document.
            await tab.evaluate("""(() => {
                globalThis.most = 0;
                new MutationObserver(() => (most = Math.max(most, document.querySelectorAll(".message").length)))
                    .observe(document.querySelector(".messages"), { childList: true });
            })()""")
            seen = set(await tab.evaluate(NUMBERS))
            first = LONG - 50
            while first > 0:
                # What is looked at stays where it is while the page before it comes in.
                await tab.evaluate("document.querySelector('.scroller').scrollTop = 0")
                await tab.until(f"({NUMBERS})[0] < {first}")
                numbers = await tab.evaluate(NUMBERS)
                assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
                assert await tab.evaluate("document.querySelector('.scroller').scrollTop") > 0
                seen.update(numbers)
                first = numbers[0]
            assert seen == set(range(LONG))
            last = await tab.evaluate(f"({NUMBERS}).at(-1)")
            assert last < LONG - 1  # the newest have made room
            while last < LONG - 1:
                await tab.evaluate("document.querySelector('.scroller').scrollTop = 1e9")
                await tab.until(f"({NUMBERS}).at(-1) > {last}")
                numbers = await tab.evaluate(NUMBERS)
                assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
                last = numbers[-1]
            assert await tab.evaluate("most") <= MOST
            # From far above, a message that is sent leads to the end, and so does the button.
            for how in ("send", "button"):
                for _ in range(4):
                    top = await tab.evaluate(f"({NUMBERS})[0]")
                    await tab.evaluate("document.querySelector('.scroller').scrollTop = 0")
                    await tab.until(f"({NUMBERS})[0] < {top}")
                if how == "send":
                    await write(tab, "count to 3")
                else:
                    await tab.click(".jump")
                await tab.until("[...document.querySelectorAll('.text')].at(-1).innerText.trim() === '1 2 3'")
                await tab.until("document.querySelector('.jump').hidden")
            assert await tab.evaluate("most") <= MOST
            assert await tab.verdict() == []


def every(selector: str, what: str) -> str:
    return f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.{what})"


async def test_a_page_that_does_not_fill_the_screen_is_followed_by_the_one_before(
    server: DaemonProcess, browser: str
) -> None:
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            (session,) = (await wire.request("session.list", query="Large"))["sessions"]
            page = await wire.request("session.messages", session_id=session["id"], limit=50)
            assert len(page["messages"]) < LARGE  # one page of the protocol has not all of it
            tab = await sign_in(profile, server)
            await go(tab, session["id"])
            await tab.sees("command 0")
            names = await tab.evaluate(every(".gist", "innerText"))
            assert names == [f"command {number}" for number in range(LARGE)]
            assert await tab.verdict() == []


async def test_what_the_daemon_holds_is_drawn(server: DaemonProcess, browser: str) -> None:
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            stats = await wire.request("daemon.stats")
            tab = await sign_in(profile, server)
            await tab.evaluate("location.hash = '#/holds'")
            points = "document.querySelector('.plot .resident').getAttribute('d').split(/[ML]/).length - 1"
            await tab.until(f"{points} >= 3")
            assert await tab.count(".plot .area") == len(stats["memory"]["owned"])
            drawn = await tab.evaluate(every(".plot path", "getAttribute('d')"))
            assert not any("NaN" in path or "Infinity" in path for path in drawn)
            # Each area begins where the one below it ends, within the drawing; the largest owner has much of it.
            tops = await tab.evaluate(every(".plot .area", "getAttribute('d').match(/^M[\\d.]+ ([\\d.]+)/)[1]"))
            assert [float(top) for top in tops] == sorted((float(top) for top in tops), reverse=True)
            assert 0 < float(tops[-1]) < float(tops[0]) < 260
            assert max(await tab.evaluate(every(".plot .area", "getBBox().height"))) > 40
            names = await tab.evaluate(every(".legend th[scope=row]", "innerText.trim()"))
            assert set(names) == {name.replace("_", " ") for name in stats["memory"]["owned"]}
            assert "MB" in await tab.text(".tile .value")
            # The last hour, as the daemon has it: what is older than ten minutes is drawn with it.
            await tab.click(".holds .modes label", "1 hour")
            await tab.until("document.querySelector('.holds .modes input:checked + span').innerText === '1 hour'")
            # A moment is picked by key.
            await tab.evaluate("document.querySelector('.figure').focus()")
            await tab.key("ArrowLeft")
            await tab.until("/resident · .* MB/.test(document.querySelector('.reading').innerText)")
            await shoot(tab, "holds")
            await tab.evaluate("location.hash = '#/toolsets'")
            await tab.until("document.querySelectorAll('.card').length === 4")
            await tab.click(".card button", "Restart")
            await tab.click("dialog button", "Restart")
            await tab.until("document.querySelector('.card').innerText.includes('ready')")
            assert await tab.verdict() == []


def luminance(colour: str) -> float:
    red, green, blue = (int(colour.lstrip("#")[at : at + 2], 16) / 255 for at in (0, 2, 4))
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
async def test_text_can_be_read_in_both_schemes(server: DaemonProcess, browser: str, dark: bool) -> None:
    """WCAG AA: 4.5 to 1 for text, 3 to 1 for the edges of controls, of every pair that the style sheets have."""
    pairs = {
        "ink": "paper side raised sunk user accent-soft warn-soft", "soft": "paper side raised sunk warn-soft",
        "accent": "paper side raised sunk accent-soft", "warn": "paper raised warn-soft",
        "bad": "paper raised bad-soft", "accent-ink": "accent",
        **dict.fromkeys(("keyword", "string", "comment", "number"), "sunk"),
    }  # fmt: skip
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile:
            tab = await sign_in(profile, server, dark=dark)
            names = {*pairs, "line-strong", *" ".join(pairs.values()).split()}
            style = "getComputedStyle(document.documentElement)"
            colours = {name: await tab.evaluate(f"{style}.getPropertyValue('--{name}').trim()") for name in names}
            assert await tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is dark

    def contrast(one: str, two: str) -> float:
        high, low = sorted((luminance(colours[one]), luminance(colours[two])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    weak = {(text, place) for text, places in pairs.items() for place in places.split() if contrast(text, place) < 4.5}
    weak |= {("line-strong", place) for place in ("paper", "side", "raised") if contrast("line-strong", place) < 3}
    assert weak == set()
