"""What it costs to show a session in a terminal: memory by the message, CPU by the byte, lines by what is seen.

    python scripts/bench_render.py [--quick] [--json]

A view of a transcript (engine/rendering) is fed as a client feeds it: answers of 8 KiB in pieces of 256 bytes, a page
drawn after every fourth piece, the texts of finished answers in a file (a daemon, for a client). Measured:

- 200 answers to warm up and 200 measured, then 2,000 and 2,000, each in a process of its own: by how much the heap
  (tracemalloc) and resident memory grow a message, how many entries are live at the most, what the shelf of rendered
  lines holds at the most
- CPU of one answer of 20, 200 and 2,000 KB that streams: for each KB the same
- the same of answers of 200 and 2,000 KB that never close what they open or make far more lines than they have text:
  one line, one paragraph, one fence, one table, one list, deep quotes; and what is held of their lines
- in a session of 5,000 answers: a jump to the middle, a resize there and paging back, in time and lines rendered
- beside each the naive way: keep each answer with its text and its lines; render the answer anew for each page; render
  all for a jump or a resize

Conditions: < 2 KiB a message at both sizes, exactly one live, the shelf never beyond its bound, 2,000 KB at most twice
the CPU a KB of 200 KB, lines of what streams within three quarters of the shelf's bound, only what is seen is rendered.
--quick measures 80 + 80 answers with a quarter of the shelf,
1,000 KB at the most, and little of the naive way; times and resident memory are told and not judged then. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

from _daemon import Findings, resident, say, slope

from engine.limits import DEFAULT
from engine.rendering.entries import Anchor, Stored
from engine.rendering.markdown import Markdown
from engine.rendering.view import TranscriptView

MESSAGE = 8192  # bytes of one answer
CHUNK = 256
DRAW_EVERY = 4  # chunks
WIDTH, ROWS = 100, 40
SESSION = 5000  # messages of the session that is jumped in
SLOPE_KIB = 2.0
LINEAR = 2.0  # times the CPU a KB that a ten times longer answer may take: caches of the processor are in it
# Of a short measure on a busy machine, where texts are four times longer: what is quadratic takes four times as much.
LINEAR_QUICK = 3.0
JUMP_MS, RESIZE_MS = 150.0, 250.0
CHILD_LIMIT = 1200.0  # seconds
OPEN_BYTES = 128 * 1024  # of an open end, and what a text is longer in memory
SAMPLE = 10  # messages between two looks at memory
# What each begins with, and what comes again and again: nothing of it is ever closed.
SHAPES = {
    "one_line": ("", "word and word "),
    "one_word": ("", "x"),
    "one_paragraph": ("", "a line of *text* with `code`\n"),
    "one_fence": ("```python\n", "def name(self): return 'text'  # comment\n"),
    "one_line_of_code": ("```c\n", "f(x) /* y */; "),
    "one_table": ("|a|b|\n|-|-|\n", "|cell|other *cell*|\n"),
    "one_table_of_nothing": ("|a" * 16 + "\n" + "|-" * 16 + "\n", "|\n"),
    "one_list": ("", "- an item of it\n"),
    "deep_quotes": ("", ">" * 12 + " text\n>\n"),
    "open_marks": ("", "**[`a _"),
}
WORDS = [
    "".join(random.Random(number).choices("abcdefghijklmnopqrstuvwxyz", k=2 + number % 9)) for number in range(500)
]


def answer(number: int, size: int) -> str:
    """Of just so many bytes, with all that Markdown has; no two alike."""
    chance = random.Random(number)
    pieces: list[str] = []
    length = 0
    while length < size:
        words = chance.choices(WORDS, k=90)
        text = [" ".join(words[at : at + 15]) for at in range(0, 90, 15)]
        piece = (
            f"## {words[0]} {number}\n\n{text[0]} **{words[1]}** `{words[2]}` [{words[3]}](http://x/{number})\n"
            f"{text[1]} {text[2]}.\n\n- {text[3]}\n- *{words[4]}* {words[5]}\n  - {words[6]}\n\n"
            f"```python\ndef {words[7]}({words[8]}):\n    return {number} + len('{words[9]}')  # {words[10]}\n```\n\n"
            f"| {words[11]} | {words[12]} |\n|---|--:|\n| {words[13]} | {number} |\n\n> {text[4]} {text[5]}\n\n"
        )
        pieces.append(piece)
        length += len(piece)
    return "".join(pieces)[:size]


def chunks(text: str) -> Iterator[tuple[str, bool]]:
    """The pieces, and after which a page is drawn."""
    for number, at in enumerate(range(0, len(text), CHUNK), 1):
        yield text[at : at + CHUNK], number % DRAW_EVERY == 0 or at + CHUNK >= len(text)


# ------------------------------------------------------------ memory, in a process of its own
class View:
    """The view, its texts in a file."""

    def __init__(self, file: Any, shelf_bytes: int) -> None:
        self.file = file
        self.view = TranscriptView(WIDTH, source=self.text, shelf_bytes=shelf_bytes)
        self.live, self.shelf = [2**30, 0], 0

    def text(self, id: str) -> str:
        self.file.seek(int(id) * MESSAGE)
        return self.file.read(MESSAGE).decode()

    def show(self, number: int, text: str) -> None:
        view, id = self.view, str(number)
        view.append(id, "assistant")
        for piece, draw in chunks(text):
            view.extend(id, piece)
            if draw:
                view.page(view.end(ROWS), ROWS)
                live = view.live_holders()
                self.live = [min(self.live[0], live), max(self.live[1], live)]
                self.shelf = max(self.shelf, view.statistics().shelf.bytes)
        self.file.seek(number * MESSAGE)
        self.file.write(text.encode())

    def found(self) -> dict[str, Any]:
        return {"live": self.live, "shelf": self.shelf, "owned": self.view.retained_bytes()}


class Naive:
    """Each answer with its text and its lines, the open one rendered whole for each page."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, list[str]]] = []

    def show(self, number: int, text: str) -> None:
        so_far = ""
        lines: list[str] = []
        for piece, draw in chunks(text):
            so_far += piece
            if draw:
                lines = naive(so_far)
        self.kept.append((so_far, lines))

    def found(self) -> dict[str, Any]:
        return {}


def naive(text: str) -> list[str]:
    renderer = Markdown(WIDTH)
    renderer.feed(text)
    return renderer.lines()


def child(kind: str, count: int, shelf_bytes: int) -> None:
    """`count` answers to warm up, as many measured; a line of JSON."""
    with tempfile.TemporaryFile() as file:
        shower = View(file, shelf_bytes) if kind == "view" else Naive()
        tracemalloc.start()
        heap: list[tuple[float, float]] = []
        resident_points: list[tuple[float, float]] = []
        began = time.process_time()
        for number in range(2 * count):
            shower.show(number, answer(number, MESSAGE))
            if number >= count and number % SAMPLE == 0:
                gc.collect()
                heap.append((number, tracemalloc.get_traced_memory()[0]))
                resident_points.append((number, resident()))
        found = {
            "heap_kib": slope(heap) / 1024,
            "resident_kib": slope(resident_points) / 1024,
            "heap_mb": heap[-1][1] / 1e6,
            "resident_mb": resident_points[-1][1] / 1e6,
            "cpu_ms": (time.process_time() - began) / (2 * count) * 1000,
        }
        print(json.dumps(found | shower.found()))


def memory(findings: Findings, kind: str, count: int, shelf_bytes: int, *, quick: bool) -> None:
    say(f"memory, {kind}: {count} + {count} messages")
    command = [sys.executable, __file__, "--child", kind, "--count", str(count), "--shelf", str(shelf_bytes)]
    run = subprocess.run(command, stdout=subprocess.PIPE, timeout=CHILD_LIMIT, check=True)
    found = json.loads(run.stdout)
    what = f"{count} + {count} messages of 8 KiB"
    if kind == "naive":
        findings.note(
            f"naive_heap_kib_{count}", round(found["heap_kib"], 2), "KiB a message", f"naive way, heap, {what}"
        )
        value = round(found["resident_kib"], 2)
        findings.note(f"naive_resident_kib_{count}", value, "KiB a message", f"naive way, resident, {what}")
        return
    for name in ("heap", "resident"):
        value = round(found[f"{name}_kib"], 3)
        label = f"{name} after the plateau < {SLOPE_KIB:g}, {what}"
        if quick and name == "resident":  # the allocator's arenas are larger than so few messages may grow
            findings.note(f"{name}_kib_{count}", value, "KiB a message", label)
        else:
            findings.hold(f"{name}_kib_{count}", value, value < SLOPE_KIB, "KiB a message", label)
        findings.note(f"{name}_mb_{count}", round(found[f"{name}_mb"], 1), "MB", f"{name} at the end, {what}")
    findings.hold(f"live_{count}", found["live"], found["live"] == [1, 1], "", f"entries live, least and most, {what}")
    good = 0 < found["shelf"] <= shelf_bytes
    findings.hold(f"shelf_bytes_{count}", found["shelf"], good, "bytes", f"shelf ≤ {shelf_bytes}, {what}")
    findings.note(
        f"owned_mb_{count}", round(found["owned"] / 1e6, 2), "MB", f"what the view says that it holds, {what}"
    )
    findings.note(f"cpu_ms_{count}", round(found["cpu_ms"], 1), "ms", f"CPU a message with tracemalloc, {what}")


# ------------------------------------------------------------ one answer that streams
def streamed(text: str) -> float:
    """CPU seconds."""
    view = TranscriptView(WIDTH)
    began = time.process_time()
    view.append("a", "assistant")
    for piece, draw in chunks(text):
        view.extend("a", piece)
        if draw:
            view.page(view.end(ROWS), ROWS)
    return time.process_time() - began


def streamed_naively(text: str) -> float:
    began = time.process_time()
    so_far = ""
    for piece, draw in chunks(text):
        so_far += piece
        if draw:
            naive(so_far)
    return time.process_time() - began


def streaming(findings: Findings, sizes: tuple[int, ...], naive_sizes: tuple[int, ...], linear: float) -> None:
    each: dict[int, float] = {}
    for size in sizes:
        say(f"streaming, {size} KB")
        text = answer(size, size * 1000)
        took = min(streamed(text) for _ in range(3 if size < 1000 else 1))
        each[size] = took / size
        what = f"an answer of {size} KB, CPU"
        findings.note(f"stream_cpu_ms_{size}", round(took * 1000, 1), "ms", what)
        findings.note(f"stream_cpu_ms_a_kb_{size}", round(took / size * 1000, 3), "ms a KB", what)
    ratio = round(each[sizes[-1]] / each[200], 2)
    findings.hold(
        "stream_linear", ratio, ratio <= linear, "×", f"CPU a KB, {sizes[-1]} KB by 200 KB (linear: 1) ≤ {linear:g}"
    )
    for size in naive_sizes:
        say(f"streaming, {size} KB, naive")
        took = streamed_naively(answer(size, size * 1000))
        findings.note(
            f"naive_stream_cpu_ms_a_kb_{size}", round(took / size * 1000, 3), "ms a KB", f"naive way, {size} KB, CPU"
        )


def shapes(findings: Findings, small: int, large: int, rounds: tuple[int, int], linear: float) -> None:
    for name, (begin, again) in SHAPES.items():
        say(f"streaming, {name}")
        each = {}
        for size in (small, large):
            text = (begin + again * (size * 1000 // len(again)))[: size * 1000]
            each[size] = min(streamed(text) for _ in range(rounds[size == large])) / size
        ratio, what = round(each[large] / each[small], 2), name.replace("_", " ")
        findings.note(f"{name}_cpu_ms_a_kb", round(each[large] * 1000, 3), "ms a KB", f"{what}, {large} KB, CPU")
        label = f"{what}, CPU a KB, {large} KB by {small} KB (linear: 1) ≤ {linear:g}"
        findings.hold(f"{name}_linear", ratio, ratio <= linear, "×", label)
        view = TranscriptView(WIDTH)
        view.append("a", "assistant", text)
        view.page(view.end(ROWS), ROWS)
        view.page(Anchor("a", 0), ROWS)  # above what is kept
        held, most = view.retained_bytes() - len(text), DEFAULT.render_cache_bytes * 3 // 4 + OPEN_BYTES
        findings.hold(f"{name}_held", held, held <= most, "bytes", f"{what}, {large} KB: held of its lines ≤ {most}")


# ------------------------------------------------------------ a long session
def long_session(findings: Findings, naive_count: int) -> None:
    say(f"a session of {SESSION} messages")
    texts = [answer(number, MESSAGE) for number in range(64)]  # of more, the texts would be what is measured
    view = TranscriptView(WIDTH, source=lambda id: texts[int(id) % len(texts)])
    began = time.perf_counter()
    view.load(Stored(id=str(number), kind="assistant", size=MESSAGE) for number in range(SESSION))
    findings.note("load_ms", round((time.perf_counter() - began) * 1000, 1), "ms", f"load {SESSION} messages")
    view.page(view.end(ROWS), ROWS)

    def measured(key: str, most: float, what: str, seen: int) -> Anchor:
        before = view.statistics()
        began = time.perf_counter()
        if key == "resize":
            view.resize(WIDTH - 20)
            page = view.page(anchor, ROWS)
        else:
            page = view.page(view.place(view.total() // 2), ROWS)
        took = (time.perf_counter() - began) * 1000
        after = view.statistics()
        rendered = after.rendered - before.rendered
        assert len(page.lines) == ROWS and page.anchor is not None, page
        findings.aim(f"{key}_ms", round(took, 1), most, "ms", what)
        findings.hold(f"{key}_rendered", rendered, rendered <= seen, "messages", f"{what}: rendered ≤ {seen}")
        lines = after.rendered_lines - before.rendered_lines
        findings.note(f"{key}_lines", lines, "lines", f"{what}: lines rendered")
        return page.anchor

    # A page of 40 rows shows at most two of such messages.
    anchor = measured("jump", JUMP_MS, f"a jump to the middle of {SESSION} messages", 2)
    measured("resize", RESIZE_MS, f"a resize there, {WIDTH} to {WIDTH - 20} columns", 2)
    times = []
    for _ in range(30):
        began = time.perf_counter()
        anchor = view.move(anchor, -ROWS)
        view.page(anchor, ROWS)
        times.append((time.perf_counter() - began) * 1000)
    findings.note("page_up_ms", round(sum(times) / len(times), 2), "ms", "a page up, on the average")
    findings.note("held_mb", round(view.retained_bytes() / 1e6, 2), "MB", "what the view holds of it then")

    say(f"the naive way, {naive_count} messages")
    began = time.perf_counter()
    lines = sum(len(naive(texts[number % len(texts)])) for number in range(naive_count))
    took = time.perf_counter() - began
    what = f"naive way: a jump or a resize, {naive_count} messages"
    findings.note("naive_all_ms", round(took * 1000), "ms", what)
    findings.note("naive_all_lines", lines, "lines", what)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of everything; times are told and not judged")
    parser.add_argument("--json", action="store_true", help="standard output has the JSON line alone")
    parser.add_argument("--child", choices=("view", "naive"), help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--shelf", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child, asked.count, asked.shelf)
        return 0
    findings = Findings("render", asked.quick)
    with findings.told():
        shelf = DEFAULT.render_cache_bytes // (4 if asked.quick else 1)
        for count in (80,) if asked.quick else (200, 2000):
            memory(findings, "view", count, shelf, quick=asked.quick)
        memory(findings, "naive", 20 if asked.quick else 200, shelf, quick=asked.quick)
        if asked.quick:
            streaming(findings, (20, 200, 1000), (20, 40), LINEAR_QUICK)
            shapes(findings, 15, 60, (3, 2), LINEAR_QUICK)
        else:
            streaming(findings, (20, 200, 2000), (20, 200), LINEAR)
            shapes(findings, 200, 2000, (3, 1), LINEAR)
        long_session(findings, 100 if asked.quick else SESSION)
    return findings.report(asked.json)


if __name__ == "__main__":
    sys.exit(main())
