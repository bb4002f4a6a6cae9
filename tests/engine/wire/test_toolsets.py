"""Toolsets on the wire: whole if they fit a frame, their lists cut if not."""

from __future__ import annotations

import attrs
import orjson

from engine.tools.spec import ResourceLine, ToolLine, ToolsetStatus
from engine.transcript.records import Failure
from engine.wire.objects import OBJECT_BYTES
from engine.wire.toolsets import encode_toolset, encode_toolsets

PLAIN = ToolsetStatus(name="files", kind="builtin", state="ready", tools=(), leases=1, restarts=2)
FULL = attrs.evolve(
    PLAIN,
    tools=tuple(ToolLine(name=f"tool{number}", description="é" * 4096) for number in range(128)),
    prompts=tuple(ToolLine(name=f"prompt{number}", description="d" * 200) for number in range(128)),
    resources=tuple(ResourceLine(uri="u" * 1000, name="n" * 200, description="\0" * 200) for number in range(128)),
)


def test_what_is_absent_has_no_key() -> None:
    assert orjson.loads(encode_toolset(PLAIN)) == {
        "name": "files", "kind": "builtin", "state": "ready", "tools": [], "leases": 1, "restarts": 2,
    }  # fmt: skip


def test_all_that_a_small_one_has() -> None:
    status = attrs.evolve(
        PLAIN,
        error=Failure(code="tool_error", message="why"),
        tools=(ToolLine(name="a", description="does"),),
        prompts=(ToolLine(name="p", description=""),),
        resources=(ResourceLine(uri="file:///r", name="r", description="it"),),
    )
    (found,) = orjson.loads(encode_toolsets([status]))
    assert found["tools"] == [{"name": "a", "description": "does"}]
    assert found["prompts"] == [{"name": "p", "description": ""}]
    assert found["resources"] == [{"uri": "file:///r", "name": "r", "description": "it"}]
    assert found["error"] == {"code": "tool_error", "message": "why"}


def test_a_full_one_has_shorter_descriptions() -> None:
    data = encode_toolset(FULL)
    assert len(data) <= OBJECT_BYTES
    found = orjson.loads(data)
    assert [len(found[name]) for name in ("tools", "prompts", "resources")] == [128, 128, 128]
    assert "tools_more" not in found


def test_many_full_ones_have_shorter_lists_and_say_so() -> None:
    data = encode_toolsets([FULL] * 32)
    assert len(data) <= OBJECT_BYTES
    for found in orjson.loads(data):
        for name in ("tools", "prompts", "resources"):
            assert len(found[name]) + found[f"{name}_more"] == 128
    assert len(encode_toolsets([FULL] * 256)) <= OBJECT_BYTES
