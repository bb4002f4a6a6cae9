"""Outputs of tools that are longer than a model is seen: kept whole with their session, and gone with it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from engine.errors import CallerError
from engine.limits import MIB
from engine.runs.events import PartFinished, PartStarted
from engine.storage import blobs, spool
from engine.tools.spec import FileChange, Media, ToolResult
from engine.transcript.records import FilePart, ToolPart
from tests.actors.scripted import Stage, Staged, of, seen, shown, staged
from tests.actors.test_run import finished

__all__ = ["staged"]

TEXT = "".join(f"line {number}: é漢😀\n" for number in range(100_000))
MOST = 8192  # of a result: it fits the window of the model here
SIZE = len(TEXT.encode())

# Seconds without a step of any task before a look at the disk is worth it: threads are at work there.
QUIET = 0.005


def long() -> str:
    """Gives much."""
    return TEXT


def broken() -> str:
    """Fails at length."""
    raise RuntimeError(TEXT)


async def called(stage: Stage, tool: str = "functions__long") -> tuple[str, dict[str, Any]]:
    """A session with one call of the tool, and the call's part as clients see it."""
    run, call = await stage.begin()
    call.tools((tool, "{}"))
    following = await stage.models.call()
    (part,) = [part for part in following.request.messages[-1].parts if hasattr(part, "call_id")]
    assert len((part.output or part.error).encode()) <= MOST
    following.text("done")
    following.end()
    await finished(stage, run)
    session_id = await stage.session_of(run)
    (seen,) = [part for message in await stage.messages(session_id) for part in message["parts"] if "tool" in part]
    return session_id, seen


async def whole(stage: Stage, handle: str) -> str:
    text, offset = "", 0
    while True:
        piece = await stage.store.read_output(handle, offset, 65_536)
        assert piece.total == SIZE
        text += piece.text
        if piece.next_offset is None:
            return text
        offset = piece.next_offset


def files(data: Path, folder: str) -> list[str]:
    return [name for _, _, names in os.walk(data / folder) for name in names]


async def test_a_long_output_is_kept_whole_and_goes_with_its_session(staged: Staged, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with staged(tools=[long], tool_result_bytes=MOST) as stage:
        first, seen = await called(stage)
        handle = seen["output_more"]["handle"]
        assert seen["output_more"]["bytes"] == SIZE
        assert seen["output"].startswith("line 0: é漢😀\n")
        assert await whole(stage, handle) == TEXT
        second, again = await called(stage)
        assert again["output_more"]["handle"] != handle
        assert len(files(data, "blobs")) == 1  # equal content
        assert files(data, "spool") == []
        await stage.registry.delete_session(first)
        assert await whole(stage, again["output_more"]["handle"]) == TEXT
        await stage.registry.delete_session(second)
        while files(data, "blobs"):
            await wait_all_tasks_blocked(QUIET)
    assert files(data, "blobs") == files(data, "spool") == []
    assert not (data / "spool").exists()


async def test_it_is_there_after_a_restart(staged: Staged) -> None:
    async with staged(tools=[long], tool_result_bytes=MOST) as stage:
        _, seen = await called(stage)
    async with staged(tools=[long], tool_result_bytes=MOST) as stage:
        assert await whole(stage, seen["output_more"]["handle"]) == TEXT


async def test_an_output_of_exactly_the_bound_needs_no_file(staged: Staged, tmp_path: Path) -> None:
    def exact() -> str:
        """Gives as much as is seen."""
        return "x" * MOST

    def more() -> str:
        """Gives a byte more."""
        return "x" * (MOST + 1)

    async with staged(tools=[exact, more], tool_result_bytes=MOST) as stage:
        _, seen = await called(stage, "functions__exact")
        assert "output_more" not in seen
        assert files(tmp_path / "data", "blobs") == []
        _, seen = await called(stage, "functions__more")
        assert seen["output_more"]["bytes"] == MOST + 1
        assert len(files(tmp_path / "data", "blobs")) == 1


@pytest.mark.parametrize("failing", [1, 2, 9])
async def test_a_disk_that_refuses_a_write_fails_no_call(
    staged: Staged, tmp_path: Path, failing: int, monkeypatch: Any
) -> None:
    done = 0
    real = os.write

    def write(descriptor: int, data: Any) -> int:
        nonlocal done
        done += isinstance(data, memoryview)
        if done == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    async with staged(tools=[long], tool_result_bytes=MOST) as stage:
        with monkeypatch.context() as patch:
            patch.setattr(spool.os, "write", write)
            _, seen = await called(stage)
        await refused(stage, seen, tmp_path / "data")


async def test_a_disk_that_refuses_to_make_it_a_blob_fails_no_call(
    staged: Staged, tmp_path: Path, monkeypatch: Any
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with staged(tools=[long], tool_result_bytes=MOST) as stage:
        with monkeypatch.context() as patch:
            patch.setattr(blobs.os, "rename", refuse)
            _, seen = await called(stage)
        await refused(stage, seen, tmp_path / "data")


async def refused(stage: Stage, seen: dict[str, Any], data: Path) -> None:
    assert seen["state"] == "completed"
    assert "output_more" not in seen
    assert seen["output"].startswith("line 0: é漢😀\n")
    last = seen["output"].splitlines()[-1]
    assert last.endswith("could not be kept because the disk refuses it (No space left on device)]")
    assert files(data, "blobs") == files(data, "spool") == []


async def test_a_run_that_is_stopped_before_its_result_is_stored_leaves_no_blob(staged: Staged, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with staged(tools=[long], tool_result_bytes=MOST) as stage:
        run, call = await stage.begin()
        call.tools(("functions__long", "{}"))
        while not files(data, "blobs"):
            await wait_all_tasks_blocked(QUIET)
        await run.stop()
        (part,) = [
            part
            for message in await stage.messages(await stage.session_of(run))
            for part in message["parts"]
            if "tool" in part
        ]
        if part["state"] == "completed":
            assert await whole(stage, part["output_more"]["handle"]) == TEXT
        else:
            while files(data, "blobs"):
                await wait_all_tasks_blocked(QUIET)


SESSIONS = 1000
USED = 5  # each of so many has a run with an output that is kept
WORKERS = 16


async def test_a_thousand_sessions_made_and_deleted_leave_the_disk_as_it_was(staged: Staged, tmp_path: Path) -> None:
    count = 0

    def other() -> str:
        """Gives something else each time, more than is shown."""
        nonlocal count
        count += 1
        return f"{count}\n" * MOST

    async def answer(stage: Stage) -> None:
        while True:
            call = await stage.models.call()
            if any(isinstance(part, ToolPart) for part in call.request.messages[-1].parts):
                call.end()
            else:
                call.tools(("functions__other", "{}"))

    def there() -> set[str]:
        return {str(path) for name in ("blobs", "spool") for path in (tmp_path / "data" / name).rglob("*")}

    async with staged(tools=[other], tool_result_bytes=MOST, limit=120.0) as stage, trio.open_nursery() as nursery:
        nursery.start_soon(answer, stage)
        sessions: list[str] = []

        async def made(numbers: Iterator[int]) -> None:
            for number in numbers:
                session = await stage.engine.create_session()
                if number % USED == 0:
                    run = await session.start("go")
                    assert (await run.wait()).status == "completed"
                sessions.append(session.id)

        async def deleted(of: Iterator[str]) -> None:
            for session_id in of:
                await stage.registry.delete_session(session_id)

        async def by_workers(work: Callable[..., Any], what: Iterator[Any]) -> None:
            async with trio.open_nursery() as workers:
                for _ in range(WORKERS):
                    workers.start_soon(work, what)

        await made(iter(range(1)))
        before = there()
        await by_workers(made, iter(range(SESSIONS)))
        assert len(files(tmp_path / "data", "blobs")) == SESSIONS // USED + 1
        await by_workers(deleted, iter(sessions[1:]))
        assert there() == before  # at once: the reply to the last deletion has come
        assert (await stage.messages(sessions[0]))[-1]["parts"]
        nursery.cancel_scope.cancel()


async def test_an_exception_is_cut_to_its_sentence(staged: Staged, tmp_path: Path) -> None:
    async with staged(tools=[broken]) as stage:
        _, seen = await called(stage, "functions__broken")
        assert len(seen["error"]) < MIB // 100
        assert files(tmp_path / "data", "blobs") == []


# ------------------------------------------------------------------ media and changes
INLINE = 64 * 1024


def pictures() -> ToolResult:
    """Gives an image of exactly the bound and one of a byte more."""
    small = Media(mime="image/png", name="small.png", data=b"a" * INLINE)
    large = Media(mime="image/png", name="large.png", data=b"b" * (INLINE + 1))
    return ToolResult(text="two images", media=(small, large))


def changing() -> ToolResult:
    """Says that it wrote a file."""
    return ToolResult(text="written", change=FileChange(path="a.txt", before=None, after="0" * 64, size=7))


async def added(stage: Stage, tool: str) -> tuple[Any, list[dict[str, Any]], list[Any]]:
    """(the request with the call's message, its parts as clients see them, the events)."""
    run, call = await stage.begin()
    call.tools((tool, "{}"))
    following = await stage.models.call()
    following.text("done")
    following.end()
    await finished(stage, run)
    messages = await stage.messages(await stage.session_of(run))
    return following.request, [part for m in messages for part in m["parts"]], shown(run)


async def test_an_image_of_exactly_the_bound_is_inline_and_of_one_byte_more_a_blob(
    staged: Staged, tmp_path: Path
) -> None:
    async with staged(tools=[pictures]) as stage:
        request, parts, events = await added(stage, "functions__pictures")
        small, large = [part for part in request.messages[-1].parts if isinstance(part, FilePart)]
        assert await seen(request, small) == b"a" * INLINE and small.handle is None
        assert await seen(request, large) == b"b" * (INLINE + 1) and large.handle is not None
        (call,) = [part for part in request.messages[-1].parts if isinstance(part, ToolPart)]
        assert small.call_id == large.call_id == call.call_id
        assert len(files(tmp_path / "data", "blobs")) == 1
        shown_files = [part for part in parts if part["kind"] == "file"]
        assert [(part["name"], part["size"]) for part in shown_files] == [
            ("small.png", INLINE), ("large.png", INLINE + 1),
        ]  # fmt: skip
        assert shown_files[1]["handle"] == large.handle
        told = [event.part["id"] for event in of(events, PartFinished) if event.kind == "file"]
        assert told == [part["id"] for part in shown_files]
        assert [event.part_id for event in of(events, PartStarted) if event.kind == "file"] == told


async def test_media_that_the_disk_refuses_are_named_without_their_content(
    staged: Staged, tmp_path: Path, monkeypatch: Any
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with staged(tools=[pictures]) as stage:
        with monkeypatch.context() as patch:
            patch.setattr(blobs.os, "rename", refuse)
            request, parts, _ = await added(stage, "functions__pictures")
        small, large = [part for part in request.messages[-1].parts if isinstance(part, FilePart)]
        assert small.data_base64 is not None
        assert (large.data_base64, large.handle, large.size) == (None, None, INLINE + 1)
        assert [set(part) & {"data_base64", "handle"} for part in parts if part["kind"] == "file"][1] == set()
        assert files(tmp_path / "data", "blobs") == []


async def test_media_beyond_the_windows_bound_are_not_read(staged: Staged) -> None:
    async with staged(tools=[pictures], window_media_bytes=INLINE) as stage:
        request, _, _ = await added(stage, "functions__pictures")
        _, large = [part for part in request.messages[-1].parts if isinstance(part, FilePart)]
        assert large.data_base64 is None and large.handle is not None


async def test_a_change_of_a_file_is_a_part(staged: Staged) -> None:
    async with staged(tools=[changing]) as stage:
        _, parts, events = await added(stage, "functions__changing")
        (patch,) = [part for part in parts if part["kind"] == "patch"]
        assert (patch["path"], patch["after"], patch["size"]) == ("a.txt", "0" * 64, 7)
        assert [event.part for event in of(events, PartFinished) if event.kind == "patch"] == [patch]


# ------------------------------------------------------------------ read on by the model
async def test_the_model_reads_on_in_its_own_sessions_outputs_only(staged: Staged) -> None:
    async with staged(tools=[long], tool_result_bytes=MOST) as stage:
        session_id, seen = await called(stage)
        handle = seen["output_more"]["handle"]
        read = stage.store.read_own_output
        piece = await read(session_id, handle, 1000, 100)
        assert piece.text and piece.text in TEXT and piece.total == SIZE
        other, _ = await called(stage)
        for of_session, asked in ((other, handle), (session_id, f"out_{seen['id']}_output"), (session_id, "out_x")):
            with pytest.raises(CallerError, match="no stored output"):
                await read(of_session, asked, 0, 100)
