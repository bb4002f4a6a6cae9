"""Tool servers that others have written: all that they offer is there, by name and by what it takes, and what they give
is what comes."""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import pytest
import trio

from actors.toolsets.mcp import Server
from engine import codec
from engine.storage.spool import SpoolFile
from engine.tools.environment import child_environment
from engine.tools.spec import Answer, Media, Question
from tests.actors.official_server import LONG
from tests.actors.processes import until
from tests.actors.real_servers import node, offered, official, over_http, python
from tests.actors.test_toolset_mcp import CONTEXT, World, opened

TIME = {"get_current_time": {"timezone"}, "convert_time": {"source_timezone", "time", "target_timezone"}}
GIT = {
    "git_status": {"repo_path"},
    "git_diff_unstaged": {"repo_path", "context_lines"},
    "git_diff_staged": {"repo_path", "context_lines"},
    "git_diff": {"repo_path", "target", "context_lines"},
    "git_commit": {"repo_path", "message"},
    "git_add": {"repo_path", "files"},
    "git_reset": {"repo_path"},
    "git_log": {"repo_path", "max_count", "start_timestamp", "end_timestamp"},
    "git_create_branch": {"repo_path", "branch_name", "base_branch"},
    "git_checkout": {"repo_path", "branch_name"},
    "git_show": {"repo_path", "revision"},
    "git_branch": {"repo_path", "branch_type", "contains", "not_contains"},
}
FILESYSTEM = {
    "read_file": {"path", "head", "tail"},
    "read_text_file": {"path", "head", "tail"},
    "read_media_file": {"path"},
    "read_multiple_files": {"paths"},
    "write_file": {"path", "content"},
    "edit_file": {"path", "edits", "dryRun"},
    "create_directory": {"path"},
    "list_directory": {"path"},
    "list_directory_with_sizes": {"path", "sortBy"},
    "directory_tree": {"path", "excludePatterns"},
    "move_file": {"source", "destination"},
    "search_files": {"path", "pattern", "excludePatterns"},
    "get_file_info": {"path"},
    "list_allowed_directories": set(),
}
EVERYTHING = {
    "echo": {"message"},
    "get-annotated-message": {"messageType", "includeImage"},
    "get-env": set(),
    "get-resource-links": {"count"},
    "get-resource-reference": {"resourceType", "resourceId"},
    "get-structured-content": {"location"},
    "get-roots-list": set(),
    "get-sum": {"a", "b"},
    "get-tiny-image": set(),
    "gzip-file-as-resource": {"name", "data", "outputType"},
    "simulate-research-query": {"topic", "ambiguous"},
    "toggle-simulated-logging": set(),
    "toggle-subscriber-updates": set(),
    "trigger-elicitation-request": set(),
    "trigger-long-running-operation": {"duration", "steps"},
}
PNG = b"\x89PNG\r\n\x1a\n"


async def test_time(tmp_path: Path) -> None:
    async with opened(tmp_path, python("mcp-server-time", "--local-timezone", "UTC")) as world:
        assert await offered(world.ref) == TIME
        given = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
        result = await world.call("convert_time", **given)
        assert not result.is_error
        converted = json.loads(result.text)
        assert converted["target"]["datetime"].endswith("T21:00:00+09:00")
        assert (converted["time_difference"], converted["target"]["timezone"]) == ("+9.0h", "Asia/Tokyo")
        assert (await world.call("convert_time", **{**given, "target_timezone": "No/Where"})).is_error


async def test_git(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    await trio.run_process(["git", "init", "-q", "-b", "trunk", str(repo)])
    for key, value in (("user.name", "Test"), ("user.email", "test@localhost")):
        await trio.run_process(["git", "-C", str(repo), "config", key, value])
    (repo / "a.txt").write_text("one\n")
    async with opened(tmp_path, python("mcp-server-git")) as world:
        assert await offered(world.ref) == GIT
        result = await world.call("git_status", repo_path=str(repo))
        assert not result.is_error and "trunk" in result.text and "a.txt" in result.text
        assert not (await world.call("git_add", repo_path=str(repo), files=["a.txt"])).is_error
        assert not (await world.call("git_commit", repo_path=str(repo), message="The first")).is_error
        logged = await trio.run_process(["git", "-C", str(repo), "log", "--format=%s"], capture_stdout=True)
        assert logged.stdout == b"The first\n"
        assert "The first" in (await world.call("git_log", repo_path=str(repo))).text
        assert (await world.call("git_status", repo_path=str(tmp_path / "none"))).is_error


async def test_filesystem(tmp_path: Path) -> None:
    folder = (tmp_path / "files").resolve()
    folder.mkdir()
    (folder / "a.txt").write_text("hello\n" * 20_000)
    # Told of folders, it would serve those and not what it is started with.
    command = node("server-filesystem", str(folder))
    server = Server(command=command, env=child_environment(os.environ), cwd=str(tmp_path), roots=())
    async with opened(tmp_path, server=server) as world:
        assert await offered(world.ref) == FILESYSTEM
        result = await world.call("read_text_file", path=str(folder / "a.txt"))
        assert not result.is_error and result.text.startswith("hello\n")
        assert isinstance(result.whole, SpoolFile) and result.whole.path.read_text() == "hello\n" * 20_000
        result.whole.discard()
        assert not (await world.call("write_file", path=str(folder / "b.txt"), content="b é漢😀")).is_error
        assert (folder / "b.txt").read_text() == "b é漢😀"
        listed = await world.call("list_directory", path=str(folder))
        assert listed.text.splitlines() == ["[FILE] a.txt", "[FILE] b.txt"]
        refused = await world.call("read_text_file", path="/etc/passwd")
        assert refused.is_error and "root:" not in refused.text


async def test_filesystem_in_the_folders_of_its_sessions(tmp_path: Path) -> None:
    folder, other = (tmp_path / "one").resolve(), (tmp_path / "two").resolve()
    for made in (folder, other):
        made.mkdir()
        (made / "a.txt").write_text(made.name)
    async with opened(tmp_path, node("server-filesystem", str(other))) as world:
        context = attrs.evolve(CONTEXT, cwd=str(folder))
        given = codec.dump({"path": str(folder / "a.txt")})
        while (await world.ref.call("read_text_file", given, context)).text != "one":  # noqa: ASYNC110
            await trio.sleep(0.01)
        given = codec.dump({"path": str(other / "a.txt")})
        assert (await world.ref.call("read_text_file", given, context)).is_error


@asynccontextmanager
async def everything(tmp_path: Path, over: str) -> AsyncIterator[tuple[World, str, Path]]:
    """The server, its URL and its log, if it is reached over HTTP."""
    if over == "pipes":
        async with opened(tmp_path, node("server-everything", "stdio")) as world:
            yield world, "", tmp_path
    else:
        async with (
            over_http(tmp_path, *node("server-everything", "streamableHttp")) as (url, log),
            opened(tmp_path, server=Server(url=url)) as world,
        ):
            yield world, url, log


def content(media: Media) -> bytes:
    if isinstance(media.data, bytes):
        return media.data
    assert isinstance(media.data, SpoolFile)
    return media.data.path.read_bytes()


@pytest.mark.parametrize("over", ["pipes", "http"])
async def test_everything(tmp_path: Path, over: str) -> None:
    async with everything(tmp_path, over) as (world, _, _):
        assert await offered(world.ref) == EVERYTHING

        assert (await world.call("echo", message="hello é漢😀")).text == "Echo: hello é漢😀"
        assert (await world.call("get-sum", a=2, b=3)).text == "The sum of 2 and 3 is 5."
        refused = await world.call("get-sum", a="two", b=3)
        assert refused.is_error and "number" in refused.text

        # Longer than what of a string is in memory.
        long = "a line\n" * 40_000
        echoed = await world.call("echo", message=long)
        assert isinstance(echoed.whole, SpoolFile) and echoed.whole.path.read_text() == f"Echo: {long}"
        echoed.whole.discard()

        image = await world.call("get-tiny-image")
        assert [media.mime for media in image.media] == ["image/png"]
        assert content(image.media[0]).startswith(PNG)
        annotated = await world.call("get-annotated-message", messageType="error", includeImage=True)
        assert annotated.text.startswith("Error: Operation failed\n") and not annotated.is_error
        assert content(annotated.media[0]) == content(image.media[0])

        links = await world.call("get-resource-links", count=2)
        assert "Here are 2 resource links" in links.text
        assert [line.partition(":")[0] for line in links.text.splitlines()[1:]] == [
            "[resource Blob Resource 1",
            "[resource Text Resource 2",
        ]
        resource = await world.call("get-resource-reference", resourceType="Text", resourceId=2)
        assert "Resource 2: This is a plaintext resource" in resource.text
        blob = await world.call("get-resource-reference", resourceType="Blob", resourceId=1)
        assert content(blob.media[0]).startswith(b"Resource 1: This is a base64 blob")
        source = base64.b64encode(b"packed" * 10_000).decode()
        packed = await world.call(
            "gzip-file-as-resource", name="a.gz", data=f"data:text/plain;base64,{source}", outputType="resource"
        )
        assert gzip.decompress(content(packed.media[0])) == b"packed" * 10_000
        assert packed.media[0].mime == "application/gzip"

        weather = await world.call("get-structured-content", location="New York")
        assert json.loads(weather.text) == {"temperature": 33, "conditions": "Cloudy", "humidity": 82}

        shown: list[str] = []
        given = codec.dump({"duration": 0.2, "steps": 2})
        result = await world.ref.call("trigger-long-running-operation", given, CONTEXT, shown.append)
        assert result.text == "Long running operation completed. Duration: 0.2 seconds, Steps: 2."
        assert shown == ["1 of 2\n", "2 of 2\n"]

        # It runs as a task only, which is another protocol inside this one.
        assert (await world.call("simulate-research-query", topic="x")).is_error

        asked: list[Question] = []

        async def accept(question: Question) -> Answer:
            asked.append(question)
            content: dict[str, codec.Json] = {"name": "Ada é漢", "check": True, "integer": 7}
            assert question.mistakes(content) == []
            return Answer(action="accept", content=content)

        async def decline(question: Question) -> Answer:
            return Answer(action="decline")

        context = attrs.evolve(CONTEXT, ask=accept)
        told = await world.ref.call("trigger-elicitation-request", b"{}", context)
        assert "- Name: Ada é漢\n- Agreed to terms: true\n- Favorite Integer: 7" in told.text
        assert [question.message for question in asked] == ["Please provide inputs for the following fields:"]
        assert asked[0].mistakes({"check": True}) and asked[0].mistakes({"name": "Ada", "integer": 101})
        context = attrs.evolve(CONTEXT, ask=decline)
        told = await world.ref.call("trigger-elicitation-request", b"{}", context)
        assert "User declined" in told.text
        assert "User declined" in (await world.call("trigger-elicitation-request")).text, "there is nobody to ask"

        # It asks for the folders in its own time.
        context = attrs.evolve(CONTEXT, cwd=str(tmp_path))
        while tmp_path.as_uri() not in (await world.ref.call("get-roots-list", b"{}", context)).text:  # noqa: ASYNC110
            await trio.sleep(0.01)

        # What it says by itself, all the time from here on, is in nobody's way.
        assert not (await world.call("toggle-simulated-logging")).is_error
        with trio.CancelScope() as scope:
            begun = trio.Event()

            async def cancel() -> None:
                await begun.wait()
                scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel)
                endless = codec.dump({"duration": 1000, "steps": 100_000})
                await world.ref.call("trigger-long-running-operation", endless, CONTEXT, lambda text: begun.set())
        assert scope.cancelled_caught
        assert (await world.call("echo", message="again")).text == "Echo: again"
        assert (await world.ref.status()).restarts == 0


async def test_a_session_that_everything_has_forgotten_is_begun_anew(tmp_path: Path) -> None:
    """It answers 400 to a session that it does not know, and 404 never."""
    async with everything(tmp_path, "http") as (world, url, log):
        assert (await world.call("echo", message="one")).text == "Echo: one"
        (line,) = [line for line in log.read_text().splitlines() if line.startswith("Session initialized with ID:")]
        await ended(url, line.split()[-1])
        await until(lambda: "removing from transports map" in log.read_text())
        result = await world.call("echo", message="two")
        assert result.is_error and "session" in result.text
        assert (await world.call("echo", message="three")).text == "Echo: three"
        assert (await world.ref.status()).restarts == 1


async def test_a_server_on_the_official_library(tmp_path: Path) -> None:
    """In each of the ways that it speaks HTTP; it closes a stream in the middle of a call, which goes on."""
    async with official() as urls:
        for way, url in urls.items():
            folder = tmp_path / way
            folder.mkdir()
            async with opened(folder, server=Server(url=url)) as world:
                assert await offered(world.ref) == {"add": {"a", "b"}, "steps": {"count"}, "drop": set()}, way
                assert (await world.call("add", a=2, b=3)).text == "5", way
                shown: list[str] = []
                result = await world.ref.call("steps", codec.dump({"count": 3}), CONTEXT, shown.append)
                assert isinstance(result.whole, SpoolFile) and result.whole.path.read_text() == LONG, way
                result.whole.discard()
                assert shown == ([] if way == "json" else ["step 1\n", "step 2\n", "step 3\n"]), way
                if way == "events":
                    shown.clear()
                    result = await world.ref.call("drop", b"{}", CONTEXT, shown.append)
                    assert (result.text, shown) == ("resumed", ["before\n", "after\n"])
                assert (await world.ref.status()).restarts == 0, way


async def ended(url: str, session: str) -> None:
    """End a session behind its client's back."""
    at = urlsplit(url)
    async with await trio.open_tcp_stream(str(at.hostname), at.port or 0) as stream:
        lines = [f"DELETE {at.path} HTTP/1.1", f"host: {at.netloc}", f"mcp-session-id: {session}", "connection: close"]
        await stream.send_all("\r\n".join([*lines, "", ""]).encode())
        head = b""
        async for data in stream:
            head += data
        assert head.startswith(b"HTTP/1.1 200"), head
