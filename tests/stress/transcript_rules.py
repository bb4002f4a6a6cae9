"""What holds for every transcript and every run's events, however the runs in it ended. Written against the wire
contract: what is looked at are the JSON objects that clients get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

Json = dict[str, Any]
FINISHES = {
    "stop", "tool_calls", "length", "content_filter", "cancelled", "interrupted", "error", "max_turns",
}  # fmt: skip


def transcript_problems(messages: Sequence[Json]) -> list[str]:
    """What is wrong with the messages of a session in which no run is active, oldest first; empty if nothing is."""
    found = [f"id {one} is there {count} times" for one, count in _ids(messages).items() if count > 1]
    asked: str | None = None  # the user's message that is being answered
    turn = 0
    failed = False  # the turn before
    for message in messages:
        info, where = message["info"], message["info"]["id"]
        if info["role"] == "user":
            asked, turn, failed = info["id"], 0, False
            if not any(part["kind"] in ("text", "file") for part in message["parts"]):
                found.append(f"{where}: the user says nothing")
            continue
        if any(part["kind"] == "compaction" for part in message["parts"]):
            found += [f"{where}: {problem}" for problem in _compaction_problems(message, asked)]
            continue
        if asked is None or info.get("parent_id") != asked:
            found.append(f"{where}: it answers {info.get('parent_id')}, not {asked}")
        # A turn that a service refused is made again under its number.
        turn += 1 if not failed or message["parts"][0].get("turn") != turn else 0
        failed = info.get("finish") == "error"
        found += [f"{where}: {problem}" for problem in _turn_problems(message, turn)]
    return found


def _compaction_problems(message: Json, asked: str | None) -> Iterator[str]:
    info = message["info"]
    if len(message["parts"]) != 1 or not message["parts"][0]["summary"].strip():
        yield f"a compaction is one part with a summary: {message['parts']}"
    if info.get("finish") != "stop" or "finished_at" not in info:
        yield f"the compaction has no end: {info}"
    if info.get("parent_id") not in (None, asked):
        yield f"the compaction answers {info['parent_id']}, not {asked}"


def _ids(messages: Sequence[Json]) -> Counter[str]:
    return Counter(
        name for message in messages for name in (message["info"]["id"], *(part["id"] for part in message["parts"]))
    )


def _turn_problems(message: Json, turn: int) -> Iterator[str]:
    info, parts = message["info"], message["parts"]
    if info.get("finish") not in FINISHES or "finished_at" not in info:
        yield f"the turn has no finish: {info}"
    kinds = [part["kind"] for part in parts]
    if kinds[:1] != ["step-start"] or kinds.count("step-start") != 1:
        yield f"the turn does not begin once: {kinds}"
    elif parts[0]["turn"] != turn:
        yield f"it is turn {parts[0]['turn']}, not {turn}"
    if kinds[-1:] != ["step-finish"] or kinds.count("step-finish") != 1:
        yield f"the turn does not end once: {kinds}"
    elif parts[-1]["finish"] != info.get("finish"):
        yield f"it ended by {parts[-1]['finish']} and by {info.get('finish')}"
    calls = [part for part in parts if part["kind"] == "tool"]
    for name, count in Counter(call["call_id"] for call in calls).items():
        if count > 1:
            yield f"call {name} is there {count} times"
    for call in calls:
        yield from _call_problems(call)
    if info.get("finish") == "tool_calls" and not calls:
        yield "it ended for calls that it did not make"
    if info.get("finish") == "stop" and calls:
        yield "it ended without an answer to its calls"


def _call_problems(call: Json) -> Iterator[str]:
    name = f"call {call['call_id']} of {call['tool']}"
    results = [field for field in ("output", "error") if field in call]
    wanted = {"completed": ["output"], "error": ["error"]}.get(call["state"])
    if wanted is None:
        yield f"{name} is {call['state']}"
    elif results != wanted:
        yield f"{name} is {call['state']} and has {results}"
    if "finished_at" not in call:
        yield f"{name} has no end"
    elif "started_at" in call and call["started_at"] > call["finished_at"]:
        yield f"{name} ends before it begins"


def event_problems(events: Sequence[Json], messages: Sequence[Json]) -> list[str]:
    """What is wrong with all events of one ended run, beside the messages that it left; empty if nothing is."""
    found: list[str] = []
    last = 0
    for event in events:
        if event.get("from", event["seq"]) != last + 1:
            found.append(f"event {event['seq']} follows {last}")
        last = event["seq"]
    kinds = Counter(event["type"] for event in events)
    if kinds["run.finished"] != 1 or events[-1]["type"] != "run.finished":
        found.append(f"the run does not end once and last: {kinds}")
    if kinds["turn.started"] != kinds["turn.finished"]:
        found.append(f"turns do not end: {kinds}")
    found += _shown_parts(events, messages)
    found += _shown_calls(events, messages)
    return found


def _shown_parts(events: Sequence[Json], messages: Sequence[Json]) -> Iterator[str]:
    """Parts begin and end once, and their text is what is stored."""
    started = [event["part_id"] for event in events if event["type"] == "part.started"]
    finished = [event["part_id"] for event in events if event["type"] == "part.finished"]
    if len(set(started)) != len(started) or sorted(started) != sorted(finished):
        yield f"parts that began: {started}, that ended: {finished}"
    texts: dict[str, str] = {}
    for event in events:
        if event["type"] == "part.delta":
            texts[event["part_id"]] = texts.get(event["part_id"], "") + event["text"]
    for message in messages:
        if message["info"]["role"] == "assistant":
            for part in message["parts"]:
                if part["kind"] in ("text", "reasoning") and texts.pop(part["id"], "") != part["text"]:
                    yield f"part {part['id']} was shown otherwise than it is stored"
    if texts:
        yield f"shown and not stored: {texts}"


def _shown_calls(events: Sequence[Json], messages: Sequence[Json]) -> Iterator[str]:
    """Of each call one end is shown, which is the stored one, and calls that were asked about are decided once."""
    stored = {part["call_id"]: part for message in messages for part in message["parts"] if part["kind"] == "tool"}
    ends: dict[str, list[Json]] = {}
    for event in events:
        if event["type"] == "tool.updated" and event["state"] in ("completed", "error"):
            ends.setdefault(event["call_id"], []).append(event)
    if set(ends) != set(stored):
        yield f"calls that ended: {sorted(ends)}, that are stored: {sorted(stored)}"
    for call_id, shown in ends.items():
        part = stored.get(call_id, {})
        if len(shown) != 1:
            yield f"call {call_id} ends {len(shown)} times"
        for field in ("state", "output", "error"):
            if shown[-1].get(field) != part.get(field):
                yield f"call {call_id}: {field} is shown as {shown[-1].get(field)!r}, stored as {part.get(field)!r}"
    asked = Counter(event["call_id"] for event in events if event["type"] == "approval.requested")
    decided = Counter(event["call_id"] for event in events if event["type"] == "approval.resolved")
    if asked != decided or any(count > 1 for count in asked.values()):
        yield f"asked about {dict(asked)}, decided {dict(decided)}"
