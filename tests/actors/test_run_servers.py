"""Runs beside a tool server that does not answer: the model is asked without it, and with it from the turn on in which
it has come."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from actors.toolset import Toolbox
from engine.config import ToolsetConfig
from engine.tools.spec import ToolContext
from tests.actors import mcp_server
from tests.actors.scripted import Stage, Staged, staged

__all__ = ["staged"]

CONTEXT = ToolContext(session_id="ses_1", run_id="run_1", call_id="call_1", cwd="/")
# Answers nothing before the file `go` is there; `starts` has a byte for each start.
LATE = """
import os, sys, time
folder = sys.argv[1]
with open(folder + "/starts", "a") as starts:
    starts.write("x")
while not os.path.exists(folder + "/go"):
    time.sleep(0.02)
os.execv(sys.executable, [sys.executable, sys.argv[2]])
"""


def late(folder: Path) -> ToolsetConfig:
    return ToolsetConfig(kind="mcp", command=sys.executable, args=("-c", LATE, str(folder), mcp_server.__file__))


def toolbox_of(stage: Stage) -> Toolbox:
    return stage.engine._composition.toolbox


async def test_a_server_that_comes_late_is_there_from_the_next_turn_on(staged: Staged, tmp_path: Path) -> None:
    async def wait() -> str:
        """Lets the server go on, and waits until it is ready."""
        (tmp_path / "go").touch()
        while [status.state for status in await toolbox_of(stage).statuses() if status.name == "late"] != ["ready"]:
            await toolbox_of(stage).call("late.echo", b'{"text":"?"}', CONTEXT, toolsets=["late"])
        return "ready"

    limits = {"toolset_first_wait": 0.05, "toolset_start_timeout": 600.0, "tool_call_timeout": 600.0}
    async with staged([wait], toolsets={"late": late(tmp_path)}, **limits) as stage:
        run, call = await stage.begin(instructions="Be kind.")
        assert [spec.name for spec in call.request.tools] == ["functions.wait"]
        assert call.request.instructions == ("Be kind.\n\nThe tools of late are not there now, they may come later.")
        call.tools(("functions__wait", "{}"))
        call = await stage.models.call()
        names = [spec.name for spec in call.request.tools]
        assert "late.echo" in names and "functions.wait" in names and call.request.instructions == "Be kind."
        call.tools(("late__echo", json.dumps({"text": "here"})))
        call = await stage.models.call()
        call.end()
        assert (await run.wait()).status == "completed"
        assert (tmp_path / "starts").read_text() == "x"
