"""The built-in files toolset in its actor: real files, real threads, cancelled at work."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors._actor import open_actor
from actors.toolset import FILE_THREADS, ToolsetActor, ToolsetRef
from actors.toolsets.files import FilesToolset
from engine import codec
from engine.commands import OutputPiece
from engine.errors import CallerError
from engine.limits import Limits
from engine.tools import search
from engine.tools.spec import ToolContext, ToolResult

DEADLINE = 60  # seconds until a hanging test fails


@pytest.fixture
async def ref() -> AsyncIterator[ToolsetRef]:
    with trio.fail_after(DEADLINE):
        async with open_actor(ToolsetActor(FilesToolset()), "files") as ref:
            yield ref


def context(folder: Path) -> ToolContext:
    return ToolContext(session_id="ses_1", run_id="run_1", call_id="call_1", cwd=str(folder))


async def call(ref: ToolsetRef, folder: Path, tool: str, **input: object) -> ToolResult:
    return await ref.call(tool, codec.dump(input), context(folder))


async def test_the_tools_that_read(ref: ToolsetRef, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\ntwo needle\n")
    assert await call(ref, tmp_path, "read_file", path="a") == ToolResult(text="one\ntwo needle", title="a")
    found = await call(ref, tmp_path, "search_files", pattern="needle", path=".")
    assert found.text == "a:2: two needle\n[1 match in 1 file; 1 file searched]" and found.title == "'needle' in ."
    assert (await call(ref, tmp_path, "list_directory")).text == "a (15)\n[1 entry]"
    assert [spec.name for spec in await ref.specs()] == [
        "files.read_file", "files.search_files", "files.list_directory", "files.write_file", "files.edit_file"
    ]  # fmt: skip


async def test_outputs_are_read_on_in_the_callers_session(tmp_path: Path) -> None:
    asked: list[tuple[str, str, int, int]] = []

    async def read(session_id: str, handle: str, offset: int, limit: int) -> OutputPiece:
        asked.append((session_id, handle, offset, limit))
        if handle != "out_1":
            raise CallerError("unknown_output", "no stored output has this handle")
        return OutputPiece(text="some of it", total=99, next_offset=15)

    with trio.fail_after(DEADLINE):
        async with open_actor(ToolsetActor(FilesToolset(["read_output"], read_output=read)), "files") as ref:
            assert [spec.name for spec in await ref.specs()] == ["files.read_output"]
            result = await call(ref, tmp_path, "read_output", handle="out_1", offset=5)
            assert result.text == "some of it\n[bytes 5 to 15 of 99; read on with offset 15]"
            assert [(session, handle, offset) for session, handle, offset, _ in asked] == [("ses_1", "out_1", 5)]
            refused = await call(ref, tmp_path, "read_output", handle="out_2")
            assert refused.is_error and "no stored output" in refused.text
            assert (await call(ref, tmp_path, "read_output", handle="", offset=-1)).is_error
        async with open_actor(ToolsetActor(FilesToolset(["read_file"], read_output=read)), "files") as ref:
            assert [spec.name for spec in await ref.specs()] == ["files.read_file"]


async def test_tools_that_write(tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE):
        async with open_actor(ToolsetActor(FilesToolset(["write_file", "edit_file"])), "files") as ref:
            written = await call(ref, tmp_path, "write_file", path="new/a", content="one\n")
            assert written.change is not None and (written.change.path, written.change.size) == ("new/a", 4)
            edited = await call(ref, tmp_path, "edit_file", path="new/a", old_text="one", new_text="two")
            assert edited.text == "--- new/a\n+++ new/a\n@@ -1,1 +1,1 @@\n-one\n+two"
            assert edited.change is not None and edited.change.before == written.change.after
            assert (tmp_path / "new" / "a").read_text() == "two\n"
            assert (await call(ref, tmp_path, "read_file", path="new/a")).is_error
            refused = await call(ref, tmp_path, "write_file", path="../a", content="x")
            assert refused.text == "files.write_file: '../a' leads out of the session's folder"


async def test_mistakes_are_results(ref: ToolsetRef, tmp_path: Path) -> None:
    assert await call(ref, tmp_path, "read_file", path="../a") == ToolResult(
        text="files.read_file: '../a' leads out of the session's folder", is_error=True
    )
    assert await call(ref, tmp_path / "gone", "read_file", path="a") == ToolResult(
        text=f"files.read_file: '{tmp_path}/gone' cannot be opened as the session's folder: No such file or directory",
        is_error=True,
    )
    assert await call(ref, tmp_path, "search_files", text="a", path=1) == ToolResult(
        text="The input of files.search_files does not fit its schema:\n- pattern: is missing\n"
        "- path: expected a string, not an integer\n- text: is not a known field",
        is_error=True,
    )


async def test_only_the_tools_that_are_configured(tmp_path: Path) -> None:
    toolset = FilesToolset(["read_file"], limits=Limits(tool_result_bytes=300))
    async with open_actor(ToolsetActor(toolset), "files") as ref:
        assert [spec.name for spec in await ref.specs()] == ["files.read_file"]
        assert (await call(ref, tmp_path, "search_files", pattern="a")).text == (
            "There is no tool 'files.search_files'. Known are: files.read_file."
        )
        (tmp_path / "a").write_text("a\n" * 300)
        assert len((await call(ref, tmp_path, "read_file", path="a")).text) <= 300


class Gate:
    """Stands in for a check that a search makes of each file: those who come wait inside their threads.
    `arrived` is set when as many wait as are expected."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, expected: int = 1) -> None:
        self.expected = expected
        self.arrived = trio.Event()
        self.open = threading.Event()
        self.passed = 0
        self.arrivals = 0
        self._lock = threading.Lock()
        monkeypatch.setattr(search, "is_binary", self)

    def __call__(self, head: bytes) -> bool:
        trio.from_thread.run_sync(self._arrive)
        assert self.open.wait(DEADLINE)
        with self._lock:
            self.passed += 1
        return False

    def _arrive(self) -> None:
        self.arrivals += 1
        if self.arrivals == self.expected:
            self.arrived.set()


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    for number in range(100):
        (tmp_path / f"{number:03}").write_text("needle\n")
    return tmp_path


async def test_a_cancelled_search_ends_in_its_thread_before_its_caller_returns(
    ref: ToolsetRef, crowded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    descriptors = os.listdir("/proc/self/fd")
    returned: list[int] = []

    async def caller(scope: trio.CancelScope) -> None:
        with scope:
            await call(ref, crowded, "search_files", pattern="needle")
        returned.append(gate.passed)

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(caller, scope)
        await gate.arrived.wait()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert returned == []
        gate.open.set()
    assert scope.cancelled_caught
    assert returned == [1]  # of a hundred: it ended at the next file
    assert os.listdir("/proc/self/fd") == descriptors
    assert (await ref.status()).leases == 0


async def test_stop_waits_for_the_threads(ref: ToolsetRef, crowded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    results: list[ToolResult] = []
    stopped: list[int] = []

    async def caller() -> None:
        results.append(await call(ref, crowded, "search_files", pattern="needle"))

    async def stopper() -> None:
        await ref.stop()
        stopped.append(gate.passed)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller)
        await gate.arrived.wait()
        nursery.start_soon(stopper)
        await wait_all_tasks_blocked()
        assert stopped == []
        gate.open.set()
    assert stopped == [1]
    assert results == [
        ToolResult(text="files.search_files did not finish: the toolset files is stopped.", is_error=True)
    ]


async def test_a_call_beyond_its_time(crowded: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock) -> None:
    gate = Gate(monkeypatch)
    results: list[ToolResult] = []
    async with open_actor(ToolsetActor(FilesToolset(), call_timeout=5), "files") as ref:

        async def caller() -> None:
            results.append(await call(ref, crowded, "search_files", pattern="needle"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller)
            await gate.arrived.wait()
            mock_clock.jump(6)
            await wait_all_tasks_blocked()
            assert results == []
            gate.open.set()
    assert gate.passed == 1
    text = "files.search_files did not finish in 5 s and was stopped."
    assert results == [ToolResult(text=text, is_error=True)]


async def test_threads_are_bounded(ref: ToolsetRef, crowded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, expected=FILE_THREADS)
    async with trio.open_nursery() as nursery:
        for _ in range(3 * FILE_THREADS):
            nursery.start_soon(lambda: call(ref, crowded, "search_files", pattern="needle", path="000"))
        await gate.arrived.wait()
        await wait_all_tasks_blocked()
        assert gate.arrivals == FILE_THREADS
        assert (await ref.status()).leases == 3 * FILE_THREADS
        gate.open.set()
    assert gate.passed == 3 * FILE_THREADS
