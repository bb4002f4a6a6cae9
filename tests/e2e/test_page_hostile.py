"""What comes from models, tools and files does nothing on the page but stand there: checked in a real browser."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from tests.actors.toolsets import hostile as tool_server
from tests.e2e.browser import Tab, browsing, chromium
from tests.e2e.test_cli import answer, greenroom
from tests.e2e.test_page import go, shoot, sign_in
from tests.e2e.wire import DaemonProcess, connect, daemon
from tests.model_server import model_server

LIMIT = 120.0
IMAGE = "<img src=x onerror=alert(1)>"
MARKUP = """# <script>alert(1)</script>
<img src=x onerror=alert(1)> <svg onload=alert(1)></svg> <iframe src="https://evil.example/"></iframe>
<a href="javascript:alert(1)">raw</a> <style>body{display:none}</style> <base href="https://evil.example/">
<meta http-equiv=refresh content="0;url=https://evil.example/"> <link rel=stylesheet href=https://evil.example/x.css>
<form action=https://evil.example><button>go</button></form> <object data=https://evil.example></object>

[one](javascript:alert(1)) [two](data:text/html,<script>alert(1)</script>) [three](vbscript:x) [four](//evil.example)
[five](java&#x73;cript:alert(1)) [six]( JaVaScRiPt:alert(1)) <javascript:alert(1)> [seven](https://ok.example/"onx=1)
![pic](https://evil.example/p.png) ![pic](data:image/svg+xml,<svg/onload=alert(1)>) [r]: javascript:alert(1)

| a | <img src=x onerror=alert(1)> |
|---|---|
| `<b>` | [x](javascript:alert(1)) |

```html"><script>alert(1)</script>
<script>alert(1)</script>
```
&lt;script&gt;alert(1)&lt;/script&gt; &#60;script&#62;
"""
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
LINE = 1_000_000  # characters of a line that never ends
# What nothing of a transcript may become.
FORBIDDEN = (
    "script, iframe, object, embed, style, link, base, meta, form, svg:not(.icon), img, video, audio, math, template,"
    "[onerror], [onload], [onclick], [style], [srcdoc], [formaction]"
)


def file_part(number: int, mime: str, data: bytes) -> dict[str, Any]:
    text = base64.b64encode(data).decode()
    return {
        "kind": "file", "id": f"prt_f{number}", "mime": mime, "size": len(data), "name": f"../{IMAGE}",
        "data_base64": text,
    }  # fmt: skip


def hostile_session() -> Iterator[dict[str, Any]]:
    """A session of which every text is an attack, as the lines of an export."""
    yield {
        "greenroom": "session",
        "version": 1,
        "session": {"id": "ses_h", "title": IMAGE, "model": "demo", "cwd": "/", "created_at": 1},
    }
    yield {"message": {"role": "user", "id": "msg_1", "created_at": 1}}
    yield {"part": {"kind": "text", "id": "prt_1", "text": MARKUP}}
    error = {"code": "provider_error", "message": IMAGE}
    yield {
        "message": {
            "role": "assistant", "id": "msg_2", "created_at": 2, "finished_at": 3, "model": IMAGE, "finish": "error",
            "error": error,
        }
    }  # fmt: skip
    call = {"call_id": "call_1", "tool": IMAGE, "state": "completed", "title": IMAGE}
    parts: list[dict[str, Any]] = [
        {"kind": "text", "id": "prt_2", "text": MARKUP},
        {"kind": "reasoning", "id": "prt_3", "text": MARKUP},
        {"kind": "tool", "id": "prt_4", **call, "input": json.dumps({"path": IMAGE, IMAGE: IMAGE}), "output": MARKUP},
        {"kind": "patch", "id": "prt_5", "path": IMAGE, "size": 1},
        {"kind": "retry", "id": "prt_6", "attempt": 2, "reason": IMAGE, "delay_ms": 1},
        {"kind": "subtask", "id": "prt_7", "agent": IMAGE, "description": IMAGE, "prompt": IMAGE},
        {"kind": "agent", "id": "prt_8", "name": IMAGE},
        file_part(1, "image/svg+xml", SVG),
        file_part(2, "text/html", b"<script>alert(1)</script>"),
        file_part(3, "image/png", SVG),
    ]
    for part in parts:
        yield {"part": part}
    yield {"message": {"role": "assistant", "id": "msg_3", "created_at": 4, "finished_at": 5, "finish": "stop"}}
    yield {"part": {"kind": "compaction", "id": "prt_9", "summary": MARKUP}}
    yield {"message": {"role": "assistant", "id": "msg_4", "created_at": 6, "finished_at": 7, "finish": "stop"}}
    yield {"part": {"kind": "text", "id": "prt_10"}, "long": {"text": LINE}}
    for _ in range(LINE // 10_000):
        yield {"piece": "x" * 10_000}
    yield {"end": {"messages": 4, "parts": 13, "blobs": 0}}


@pytest.fixture(scope="module")
def browser() -> Iterator[str]:
    with chromium() as address:
        yield address


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, browser: str) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("hostile") / "data"
    lines = "".join(json.dumps(line) + "\n" for line in hostile_session())
    answer(greenroom(folder, "sessions", "import", text=lines))
    with model_server() as service:
        config = f"""
            default_model = "theirs"
            [models.theirs]
            provider = "openai"
            base_url = "{service.url}"
            model = "greeting"
            [toolsets.their]
            kind = "mcp"
            command = "{sys.executable}"
            args = ["{tool_server.__file__}", "{{}}"]
            [permissions]
            allow = ["their"]
        """
        with daemon(folder, config) as process:
            yield process


async def nothing_happened(tab: Tab, *, question: bool = False) -> None:
    """No element of the kinds that do something came of any text, and the browser has nothing to report."""
    forbidden = FORBIDDEN.replace(" form,", " form:not(.ask),") if question else FORBIDDEN
    found = f"[...document.querySelectorAll(`.messages :is({forbidden})`)].map((element) => element.outerHTML)"
    assert await tab.evaluate(found) == []
    links = "[...document.querySelectorAll('.messages a')].map((link) => [link.protocol, link.rel, link.target])"
    for protocol, rel, target in await tab.evaluate(links):
        assert protocol in ("https:", "http:", "mailto:") and "noopener" in rel and target == "_blank"
    assert await tab.verdict() == []


async def test_a_stored_session_of_attacks(server: DaemonProcess, browser: str) -> None:
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            (session,) = (await wire.request("session.list"))["sessions"]
            tab = await sign_in(profile, server)
            await go(tab, session["id"])
            assert await tab.text(".head h1") == IMAGE
            await tab.until("document.querySelectorAll('.message').length === 4")
            # Open what is folded, and bring all of it into view, so that all is made.
            await tab.evaluate("document.querySelectorAll('.messages details').forEach((one) => (one.open = true))")
            for number in range(4):
                await tab.evaluate(f"document.querySelectorAll('.message')[{number}].scrollIntoView()")
                await tab.until(f"!document.querySelectorAll('.message')[{number}].querySelector('[aria-busy=true]')")
            await tab.until("document.querySelector('.tool .result')")
            # It stands there as text: in what the model wrote, in the user's message, in the tool's result.
            for place in (".user .plain", ".assistant .text", ".tool .result", ".reasoning .plain", ".note .text"):
                text = await tab.evaluate(f"document.querySelector('{place}').textContent")
                assert "<script>alert(1)</script>" in text
            assert await tab.text(".tool summary code") == IMAGE
            assert IMAGE in await tab.text(".assistant .end")
            assert IMAGE in await tab.text(".file figcaption")
            await nothing_happened(tab)
            await shoot(tab, "hostile")

            # A line of a megabyte: its head is shown, and more when it is asked for.
            size = "[...document.querySelectorAll('.text')].at(-1).querySelector('.markdown').textContent.length"
            assert 1000 < await tab.evaluate(size) <= 32_768
            await tab.click(".message:last-child .more button", "Show more")
            await tab.until(f"{size} > 90_000")
            await tab.until("!document.querySelector('.markdown[aria-busy=true]')")
            assert await tab.evaluate(size) < 110_000
            assert await tab.evaluate("document.querySelector('.scroller').scrollWidth <= innerWidth")
            await nothing_happened(tab)


async def test_attacks_that_stream(server: DaemonProcess, browser: str) -> None:
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            session = (await wire.request("session.create", title=IMAGE))["session"]["id"]
            tab = await sign_in(profile, server)
            await go(tab, session)
            attack = "<script>alert({n})</script><img/src=x/onerror=alert(1)>[a](javascript:alert(1))"
            for words in (
                f"!stream n=40 rate=100 text={attack}",
                f"!stream n=128 text={'y' * 8000}",  # a megabyte in one line
                "!status code=400 message=<img_src=x_onerror=alert(1)>",
            ):
                started = await wire.request("run.start", session_id=session, text=words, watch=True)
                await wire.events(started["watch_id"], gaps=True)
            await tab.until("[...document.querySelectorAll('.end')].at(-1)?.innerText.includes('<img src=x onerror')")
            await tab.until("!document.querySelector('.markdown[aria-busy=true]')")
            assert "<script>alert(39)</script>" in await tab.evaluate("document.querySelector('.text').textContent")
            assert await tab.evaluate("document.querySelectorAll('.text')[1].textContent.length") == 128 * 8000
            await nothing_happened(tab)


async def test_a_text_that_streamed_looks_like_one_that_is_read_again(server: DaemonProcess, browser: str) -> None:
    # The settings of the model's scenario have no spaces.
    block = "##\tPart\t{n}\n\n-\tone\n-\t**two**\n\n```py\ndef\tf():\n\tpass\n```\n\n|a|b|\n|-|-|\n|`1`|2|\n\n*words*\n"
    html = "document.querySelector('.text .markdown').innerHTML"
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            session = (await wire.request("session.create"))["session"]["id"]
            tab = await sign_in(profile, server)
            await go(tab, session)
            await wire.request("run.start", session_id=session, text=f"!stream n=60 rate=60 text={block}")
            # It is rendered while it grows, and what is final is not made again.
            await tab.until("document.querySelectorAll('.text h2').length > 5")
            await tab.evaluate("(globalThis.first = document.querySelector('.text h2'), null)")
            await tab.until("document.querySelector('.text').innerText.includes('Part 59')")
            await tab.until("document.querySelector('.composer .stop').hidden")
            await tab.until("!document.querySelector('.markdown[aria-busy=true]')")
            assert await tab.evaluate("document.querySelector('.text h2') === first")
            streamed = await tab.evaluate(html)
            assert await tab.count(".text h2") == await tab.count(".text table") == 60
            await tab.reload()
            await tab.until("document.querySelectorAll('.text h2').length === 60")
            await tab.until("!document.querySelector('.markdown[aria-busy=true]')")
            assert unwrapped(await tab.evaluate(html)) == unwrapped(streamed)


def unwrapped(html: str) -> str:
    """Without the mark of where the final part ended."""
    return html.replace('<div class="open">', "").replace("</div>", "")


async def test_a_tool_that_asks_gets_a_form_filled_in(server: DaemonProcess, browser: str) -> None:
    name = IMAGE.replace(" ", "/")  # the settings of the model's scenario have no spaces
    schema = {
        "type": "object",
        "properties": {
            "word": {"type": "string", "title": name, "description": name, "maxLength": 5},
            "age": {"type": "integer"},
            "sure": {"type": "boolean"},
            "colour": {"type": "string", "enum": ["red", name]},
            "kinds": {"type": "array", "items": {"type": "string", "enum": ["a", "b", "c"]}},
        },
        "required": ["word"],
    }
    ask = {"method": "elicitation/create", "params": {"message": name, "requestedSchema": schema}}
    text = f"!tool name=their__do input={json.dumps({'ask': [ask]}, separators=(',', ':'))}"
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile, connect(server.folder) as wire:
            session = (await wire.request("session.create"))["session"]["id"]
            tab = await sign_in(profile, server)
            await go(tab, session)
            await wire.request("run.start", session_id=session, text=text)
            await tab.until("document.querySelector('.ask .fields')")
            assert await tab.text(".ask .asks") == name
            await shoot(tab, "form")
            # What does not fit is told, and what was filled in stays.
            await tab.click(".ask button", "Answer")
            await tab.until("!document.querySelector('.ask .error').hidden")
            await tab.click(".ask .fields input[type=text]")
            await tab.type("heron")
            await tab.click(".ask .fields input[type=number]")
            await tab.type("7")
            await tab.click(".ask .fields > label input[type=checkbox]")
            await tab.evaluate("document.querySelector('.ask select').value = '1'")
            await tab.click(".ask fieldset label", "c")
            await nothing_happened(tab, question=True)
            await tab.click(".ask button", "Answer")
            await tab.until(
                "!document.querySelector('.ask') && document.querySelector('.tool')?.dataset.state === 'completed'"
            )
            page = await wire.request("session.messages", session_id=session)
            (call,) = [part for message in page["messages"] for part in message["parts"] if part["kind"] == "tool"]
            content = {"word": "heron", "age": 7, "sure": True, "colour": name, "kinds": ["c"]}
            assert json.loads(call["output"]) == [{"action": "accept", "content": content}]


async def test_the_page_s_own_doors_are_shut(server: DaemonProcess, browser: str) -> None:
    """What the browser itself refuses, and what becomes of HTML that the daemon never makes."""
    with trio.fail_after(LIMIT):
        async with browsing(browser) as profile:
            tab = await sign_in(profile, server)
            made = await tab.evaluate(
                """import("/html.js").then(({ fragment }) => {
                    const holder = document.createElement("div");
                    holder.append(fragment(`<p onclick=x() style=color:red class=gap>a<img src=x onerror=alert(1)>
                        <a href="javascript:alert(1)">b</a><a href=//evil.example>c</a><a href=https://ok.example/>d</a>
                        <script>alert(1)</script><svg><a href=javascript:alert(1)>e</a></svg><b>f</b></p>`));
                    return holder.innerHTML.replace(/\\s+/g, " ");
                })"""
            )
            assert made == (
                '<p class="gap">a bc<a href="https://ok.example/" rel="noopener noreferrer nofollow" '
                'target="_blank">d</a> alert(1)ef</p>'
            )
            assert not any("dialog" in offence or "request" in offence for offence in tab.offences)
            for attempt in ("document.body.innerHTML = '<b>'", "trustedTypes.createPolicy('greenroom', {})"):
                thrown = f"(() => {{ try {{ {attempt}; }} catch (error) {{ return error.name; }} }})()"
                assert await tab.evaluate(thrown) == "TypeError"
            await tab.evaluate("(() => { const image = new Image(); image.src = 'https://evil.example/p.png'; })()")
            await tab.until("violations.some((text) => text.includes('evil.example'))")
