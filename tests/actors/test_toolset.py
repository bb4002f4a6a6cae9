"""The toolset actor: whatever a tool does, a call gives one bounded result, and the actor lives on."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors._actor import open_actor
from actors._ask import ActorDied
from actors._toolset_life import News, Preview
from actors.toolset import Toolbox, ToolsetActor, ToolsetRef
from engine import codec
from engine.errors import CallerError
from engine.limits import MIB, Limits
from engine.tools.spec import ToolContext, ToolLine, ToolResult, ToolsetStatus, ToolSpec
from engine.transcript.records import Failure

CONTEXT = ToolContext(session_id="ses_1", run_id="run_1", call_id="call_1", cwd="/")


class Fake:
    """A toolset whose tools do bad things by name. `ended` collects how each call that waited was left."""

    kind = "fake"

    def __init__(self) -> None:
        self.names = ["echo", "raise", "exit", "group", "engine", "ugly", "large", "wide", "forever", "mistake"]
        self.ended: list[str] = []
        self.tell, self.next_news = trio.open_memory_channel[News](10)

    async def open(self) -> Sequence[ToolSpec]:
        return [ToolSpec(name=name, description=f"Does {name}.", input_schema=b"{}") for name in self.names]

    async def news(self) -> News:
        return await self.next_news.receive()

    async def close(self) -> None:
        self.ended.append("closed")

    async def call(self, tool: str, value: codec.Json, context: ToolContext, preview: Preview | None) -> ToolResult:
        match tool:
            case "echo":
                if preview is not None:
                    preview("live")
                return ToolResult(text=f"{value} in {context.cwd}", title="t" * 1000)
            case "raise":
                raise RuntimeError("broken " + "x" * 100_000)
            case "exit":
                raise SystemExit(3)
            case "group":
                raise ExceptionGroup("several", [ValueError("the only one")])
            case "engine":
                raise CallerError("invalid_path", "'x' leads out of the session's folder")
            case "ugly":
                raise Ugly
            case "large":
                return ToolResult(text="é" * (5 * MIB))
            case "wide":
                return ToolResult(text="x\n" * 2001, is_error=True)
            case "mistake":
                raise codec.DecodeError([("a[0]", "expected a string"), ("b", "is missing")])
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            self.ended.append(tool)
        raise AssertionError


class Ugly(Exception):
    def __str__(self) -> str:
        raise ValueError


@asynccontextmanager
async def opened(toolset: Fake, limits: Limits | None = None, **given: float) -> AsyncIterator[ToolsetRef]:
    async with open_actor(ToolsetActor(toolset, limits=limits or Limits(), **given), "fake") as ref:  # type: ignore[arg-type]
        yield ref


@pytest.fixture
async def ref() -> AsyncIterator[ToolsetRef]:
    async with opened(Fake()) as ref:
        yield ref


async def test_specs_and_status(ref: ToolsetRef) -> None:
    specs = await ref.specs()
    assert specs[0] == ToolSpec(name="fake.echo", description="Does echo.", input_schema=b"{}")
    assert len(specs) == 10
    status = await ref.status()
    assert (status.name, status.kind, status.state, status.leases, status.restarts) == ("fake", "fake", "ready", 0, 0)
    assert status.tools[0] == ToolLine(name="echo", description="Does echo.")
    assert status.error is None


async def test_a_call(ref: ToolsetRef) -> None:
    live: list[str] = []
    result = await ref.call("echo", b'{"a":1}', CONTEXT, live.append)
    assert result == ToolResult(text="{'a': 1} in /", title="t" * 200)
    assert live == ["live"]
    assert (await ref.call("echo", b"", CONTEXT)).text == "{} in /"


@pytest.mark.parametrize(
    ("tool", "input", "text"),
    [
        ("exit", b"{}", "fake.exit failed: SystemExit: 3"),
        ("group", b"{}", "fake.group failed: ValueError: the only one"),
        ("engine", b"{}", "fake.engine: 'x' leads out of the session's folder"),
        ("ugly", b"{}", "fake.ugly failed: Ugly: it cannot be shown"),
        (
            "mistake",
            b"{}",
            "The input of fake.mistake does not fit its schema:\n- a[0]: expected a string\n- b: is missing",
        ),
        ("echo", b"[1]", "The input of fake.echo does not fit its schema:\n- input: expected a JSON object"),
        ("echo", b"null", "The input of fake.echo does not fit its schema:\n- input: expected a JSON object"),
        ("echo", b" " * (MIB + 1), "The input of fake.echo is over 1,048,576 bytes."),
        (
            "gone",
            b"{}",
            "There is no tool 'fake.gone'. Known are: fake.echo, fake.raise, fake.exit, fake.group, fake.engine, "
            "fake.ugly, fake.large, fake.wide, fake.forever, fake.mistake.",
        ),
    ],
)
async def test_what_goes_wrong_is_a_result(ref: ToolsetRef, tool: str, input: bytes, text: str) -> None:
    assert await ref.call(tool, input, CONTEXT) == ToolResult(text=text, is_error=True)
    assert (await ref.status()).state == "ready"
    assert not (await ref.call("echo", b"{}", CONTEXT)).is_error


async def test_input_that_is_not_json(ref: ToolsetRef) -> None:
    result = await ref.call("echo", b'{"a":', CONTEXT)
    assert result.is_error
    assert result.text.startswith("The input of fake.echo does not fit its schema:\n- input: is not JSON")


async def test_an_exception_is_bounded_and_logged(ref: ToolsetRef, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result = await ref.call("raise", b"{}", CONTEXT)
    assert result.is_error and result.text.startswith("fake.raise failed: RuntimeError: broken xxx")
    assert len(result.text) < 3000 and "cut …]" in result.text
    assert caplog.records[0].exc_info is not None and caplog.records[0].exc_info[0] is RuntimeError


async def test_results_are_bounded(ref: ToolsetRef) -> None:
    large = await ref.call("large", b"{}", CONTEXT)
    assert 50_000 < len(large.text.encode()) <= 50 * 1024
    head, marker, tail = large.text.split("\n")
    assert marker == f"[… 1 line, {10 * MIB - len(head.encode()) - len(tail.encode()):,} bytes cut …]"
    wide = await ref.call("wide", b"{}", CONTEXT)
    assert wide.is_error and len(wide.text.splitlines()) == 2000 and "\n[… 2 lines, 4 bytes cut …]\n" in wide.text


async def test_a_tool_that_never_returns(autojump_clock: MockClock) -> None:
    toolset = Fake()
    async with opened(toolset, Limits(tool_call_timeout=7)) as ref:
        result = await ref.call("forever", b"{}", CONTEXT)
        assert result == ToolResult(text="fake.forever did not finish in 7 s and was stopped.", is_error=True)
        assert toolset.ended == ["forever"]
    async with opened(toolset, call_timeout=2.5) as ref:
        assert "did not finish in 2.5 s" in (await ref.call("forever", b"{}", CONTEXT)).text
    assert (await ref.wait_ended()).end == "stopped"


async def test_calls_run_at_the_same_time(ref: ToolsetRef) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ref.call, "forever", b"{}", CONTEXT)
        await wait_all_tasks_blocked()
        assert (await ref.status()).leases == 5
        assert not (await ref.call("echo", b"{}", CONTEXT)).is_error
        nursery.cancel_scope.cancel()
    assert (await ref.status()).leases == 0


async def test_a_cancelled_caller_returns_when_the_work_has_ended() -> None:
    toolset = Fake()
    async with opened(toolset) as ref:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ref.call, "forever", b"{}", CONTEXT)
                await wait_all_tasks_blocked()
                scope.cancel()
        assert toolset.ended == ["forever"]
        assert (await ref.status()).leases == 0


async def test_stop_ends_calls_before_it_closes() -> None:
    toolset = Fake()
    results: list[ToolResult] = []

    async def call() -> None:
        results.append(await ref.call("forever", b"{}", CONTEXT))

    async with opened(toolset) as ref:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(call)
            await wait_all_tasks_blocked()
            for _ in range(3):
                nursery.start_soon(ref.stop)
        assert toolset.ended == ["forever", "forever", "forever", "closed"]
        text = "fake.forever did not finish: the toolset fake is stopped."
        assert results == [ToolResult(text=text, is_error=True)] * 3
        with pytest.raises(ActorDied):
            await ref.call("echo", b"{}", CONTEXT)


class Failing(Fake):
    async def open(self) -> Sequence[ToolSpec]:
        raise OSError("no such server")

    async def close(self) -> None:
        self.ended.append("closed")
        raise OSError("it never was open")


class Hanging(Fake):
    async def open(self) -> Sequence[ToolSpec]:
        await trio.sleep_forever()
        raise AssertionError


async def test_a_toolset_that_cannot_start_is_failed_and_harms_nobody() -> None:
    toolset = Failing()
    async with opened(toolset) as ref:
        assert await ref.status() == ToolsetStatus(
            name="fake",
            kind="fake",
            state="failed",
            tools=(),
            leases=0,
            restarts=0,
            error=Failure(code="tool_error", message="it could not be started: OSError: no such server"),
        )
        assert await ref.specs() == ()
        result = await ref.call("echo", b"{}", CONTEXT)
        assert result.text == "The toolset fake is failed: it could not be started: OSError: no such server"
        assert result.is_error
    assert toolset.ended == ["closed"]


async def test_a_start_that_hangs_is_failed(autojump_clock: MockClock) -> None:
    async with opened(Hanging(), Limits(toolset_start_timeout=3)) as ref:
        assert (await ref.status()).state == "failed"


# ------------------------------------------------------------------ Toolbox
def find_in(refs: dict[str, ToolsetRef]) -> Callable[[str], ToolsetRef]:
    def find(name: str) -> ToolsetRef:
        if name not in refs:
            raise ActorDied(f"{name} is not running")
        return refs[name]

    return find


async def test_a_toolbox_routes_by_the_full_name(ref: ToolsetRef) -> None:
    toolbox = Toolbox(["fake", "down"], find_in({"fake": ref}))
    toolbox.check(["fake", "down"])
    with pytest.raises(CallerError, match="no toolset is named 'other'; known are fake, down") as caught:
        toolbox.check(["fake", "other"])
    assert caught.value.code == "unknown_toolset"
    tools = await toolbox.tools(["fake", "down", "other", "fake"])
    assert [spec.name for spec in tools.specs][:2] == ["fake.echo", "fake.raise"] and len(tools.specs) == 10
    assert tools.absent == ("down",) and tools.note == "The tools of down are not there now, they may come later."
    assert (await toolbox.tools(["fake"])).note is None
    assert (await toolbox.call("fake.echo", b"{}", CONTEXT, toolsets=["fake"])).text == "{} in /"


@pytest.mark.parametrize("name", ["fake.gone", "fake", "", "other.echo", ".echo", "down", "fake.echo.more"])
async def test_a_toolbox_names_the_known_tools(ref: ToolsetRef, name: str) -> None:
    toolbox = Toolbox(["fake", "down"], find_in({"fake": ref}))
    result = await toolbox.call(name, b"{}", CONTEXT, toolsets=["fake", "other"])
    assert result.is_error and result.text.startswith(f"There is no tool {name!r}. Known are: fake.echo, fake.raise, ")


async def test_a_toolset_that_the_session_does_not_have_or_that_is_down(ref: ToolsetRef) -> None:
    toolbox = Toolbox(["fake", "down"], find_in({"fake": ref}))
    assert (await toolbox.call("fake.echo", b"{}", CONTEXT, toolsets=["down"])).text == (
        "There is no tool 'fake.echo'. Known are: none."
    )
    assert await toolbox.call("down.echo", b"{}", CONTEXT, toolsets=["fake", "down"]) == ToolResult(
        text="The toolset down is not running.", is_error=True
    )
    assert [status.state for status in await toolbox.statuses()] == ["ready", "restarting"]


async def test_a_toolset_that_ends_in_mid_call_gives_a_result() -> None:
    async with opened(Fake()) as ref:
        toolbox = Toolbox(["fake"], find_in({"fake": ref}))
        results: list[ToolResult] = []

        async def call() -> None:
            results.append(await toolbox.call("fake.forever", b"{}", CONTEXT, toolsets=["fake"]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await wait_all_tasks_blocked()
            await ref.stop(grace=0)
        assert results[0].is_error


async def test_file_work_in_a_thread() -> None:
    toolbox = Toolbox([], find_in({}))
    with trio.fail_after(60):
        assert await toolbox.in_thread(divmod, 7, 2) == (3, 1)


class Keeping(Fake):
    """It keeps something for sessions."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[str] = []

    async def end_session(self, session_id: str) -> None:
        await trio.lowlevel.checkpoint()
        self.ended.append(session_id)


async def test_what_is_kept_for_a_session_ends_with_it() -> None:
    keeping, other = Keeping(), Fake()
    async with open_actor(ToolsetActor(keeping), "keeps") as keeps, open_actor(ToolsetActor(other), "fake") as ref:
        toolbox = Toolbox(["keeps", "fake", "down"], find_in({"keeps": keeps, "fake": ref}))
        await toolbox.end_session("ses_1")
        assert keeping.ended == ["ses_1"]
