"""What the model server says, in the format of the service that it plays: events and bodies, no I/O."""

from __future__ import annotations

import json
from typing import Any

SIGNATURE = "c2lnbmF0dXJl" * 20


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class ChatCompletions:
    """Asked for at /v1/chat/completions."""

    def __init__(self, model: str) -> None:
        self.model = model

    @staticmethod
    def texts(body: dict[str, Any]) -> list[str]:
        """What users said."""
        contents = [message["content"] for message in body["messages"] if message["role"] == "user"]
        return [content for content in contents if isinstance(content, str)]

    @staticmethod
    def result(body: dict[str, Any]) -> str | None:
        """The result of a call, if it comes last, its images behind it or not."""
        messages = body["messages"]
        last = messages[-2] if isinstance(messages[-1]["content"], list) else messages[-1]
        return last["content"] if last["role"] == "tool" else None

    def framed(self, event: dict[str, Any]) -> bytes:
        return b"data: " + compact(event) + b"\n\n"

    def begin(self, text: bool = True) -> list[dict[str, Any]]:
        return [self._chunk({"role": "assistant", "content": "" if text else None})]

    def text(self, text: str) -> dict[str, Any]:
        return self._chunk({"content": text})

    def thinking(self, text: str) -> list[dict[str, Any]]:
        return [self._chunk({"reasoning_content": text})]

    def call(self, name: str, pieces: list[str]) -> list[dict[str, Any]]:
        start = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
        rest = [{"index": 0, "function": {"arguments": piece}} for piece in pieces]
        return [self._chunk({"tool_calls": [fragment]}) for fragment in (start, *rest)]

    def finish(self, calls: bool, words: int) -> list[dict[str, Any]]:
        return [self._chunk({}, "tool_calls" if calls else "stop")]

    def last(self, words: int) -> bytes:
        usage = {"prompt_tokens": 11, "completion_tokens": words, "total_tokens": 11 + words}
        return self.framed({**self._chunk({}), "choices": [], "usage": usage}) + b"data: [DONE]\n\n"

    def whole(self, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        return {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}

    def error(self, message: str, kind: str) -> dict[str, Any]:
        return {"error": {"message": message, "type": kind, "code": None}}

    def refusal(self, error: Any) -> dict[str, Any]:
        """An error of any shape, as an event of a stream."""
        return _inside(error)

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {
            "id": "chatcmpl-0123456789abcdefghijklmn", "object": "chat.completion.chunk", "created": 1700000000,
            "model": self.model, "system_fingerprint": "fp_0123456789", "choices": [choice],
        }  # fmt: skip


class Messages:
    """Asked for at /v1/messages."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.index = 0  # of the open block

    @staticmethod
    def texts(body: dict[str, Any]) -> list[str]:
        return [
            block["text"]
            for message in body["messages"] if message["role"] == "user"
            for block in message["content"] if block["type"] == "text"
        ]  # fmt: skip

    @staticmethod
    def result(body: dict[str, Any]) -> str | None:
        last = body["messages"][-1]["content"][-1]
        return last.get("content", "") if last["type"] == "tool_result" else None

    def framed(self, event: dict[str, Any]) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), compact(event))

    def begin(self, text: bool = True) -> list[dict[str, Any]]:
        usage = {"input_tokens": 2, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 5, "output_tokens": 1}
        message = {**self._message([]), "stop_reason": None, "usage": usage}
        start = {"type": "message_start", "message": message}
        return [start, {"type": "ping"}, *([self._start({"type": "text", "text": ""})] if text else [])]

    def text(self, text: str) -> dict[str, Any]:
        return self._delta({"type": "text_delta", "text": text})

    def thinking(self, text: str) -> list[dict[str, Any]]:
        return [
            self._start({"type": "thinking", "thinking": "", "signature": ""}),
            self._delta({"type": "thinking_delta", "thinking": text}),
            self._delta({"type": "signature_delta", "signature": SIGNATURE}),
            self._stop(),
        ]

    def call(self, name: str, pieces: list[str]) -> list[dict[str, Any]]:
        start = self._start({"type": "tool_use", "id": "toolu_1", "name": name, "input": {}})
        return [start, *(self._delta({"type": "input_json_delta", "partial_json": piece}) for piece in ["", *pieces])]

    def finish(self, calls: bool, words: int) -> list[dict[str, Any]]:
        delta = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
        return [self._stop(), {"type": "message_delta", "delta": delta, "usage": {"output_tokens": words}}]

    def last(self, words: int) -> bytes:
        return self.framed({"type": "message_stop"})

    def whole(self, text: str) -> dict[str, Any]:
        usage = {"input_tokens": 11, "output_tokens": 3}
        return {**self._message([{"type": "text", "text": text}]), "stop_reason": "end_turn", "usage": usage}

    def error(self, message: str, kind: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}

    def refusal(self, error: Any) -> dict[str, Any]:
        return {**_inside(error), "type": "error"}

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": "msg_1", "type": "message", "role": "assistant", "model": self.model, "content": content}

    def _start(self, block: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_start", "index": self.index, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self.index, "delta": delta}

    def _stop(self) -> dict[str, Any]:
        self.index += 1
        return {"type": "content_block_stop", "index": self.index - 1}


Format = ChatCompletions | Messages


def format_of(target: str, model: str) -> Format:
    return Messages(model) if target.endswith("/messages") else ChatCompletions(model)


def _inside(error: Any) -> dict[str, Any]:
    """`{"error": …}` of an error's JSON, in whichever shape a service gives it."""
    value = error[0] if isinstance(error, list) else error
    return value if isinstance(value.get("error"), dict) else {"error": value}
