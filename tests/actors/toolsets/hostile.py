"""A tool server over pipes that does whatever its plan and its calls say, with no library.

    python hostile.py PLAN

PLAN is JSON: `capabilities`; `tools`, `prompts`, `resources`, each a list of pages (of entries); `endless` lists, whose
cursor goes on for ever; `refuse` {method: message}; `silent` methods, which are never answered; `first`, lines that are
written before anything is read; `record`, a file that gets each line that was read; `answers` {method: result}.

A call's tool does not matter; its arguments are what is done, in this order: `write` (lines, `@id@` being the call's
id), `times` of them; `half` a line, without its end; `ask` [requests of its own, whose answers are the call's result,
as JSON]; `change` (a plan, laid over the present one); `exit` (code); `close` its output; `sleep` for ever, reading
nothing; `answer` (the result; null: none, absent: an empty one).
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

TOOL = {"name": "do", "inputSchema": {"type": "object"}}


class Server:
    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan: dict[str, Any] = {"capabilities": {"tools": {}}, "tools": [[TOOL]], **plan}
        self.number = 0
        self.waiting: dict[str, tuple[Any, list[Any], int]] = {}  # answers to come

    def send(self, message: dict[str, Any]) -> None:
        self.write(json.dumps({"jsonrpc": "2.0", **message}))

    def write(self, line: str) -> None:
        data = line.encode() + b"\n"
        while data:
            data = data[os.write(1, data) :]

    def run(self) -> None:
        for line in self.plan.get("first", ()):
            self.write(line)
        for line in sys.stdin:
            if "record" in self.plan:
                with open(self.plan["record"], "a") as file:
                    file.write(line)
            self.take(json.loads(line))

    def take(self, message: dict[str, Any]) -> None:
        method, number = message.get("method"), message.get("id")
        if method is None:
            self.answered(number, message)
        elif number is not None and method not in self.plan.get("silent", ()):
            refused = self.plan.get("refuse", {}).get(method)
            if refused is not None:
                self.send({"id": number, "error": {"code": -32000, "message": refused}})
            elif method == "tools/call":
                self.call(number, message["params"].get("arguments") or {})
            else:
                self.send({"id": number, "result": self.result(method, message.get("params") or {})})

    def result(self, method: str, params: dict[str, Any]) -> Any:
        if method in self.plan.get("answers", {}):
            return self.plan["answers"][method]
        if method == "initialize":
            info = {"name": "hostile", "version": "1"}
            return {
                "protocolVersion": params["protocolVersion"],
                "capabilities": self.plan["capabilities"],
                "serverInfo": info,
            }
        kind = method.partition("/")[0]
        pages, page = self.plan.get(kind, [[]]), int(params.get("cursor", 0))
        if kind in self.plan.get("endless", ()):
            return {kind: pages[page % len(pages)], "nextCursor": str(page + 1)}
        following = {"nextCursor": str(page + 1)} if page + 1 < len(pages) else {}
        return {kind: pages[page], **following}

    def call(self, number: Any, given: dict[str, Any]) -> None:
        data = "".join(line.replace("@id@", str(number)) + "\n" for line in given.get("write", ()))
        for _ in range(given.get("times", 1)):
            if data:
                self.write(data[:-1])
        os.write(1, given.get("half", "").encode())
        asked = given.get("ask", ())
        answers: list[Any] = [None] * len(asked)
        for place, request in enumerate(asked):
            self.number += 1
            self.waiting[f"s{self.number}"] = (number, answers, place)
            self.send({"id": f"s{self.number}", **request})
        self.plan.update(given.get("change", {}))
        if "exit" in given:
            os._exit(given["exit"])
        if given.get("close"):
            os.close(1)
        while given.get("sleep") or given.get("close"):
            time.sleep(1000)
        if given.get("answer", {}) is not None and not asked:
            self.send({"id": number, "result": {"content": [], **given.get("answer", {})}})

    def answered(self, number: Any, message: dict[str, Any]) -> None:
        call, answers, place = self.waiting.pop(number, (None, [None], 0))
        answers[place] = message.get("result", message.get("error"))
        if call is not None and None not in answers:
            self.send({"id": call, "result": {"content": [{"type": "text", "text": json.dumps(answers)}]}})


if __name__ == "__main__":
    Server(json.loads(sys.argv[1])).run()
