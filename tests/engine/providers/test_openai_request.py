from __future__ import annotations

import json
from typing import Any

from engine.providers.base import ModelRequest
from engine.providers.openai_request import encode_message, encode_request
from engine.tools.spec import ToolSpec
from engine.transcript.records import (
    AssistantMessage,
    CompactionPart,
    FilePart,
    Message,
    Part,
    ReasoningPart,
    RetryPart,
    StepStartPart,
    TextPart,
    ToolPart,
    UserMessage,
)


def user(*parts: Part) -> Message:
    return Message(UserMessage(id="msg_u", created_at=1), parts)


def assistant(*parts: Part) -> Message:
    return Message(AssistantMessage(id="msg_a", created_at=1), parts)


def text(value: str) -> TextPart:
    return TextPart(id="prt", text=value)


def body(*messages: Message, instructions: str | None = None, tools: tuple[ToolSpec, ...] = ()) -> dict[str, Any]:
    request = ModelRequest(model="m-1", instructions=instructions, messages=messages, tools=tools)
    return json.loads(b"".join(encode_request(request)))  # type: ignore[no-any-return]


def test_the_whole_body() -> None:
    spec = ToolSpec(name="files.read_file", description="Reads.", input_schema=b'{"type":"object"}')
    assert body(user(text("hi 😀")), instructions="Be brief.", tools=(spec,)) == {
        "model": "m-1",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi 😀"}],
        "tools": [
            {
                "type": "function",
                "function": {"name": "files__read_file", "description": "Reads.", "parameters": {"type": "object"}},
            }
        ],
    }


def test_without_messages_it_is_json_too() -> None:
    assert body()["messages"] == []
    assert body(assistant(), user(text("a")), assistant(ReasoningPart(id="p", text="hm")))["messages"] == [
        {"role": "user", "content": "a"}
    ]


def test_a_tool_call_is_followed_by_its_result() -> None:
    done = ToolPart(
        id="p1", call_id="call_1", tool="files.read_file", state="completed", input=b'{"path":"a"}', output="text of a"
    )
    failed = ToolPart(id="p2", call_id="call_2", tool="shell.run", state="error", error="it was denied")
    message = assistant(
        StepStartPart(id="s", turn=1), ReasoningPart(id="r", text="secret"), text("I look."), done, failed
    )
    assert body(user(text("look")), message)["messages"][1:] == [
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "files__read_file", "arguments": '{"path":"a"}'},
                },
                {"id": "call_2", "type": "function", "function": {"name": "shell__run", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "text of a"},
        {"role": "tool", "tool_call_id": "call_2", "content": "Error: it was denied"},
    ]


def test_a_call_without_a_result_gets_one() -> None:
    part = ToolPart(id="p", call_id="call_1", tool="a.b", state="running")
    messages = body(assistant(part))["messages"]
    assert messages[0]["content"] is None
    assert messages[1] == {"role": "tool", "tool_call_id": "call_1", "content": "Error: the call did not finish."}


def test_files() -> None:
    image = FilePart(id="f", mime="image/png", size=3, data_base64="AAAA")
    stored = FilePart(id="f", mime="image/png", size=99_000, name="big.png", handle="blob_1")
    other = FilePart(id="f", mime="application/pdf", size=3, name="a.pdf", data_base64="AAAA")
    assert body(user(text("see"), image, stored))["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "text", "text": "[attached file big.png: image/png, 99,000 bytes, not shown]"},
            ],
        }
    ]
    # Without an image it is one string: many servers take no list.
    assert body(user(text("see"), other))["messages"] == [
        {"role": "user", "content": "see\n\n[attached file a.pdf: application/pdf, 3 bytes, not shown]"}
    ]


def test_a_summary_stands_for_what_it_replaced() -> None:
    content = body(user(CompactionPart(id="c", summary="They said hi."), text("go on")))["messages"][0]["content"]
    assert content == "Summary of the conversation before this:\nThey said hi.\n\ngo on"


def test_what_a_service_cannot_be_told_is_left_out() -> None:
    assert encode_message(assistant(RetryPart(id="r", attempt=1, reason="x", delay_ms=1))) == b""
    assert encode_message(user()) == b""


def test_the_piece_of_a_message_depends_on_nothing_else() -> None:
    one, two = user(text("a")), assistant(text("b"))
    request = ModelRequest(model="m", instructions=None, messages=(one, two), tools=())
    assert list(encode_request(request))[1:-2] == [encode_message(one), b",", encode_message(two)]


def test_images_that_calls_gave_follow_all_results() -> None:
    first = ToolPart(id="p", call_id="call_1", tool="a.b", state="completed", output="one")
    second = ToolPart(id="q", call_id="call_2", tool="a.b", state="completed", output="two")
    image = FilePart(id="f", mime="image/png", size=3, data_base64="AAAA", call_id="call_1")
    lost = FilePart(id="g", mime="image/png", size=99, name="lost.png", call_id="call_2")
    answer, *rest = body(assistant(text("hm"), first, image, second, lost))["messages"]
    assert answer["content"] == "hm"
    assert rest == [
        {"role": "tool", "tool_call_id": "call_1", "content": "one"},
        {
            "role": "tool",
            "tool_call_id": "call_2",
            "content": "two\n\n[attached file lost.png: image/png, 99 bytes, not shown]",
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "The images that these calls gave:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ],
        },
    ]
