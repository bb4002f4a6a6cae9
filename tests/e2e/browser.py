"""A headless Chromium for end-to-end tests, driven over the Chrome DevTools Protocol.

`chromium` starts one for a module of tests; `browsing` opens a profile of its own in it (cookies, storage), so that no
test sees another's. Nothing waits for a time: `Tab.until` looks in the page until a condition holds, within a deadline.
What a page must never do without being asked (dialogs, requests to elsewhere, reports of its security policy, errors
of its scripts, leaving) is noted in `Tab.offences` from its first moment on.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

LIMIT = 120.0  # seconds for a condition of the page, on a machine that has other work
MESSAGE_BYTES = 64 << 20  # a screenshot of a high-resolution page
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-default-apps", "--hide-scrollbars", "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding", "--disable-background-timer-throttling", "--remote-debugging-port=0",
)  # fmt: skip
LISTENING = re.compile(rb"DevTools listening on (ws://\S+)")
# Codes of the keys that have no character.
KEYS = {
    "Enter": 13, "Escape": 27, "Tab": 9, "Home": 36, "End": 35, "Delete": 46,
    "ArrowUp": 38, "ArrowDown": 40, "ArrowLeft": 37, "ArrowRight": 39,
}  # fmt: skip
MODIFIERS = {"Alt": 1, "Control": 2, "Meta": 4, "Shift": 8}


def find_chromium() -> str:
    """The browser's program; skips the test where there is none, unless it is required."""
    named = os.environ.get("GREENROOM_CHROMIUM")
    found = named or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("GREENROOM_NEED_BROWSER") == "1":
            pytest.fail("Chromium is required here (GREENROOM_NEED_BROWSER) and is not in PATH")
        pytest.skip("no Chromium: install one, or name it in GREENROOM_CHROMIUM")
    return found


@contextlib.contextmanager
def chromium() -> Iterator[str]:
    """A browser process; the address of its DevTools."""
    program = find_chromium()
    with tempfile.TemporaryDirectory(prefix="greenroom-browser-", ignore_cleanup_errors=True) as profile:
        sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
        command = [program, *FLAGS, *sandbox, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stderr is not None
        try:
            seen = b""
            while (found := LISTENING.search(seen)) is None:
                line = process.stderr.readline()
                assert line, f"the browser did not start: {seen[-2000:].decode(errors='replace')}"
                seen += line
            # What it says later is of no interest, but its pipe must not fill up.
            drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
            yield found[1].decode()
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stderr.close()
        drain.wait(10)


class ProtocolError(Exception):
    """The browser refused a command."""


class Browser:
    """The connection to a browser, and a profile in it."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._next = 0
        self._replies: dict[int, dict[str, Any]] = {}
        self._news = trio.Condition()
        self._tabs: dict[str, Tab] = {}
        self._profile = ""

    async def read(self) -> None:
        """Take messages until the connection ends."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = json.loads(await self._socket.get_message())
                if "id" in message:
                    async with self._news:
                        self._replies[message["id"]] = message
                        self._news.notify_all()
                elif (tab := self._tabs.get(message.get("sessionId", ""))) is not None:
                    tab.take(message["method"], message["params"])

    async def command(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._next += 1
        number = self._next
        await self.post(number, method, session, params)
        async with self._news:
            while number not in self._replies:
                await self._news.wait()
        reply = self._replies.pop(number)
        if "error" in reply:
            raise ProtocolError(f"{method}: {reply['error']}")
        result: dict[str, Any] = reply["result"]
        return result

    async def post(self, number: int, method: str, session: str | None, params: dict[str, Any]) -> None:
        message = {"id": number, "method": method, "params": params}
        await self._socket.send_message(json.dumps(message if session is None else {**message, "sessionId": session}))

    async def tab(
        self, url: str, *, width: int = 1280, height: int = 800, phone: bool = False, dark: bool = False
    ) -> Tab:
        """A new tab at an address. `url` is also where it may send requests to and stay."""
        if not self._profile:
            self._profile = (await self.command("Target.createBrowserContext"))["browserContextId"]
        target = await self.command(
            "Target.createTarget", url="about:blank", browserContextId=self._profile, newWindow=True
        )
        attached = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        tab = Tab(self, attached["sessionId"], target["targetId"], url)
        self._tabs[attached["sessionId"]] = tab
        for domain in ("Page", "Runtime", "Network", "Log", "Security"):
            await tab.command(f"{domain}.enable")
        await tab.resize(width, height, phone=phone)
        await tab.scheme(dark=dark)
        await tab.command("Emulation.setFocusEmulationEnabled", enabled=True)  # as if each tab were in front
        await tab.command("Page.addScriptToEvaluateOnNewDocument", source=WITNESS)
        await tab.command("Page.navigate", url=url)
        return tab

    async def close(self) -> None:
        if self._profile:
            await self.command("Target.disposeBrowserContext", browserContextId=self._profile)


# Runs before the page's own scripts: what their policy forbids is told to the document only.
WITNESS = """
globalThis.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
    violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


class Tab:
    """One page. `offences` are what it did that no page of ours does."""

    def __init__(self, browser: Browser, session: str, target: str, url: str) -> None:
        self._browser = browser
        self._session = session
        self.target = target
        self.origin = "/".join(url.split("/")[:3])
        self.offences: list[str] = []
        self.requests: list[str] = []

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._browser.command(method, self._session, **params)

    def take(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.javascriptDialogOpening":
            self.offences.append(f"dialog: {params['message']}")
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.offences.append(f"error: {details.get('exception', {}).get('description', details['text'])}")
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            self.requests.append(url)
            if not url.startswith((self.origin, "blob:" + self.origin)):
                self.offences.append(f"request: {url}")
        elif method == "Network.webSocketCreated" and not params["url"].startswith(
            self.origin.replace("http", "ws", 1)
        ):
            self.offences.append(f"socket: {params['url']}")
        elif method == "Log.entryAdded" and params["entry"]["source"] in ("security", "violation", "intervention"):
            self.offences.append(f"{params['entry']['source']}: {params['entry']['text']}")
        elif method == "Page.frameNavigated" and not params["frame"]["url"].startswith((self.origin, "about:blank")):
            self.offences.append(f"navigation: {params['frame']['url']}")
        elif method == "Page.windowOpen":
            self.offences.append(f"window: {params['url']}")

    # ------------------------------------------------------------ looking
    async def evaluate(self, expression: str) -> Any:
        """The value of an expression, or of the promise that it gives."""
        reply = await self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in reply:
            raise AssertionError(f"{expression}: {reply['exceptionDetails'].get('exception', {}).get('description')}")
        return reply["result"].get("value")

    async def until(self, condition: str, seconds: float = LIMIT) -> Any:
        """The value of the condition as soon as it is true. An element that is not there makes it false."""
        look = f"""new Promise((resolve) => {{
            const look = () => {{
                let value = null;
                try {{ value = {condition}; }} catch {{}}
                if (value) resolve(value === true || typeof value !== "object" ? value : true);
                else setTimeout(look, 15);
            }};
            look();
        }})"""
        with trio.move_on_after(seconds):
            while True:
                try:
                    return await self.evaluate(look)
                except (ProtocolError, AssertionError):
                    await trio.sleep(0.02)  # the page was just being replaced
        with trio.fail_after(LIMIT):
            shown = await self.evaluate("document.body?.innerText.slice(-3000)")
        raise AssertionError(f"never: {condition}\noffences: {self.offences}\nthe page:\n{shown}")

    async def sees(self, text: str) -> None:
        await self.until(f"document.body.innerText.includes({json.dumps(text)})")

    async def text(self, selector: str) -> str:
        text: str = await self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
        return text

    async def count(self, selector: str) -> int:
        number: int = await self.evaluate(f"document.querySelectorAll({json.dumps(selector)}).length")
        return number

    async def verdict(self) -> list[str]:
        """All offences so far, those that only the document knows too."""
        return [*self.offences, *await self.evaluate("violations")]

    # ------------------------------------------------------------ doing
    async def click(self, selector: str, text: str = "") -> None:
        """Press the first element that is seen, with this text in it or as its label; as a mouse does."""
        found = await self.until(f"""(() => {{
            const all = [...document.querySelectorAll({json.dumps(selector)})].filter((element) =>
                element.checkVisibility() && !element.disabled &&
                (element.innerText + (element.getAttribute("aria-label") ?? "")).includes({json.dumps(text)}));
            if (!all.length) return null;
            all[0].scrollIntoView({{ block: "nearest" }});
            const box = all[0].getBoundingClientRect();
            const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
            const top = document.elementFromPoint(x, y);
            return all[0].contains(top) ? JSON.stringify([x, y]) : null;
        }})()""")
        x, y = json.loads(found)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = "none" if kind == "mouseMoved" else "left"
            await self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    async def type(self, text: str) -> None:
        """Into what has the focus."""
        await self.command("Input.insertText", text=text)

    async def key(self, name: str) -> None:
        """A key with its modifiers, such as `Control+k` or `Escape`."""
        *held, key = name.split("+")
        modifiers = sum(MODIFIERS[modifier] for modifier in held)
        if key in KEYS:
            code, number = key, KEYS[key]
            text = "\r" if key == "Enter" else ""
        else:
            letter = key.upper()
            code = f"Digit{key}" if key.isdigit() else f"Key{letter}" if letter.isalpha() else ""
            number, text = ord(letter), "" if modifiers & 7 else key
        params = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers}
        await self.command("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **params)
        await self.command("Input.dispatchKeyEvent", type="keyUp", **params)

    async def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        await self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        await self.command("Emulation.setTouchEmulationEnabled", enabled=phone)

    async def scheme(self, *, dark: bool) -> None:
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        await self.command("Emulation.setEmulatedMedia", features=features)

    async def offline(self, on: bool) -> None:
        await self.command(
            "Network.emulateNetworkConditions", offline=on, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )

    async def reload(self) -> None:
        await self.command("Page.reload")

    async def screenshot(self, path: Path) -> None:
        data = (await self.command("Page.captureScreenshot", format="png"))["data"]
        await trio.Path(path).write_bytes(base64.b64decode(data))


@contextlib.asynccontextmanager
async def browsing(address: str) -> AsyncIterator[Browser]:
    """A profile of its own in the browser at this address; gone at the end with all of its tabs. After a test that
    failed its tabs stay, until the browser ends."""
    place = urlsplit(address)
    stream = await trio.open_tcp_stream(place.hostname or "", place.port or 0)
    try:
        async with trio.open_nursery() as nursery:
            socket = await wrap_client_stream(
                nursery, stream, place.netloc, place.path, message_queue_size=64, max_message_size=MESSAGE_BYTES
            )
            browser = Browser(socket)
            nursery.start_soon(browser.read)
            yield browser
            await browser.close()
            await socket.aclose()
            nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(stream)
