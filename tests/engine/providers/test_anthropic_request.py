from __future__ import annotations

import itertools
import json
from typing import Any

import attrs
import pytest

from engine.providers.anthropic_request import encode_request
from engine.providers.base import ModelRequest
from engine.tools.spec import ToolSpec
from engine.transcript.records import (
    AssistantMessage,
    CompactionPart,
    FilePart,
    Message,
    Part,
    ReasoningPart,
    StepStartPart,
    TextPart,
    ToolPart,
    UserMessage,
)

CALL = ToolPart(
    id="prt_1", call_id="call:1", tool="files.read_file", state="completed", input=b'{"path":"a"}', output="text of a"
)


def user(*parts: Part, run: str | None = "run_1") -> Message:
    return Message(UserMessage(id="msg_u", created_at=1, run_id=run), parts)


def assistant(*parts: Part, run: str | None = "run_1") -> Message:
    return Message(AssistantMessage(id="msg_a", created_at=1, run_id=run), parts)


def text(value: str) -> TextPart:
    return TextPart(id="prt", text=value)


def thought(value: str, signature: str | None) -> ReasoningPart:
    return ReasoningPart(id="prt", text=value, signature=signature)


def body(*messages: Message, instructions: str | None = None, tools: tuple[ToolSpec, ...] = ()) -> dict[str, Any]:
    request = ModelRequest(model="m-1", instructions=instructions, messages=messages, tools=tools)
    return json.loads(b"".join(encode_request(request, 500)))  # type: ignore[no-any-return]


def turns(*messages: Message) -> list[tuple[str, list[dict[str, Any]]]]:
    return [(message["role"], message["content"]) for message in body(*messages)["messages"]]


def said(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def test_the_whole_body() -> None:
    spec = ToolSpec(name="files.read_file", description="Reads.", input_schema=b'{"type":"object"}')
    assert body(user(text("hi 😀")), instructions="Be brief.", tools=(spec,)) == {
        "model": "m-1",
        "stream": True,
        "max_tokens": 500,
        "system": "Be brief.",
        "tools": [{"name": "files__read_file", "description": "Reads.", "input_schema": {"type": "object"}}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi 😀"}]}],
    }


def test_without_messages_it_is_json_too() -> None:
    assert body()["messages"] == []
    assert body(user())["messages"] == []


def test_a_result_opens_the_next_turn_of_the_user() -> None:
    failed = ToolPart(id="prt_2", call_id="call:1", tool="shell.run", state="error", error="it was denied")
    answer = assistant(StepStartPart(id="s", turn=1), text("I look."), CALL, failed)
    assert turns(user(text("look")), answer, assistant(text("Done.")), user(text("thanks"))) == [
        ("user", [said("look")]),
        (
            "assistant",
            [
                said("I look."),
                {"type": "tool_use", "id": "prt_1", "name": "files__read_file", "input": {"path": "a"}},
                {"type": "tool_use", "id": "prt_2", "name": "shell__run", "input": {}},
            ],
        ),
        (
            "user",
            [
                {"type": "tool_result", "tool_use_id": "prt_1", "content": "text of a"},
                {"type": "tool_result", "tool_use_id": "prt_2", "content": "Error: it was denied", "is_error": True},
            ],
        ),
        ("assistant", [said("Done.")]),
        ("user", [said("thanks")]),
    ]
    # What was said while the tool was at work follows the result in one turn.
    (_, _, (role, content)) = turns(user(text("look")), assistant(CALL), user(text("and b")))
    assert (role, [block["type"] for block in content]) == ("user", ["tool_result", "text"])


def test_messages_of_one_role_are_one_turn() -> None:
    messages = [user(text("a")), assistant(), user(text("b")), assistant(text("c")), assistant(text("d"))]
    assert turns(*messages) == [("user", [said("a"), said("b")]), ("assistant", [said("c"), said("d")])]


def test_a_call_without_a_result_gets_one() -> None:
    call = attrs.evolve(CALL, state="running", output=None)
    assert turns(assistant(call))[1][1] == [
        {"type": "tool_result", "tool_use_id": "prt_1", "content": "Error: the call did not finish.", "is_error": True}
    ]


def test_what_the_service_would_refuse_is_not_said() -> None:
    assert turns(user(text(" \n"), text("a"), text(""))) == [("user", [said("a")])]
    assert "system" not in body(user(text("a")), instructions=" \n")
    (_, [call]), (_, [result]) = turns(assistant(attrs.evolve(CALL, input=b"[1]", output=" ")))
    assert call["input"] == {}
    assert result == {"type": "tool_result", "tool_use_id": "prt_1"}


def test_files() -> None:
    image = FilePart(id="f", mime="image/png", size=3, data_base64="AAAA")
    stored = FilePart(id="f", mime="image/png", size=99_000, name="big.png", handle="blob_1")
    drawn = FilePart(id="f", mime="image/svg+xml", size=3, name="a.svg", data_base64="AAAA")
    assert turns(user(text("see"), image, stored, drawn)) == [
        (
            "user",
            [
                said("see"),
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                said("[attached file big.png: image/png, 99,000 bytes, not shown]"),
                said("[attached file a.svg: image/svg+xml, 3 bytes, not shown]"),
            ],
        )
    ]
    # Only users show images.
    assert turns(assistant(image))[0][1][0]["type"] == "text"


def test_a_summary_stands_for_what_it_replaced() -> None:
    assert turns(user(CompactionPart(id="c", summary="They said hi."), text("go on")))[0][1] == [
        said("Summary of the conversation before this:\nThey said hi."),
        said("go on"),
    ]


THOUGHTS = (
    thought("It has to be read.", "thinking:c2ln"),
    thought("", "thinking:b21pdHRlZA=="),
    thought("", "redacted_thinking:ZGF0YQ=="),
)


def test_thinking_goes_back_with_the_result_as_it_was_signed() -> None:
    (_, _), (_, content), (_, _) = turns(user(text("look")), assistant(*THOUGHTS, text("I look."), CALL))
    assert content[:3] == [
        {"type": "thinking", "thinking": "It has to be read.", "signature": "c2ln"},
        {"type": "thinking", "thinking": "", "signature": "b21pdHRlZA=="},
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
    ]
    assert [block["type"] for block in content[3:]] == ["text", "tool_use"]


@pytest.mark.parametrize("run", ["run_2", None])
def test_thinking_of_earlier_runs_is_left_out(run: str | None) -> None:
    earlier = [user(text("look")), assistant(*THOUGHTS, CALL)]
    (_, _), (_, content), (_, _) = turns(*earlier, user(text("more"), run=run))
    assert [block["type"] for block in content] == ["tool_use"]
    # Messages that no run wrote are not of one run.
    (_, content), _ = turns(assistant(*THOUGHTS, CALL, run=None))
    assert [block["type"] for block in content] == ["tool_use"]


@pytest.mark.parametrize("signature", [None, "of another service", "sha256:abc", "thinking", "redacted_thinking:"])
def test_thinking_that_this_service_did_not_sign_is_left_out(signature: str | None) -> None:
    (_, content), _ = turns(assistant(thought("hm", signature), CALL))
    assert [block["type"] for block in content] == ["tool_use"]


def test_turns_alternate_whatever_the_messages_are() -> None:
    pieces = [user(text("a")), user(), assistant(text("b")), assistant(CALL), assistant(), user(text(" "))]
    for first in pieces:
        for second in pieces:
            for third in pieces:
                roles = [role for role, _ in turns(first, second, third)]
                assert all(one != other for one, other in itertools.pairwise(roles))


def test_images_that_calls_gave_are_in_their_results() -> None:
    call = attrs.evolve(CALL, output="one")
    image = FilePart(id="f", mime="image/png", size=3, data_base64="AAAA", call_id=CALL.call_id)
    lost = FilePart(id="g", mime="image/png", size=99, name="lost.png", call_id=CALL.call_id)
    other = FilePart(id="h", mime="image/png", size=9, data_base64="BBBB", call_id="call_of_another")
    (_, [use]), (_, [result]) = turns(assistant(call, image, lost, other))
    assert use["type"] == "tool_use"
    assert result["content"] == [
        said("one"),
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        said("[attached file lost.png: image/png, 99 bytes, not shown]"),
    ]


def test_the_service_may_be_asked_to_keep_what_it_read() -> None:
    """In a field of the request, which is the same in each: the requests of a run go on beginning alike."""
    one = Message(UserMessage(id="m1", created_at=1), (TextPart(id="p1", text="a"),))
    two = Message(UserMessage(id="m2", created_at=1), (TextPart(id="p2", text="b"),))
    bodies = [
        b"".join(
            encode_request(ModelRequest(model="m", instructions=None, messages=messages, tools=()), 9, cached=True)
        )
        for messages in ((one,), (one, two))
    ]
    assert json.loads(bodies[0])["cache_control"] == {"type": "ephemeral"}
    assert bodies[1].startswith(bodies[0].removesuffix(b"]}]}"))
    plain = b"".join(encode_request(ModelRequest(model="m", instructions=None, messages=(one,), tools=()), 9))
    assert "cache_control" not in json.loads(plain)
