"""One view of `greenroom top` as lines: a pure function of what was seen. Lines are engine.rendering's, and the text in
them is clean: names of models, tools and errors come from elsewhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import attrs

from actors.cli.output import size
from engine.rendering.cells import clean, width
from engine.rendering.styles import ASCII, TEXT, Attr, Role, Run, Theme, encode, style

# Looks that a line over time shows, at most as many as fit.
TRAIL: Final = 120
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_SPARKS_ASCII: Final = "_.-:=+*#"
_BARS: Final = " ▏▎▍▌▋▊▉█"
_BAR: Final = 16  # cells of the bar of the largest owner
_OWNER: Final = 13
_SIZE: Final = 11
_ROWS_MIN: Final = 3  # of each list, if it has as many
# The least that is drawn to; a smaller terminal cuts it.
WIDTH_MIN, HEIGHT_MIN = 40, 10

_HEADING: Final = style(Role.HEADING, Attr.BOLD)
_QUIET: Final = style(Role.MARKER)
_GOOD: Final = style(Role.STRING)
_ODD: Final = style(Role.NUMBER)
_BAD: Final = style(Role.REMOVED, Attr.BOLD)
_STATES: Final = {
    "normal": _GOOD, "soft": _ODD, "hard": _BAD,
    "ready": _GOOD, "stopped": _QUIET, "starting": _ODD, "stopping": _ODD, "restarting": _ODD, "degraded": _ODD,
    "failed": _BAD, "running": _GOOD, "queued": _QUIET,
}  # fmt: skip

Sort = Literal["size", "name"]


@attrs.frozen(slots=True, kw_only=True)
class Sample:
    """One look at a daemon: `daemon.stats`, active runs (the first of them), toolsets."""

    stats: dict[str, Any]
    runs: list[dict[str, Any]]
    toolsets: list[dict[str, Any]]


@attrs.define(slots=True, kw_only=True)
class View:
    """What is shown. `link` is how the connection is, empty when all is well; `age` seconds since the last sample."""

    title: str = ""
    sample: Sample | None = None
    trails: dict[str, deque[float]] = attrs.field(factory=dict)
    link: str = ""
    age: float = 0.0
    paused: bool = False
    sort: Sort = "size"
    now: int = 0  # ms, UTC

    def take(self, sample: Sample) -> None:
        """Show this from now on, and let it go on in the trails. Owners that are not told any more are forgotten."""
        self.sample, self.age = sample, 0.0
        values = {f"owner {name}": float(held) for name, held in sample.stats["memory"]["owned"].items()}
        values |= {
            "resident": float(sample.stats["memory"]["resident"]),
            "lag": float(sample.stats["loop"]["lag_p99_ms"]),
            "runs": float(sample.stats["counts"]["active_runs"]),
        }
        self.trails = {name: self.trails.get(name, deque(maxlen=TRAIL)) for name in values}
        for name, value in values.items():
            self.trails[name].append(value)


def frame(view: View, columns: int, rows: int | None, theme: Theme) -> list[str]:
    """The lines, each of at most `columns` cells, and exactly `rows` of them; without a bound on rows all there is."""
    columns = max(columns, WIDTH_MIN)
    head = [_title(view, columns)]
    if view.sample is None:
        body: list[list[Run]] = [[], [("waiting for the daemon", _QUIET)]]
    else:
        above, lists = _figures(view, columns, theme), _lists(view, view.sample, columns, theme)
        room = None if rows is None else max(rows, HEIGHT_MIN) - len(head) - len(above) - 1
        body = [*above, *_share(lists, room)]
    lines = [encode(_cut(line, columns)) for line in head + body]
    if rows is None:
        return lines
    lines = lines[: max(rows - 1, 0)]
    lines += [""] * (rows - 1 - len(lines))
    return [*lines, encode(_cut(_keys(view), columns))][:rows]


def _title(view: View, columns: int) -> list[Run]:
    state = view.link or ("paused" if view.paused else "")
    if not state and view.age >= 3:
        state = f"no answer for {view.age:.0f} s"
    up = ""
    if view.sample is not None:
        up = f"  up {_age(view.sample.stats['uptime_s'])}"
    # The path comes last: it may be longer than the line.
    line: list[Run] = [("greenroom", _HEADING), (f"{up}  {clean(view.title)}", _QUIET)]
    if state:
        line = _cut(line, columns - width(state) - 2)
        line.append((" " * (columns - sum(width(text) for text, _ in line) - width(state)), TEXT))
        line.append((state, _ODD if state == "paused" else _BAD))
    return line


def _keys(view: View) -> list[Run]:
    named = (("q", "quit"), ("s", f"sort by {'name' if view.sort == 'size' else 'size'}"))
    keys = (*named, ("p", "go on" if view.paused else "pause"))
    return [run for key, what in keys for run in ((key, _HEADING), (f" {what}   ", _QUIET))]


# ------------------------------------------------------------------ figures
def _figures(view: View, columns: int, theme: Theme) -> list[list[Run]]:
    assert view.sample is not None
    stats = view.sample.stats
    memory, counts, processes = stats["memory"], stats["counts"], stats["processes"]
    explained = sum(memory["owned"].values()) / memory["resident"] if memory["resident"] else 0.0
    state = clean(str(memory["state"]))
    trail = max(columns - 60, 8)
    lines: list[list[Run]] = [
        [
            (f"{'memory':{_OWNER}} {size(memory['resident']):>{_SIZE}}  ", TEXT),
            (f"{state:8}", _STATES.get(state, TEXT)),
            (f" {explained:4.0%} explained  ", _QUIET),
            (_spark(view.trails.get("resident", ()), trail, theme), _GOOD),
        ],
        [
            (f"{'loop lag':{_OWNER}} {stats['loop']['lag_p99_ms']:>8.1f} ms  ", TEXT),
            ("p99".ljust(24), _QUIET),
            (_spark(view.trails.get("lag", ()), trail, theme), _GOOD),
        ],
        [
            (f"{'runs':{_OWNER}} {counts['active_runs']:>{_SIZE}}  ", TEXT),
            (f"{counts['retained_runs']} ended in memory".ljust(24), _QUIET),
            (_spark(view.trails.get("runs", ()), trail, theme), _GOOD),
        ],
        [
            (
                f"sessions {counts['sessions']}  connections {counts['connections']}  "
                f"actors {_actors(stats['actors'])}  programs {processes['programs']} "
                f"(processes {processes['all']}, {size(processes['resident'])})",
                _QUIET,
            )
        ],
        [],
    ]
    return lines


def _actors(tree: dict[str, Any]) -> int:
    """How many there are. The tree is deep as the daemon's supervisors are, and wide as it has sessions."""
    waiting, count = list(tree.values()), 0
    while waiting:
        count += 1
        waiting += waiting.pop().get("children", {}).values()
    return count


def _spark(values: Iterable[float], cells: int, theme: Theme) -> str:
    """The newest values, between the least and the most of them."""
    shown = list(values)[-cells:]
    if len(shown) < 2:
        return ""  # a single look is no line
    levels = _SPARKS_ASCII if theme.name == ASCII.name else _SPARKS
    low, high = min(shown), max(shown)
    if high <= 0:
        return levels[0] * len(shown)
    # What changes by little is not to look like much.
    low = min(low, high * 0.75)
    steps = len(levels) - 1
    return "".join(levels[round((value - low) / (high - low) * steps)] for value in shown)


def _bar(part: float, cells: int, theme: Theme) -> str:
    if theme.name == ASCII.name:
        return ("#" * round(part * cells)).ljust(cells)
    eighths = round(part * cells * 8)
    whole, rest = divmod(eighths, 8)
    return (_BARS[8] * whole + (_BARS[rest] if rest else "")).ljust(cells)


# ------------------------------------------------------------------ lists
@attrs.frozen(slots=True)
class _List:
    head: list[Run]
    rows: list[list[Run]]
    unlisted: int = 0  # that the daemon has beside them


def _lists(view: View, sample: Sample, columns: int, theme: Theme) -> list[_List]:
    return [_owners(view, sample, columns, theme), _runs(view, sample), _toolsets(view, sample)]


def _owners(view: View, sample: Sample, columns: int, theme: Theme) -> _List:
    owned = {name: held for name, held in sample.stats["memory"]["owned"].items() if held}
    order = sorted(owned.items(), key=lambda entry: (-entry[1], entry[0]) if view.sort == "size" else (0, entry[0]))
    most = max(owned.values(), default=1)
    cells = max(columns - _OWNER - _SIZE - _BAR - 6, 8)
    rows: list[list[Run]] = []
    for name, held in order:
        rows.append(
            [
                (f"{clean(name)[:_OWNER]:{_OWNER}} {size(held):>{_SIZE}}  ", TEXT),
                (_bar(held / most, _BAR, theme), _GOOD),
                ("  ", TEXT),
                (_spark(view.trails.get(f"owner {name}", ()), cells, theme), _QUIET),
            ]
        )
    return _List([("memory by owner", _HEADING)], rows)


def _runs(view: View, sample: Sample) -> _List:
    active = sample.stats["counts"]["active_runs"]
    rows: list[list[Run]] = []
    for run in sorted(sample.runs, key=lambda run: run["created_at"]):
        status = clean(str(run["status"]))
        since = max(view.now - (run.get("started_at") or run["created_at"]), 0) / 1000
        rows.append(
            [
                (f"{_age(since):>9}  ", TEXT),
                (f"{status:18}", _STATES.get(status, TEXT)),
                (f" {clean(str(run['model']))[:20]:20} ", TEXT),
                (f"{clean(str(run['id']))} {clean(str(run['session_id']))}", _QUIET),
            ]
        )
    head = [("active runs", _HEADING)] if rows else [("no active runs", _QUIET)]
    return _List(head, rows, max(active - len(rows), 0))


def _toolsets(view: View, sample: Sample) -> _List:
    rows: list[list[Run]] = []
    for one in sample.toolsets:
        state = clean(str(one["state"]))
        error = clean(" ".join(str(one.get("error", {}).get("message", "")).split()))
        rows.append(
            [
                (f"{clean(str(one['name']))[:20]:20} ", TEXT),
                (f"{state:11}", _STATES.get(state, TEXT)),
                (f"{len(one['tools']):>4} tools {one['leases']:>4} calls {one['restarts']:>4} restarts", _QUIET),
                (f"  {error[:200]}" if error else "", _BAD),
            ]
        )
    return _List([("toolsets", _HEADING)], rows)


def _share(lists: Sequence[_List], room: int | None) -> list[list[Run]]:
    """The lists below each other with an empty line between, cut to as many rows as there is room for: each gets its
    least, then the first what is left over, and so on."""
    if room is None:
        counts = [len(one.rows) for one in lists]
    else:
        counts = [min(len(one.rows), _ROWS_MIN) for one in lists]
        left = room - sum(counts) - 2 * len(lists) + 1
        for number, one in enumerate(lists):
            more = max(min(len(one.rows) - counts[number], left), 0)
            counts[number] += more
            left -= more
    lines: list[list[Run]] = []
    for count, one in zip(counts, lists, strict=True):
        hidden = len(one.rows) - count + one.unlisted
        head = [*one.head, *([(f"  {hidden} more", _QUIET)] if hidden else [])]
        lines += [*([[]] if lines else []), head, *one.rows[:count]]
    return lines


# ------------------------------------------------------------------ text
def _age(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02}:{minutes:02}" if days else f"{hours}:{minutes:02}:{rest:02}"


def _cut(line: list[Run], cells: int) -> list[Run]:
    """At most so many cells of it."""
    kept: list[Run] = []
    for text, value in line:
        if width(text) > cells:
            while text and width(text) > cells:
                text = text[:-1] if len(text) <= 2 * cells else text[: 2 * cells]
            kept.append((text, value))
            return kept
        kept.append((text, value))
        cells -= width(text)
    return kept
