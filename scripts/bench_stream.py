"""What streaming costs: the daemon against a model service, beside a bare pass-through on the same libraries.

    python scripts/bench_stream.py [--json] [--quick] [--only floor|daemon]

Model service (tests/model_server.py), server under test and clients are processes of their own; each stream has a
WebSocket of its own. Measured of each server:

- CPU µs a delta: the process's CPU time (all threads, from its CPU clock) over a scenario, by the deltas delivered;
  what connections, sessions and runs of one delta cost is a scenario of its own
- added ms: from the service's sending of a delta (its text is the monotonic time) to its arrival at the client
- 300 streams on one core: how long the slowest stream takes by its nominal time, when all are connected
- idle MB (resident and proportional) after the ready line, and the seconds from process start to that line
- where the daemon's CPU goes, by layer and function (scripts/_profile.py)

Medians of three rounds, one of fewer streams and deltas with --quick, which judges nothing. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trio
from _daemon import ROOT, Findings, model_server
from _streams import Floor, Server, Streams, measure_all, measure_one_core, measure_profiles

# Of scenarios: most CPU µs a delta, most ms added in 99 of 100.
AIMS: dict[str, tuple[float, float | None]] = {
    "1 stream, burst": (25, None),
    "50 × 20/s": (220, 15),
    "50 × 200/s": (80, 40),
}
# Of 300 streams on one core: the time of the slowest by its nominal one.
STRETCH_MOST = 1.1
# A process that needs more of its cores than this holds the others up.
FULL = 0.9


@contextlib.contextmanager
def under_test(name: str, base_url: str, samples: Path | None = None) -> Iterator[Server]:
    """The server as a process; of a daemon with `samples`, where its profile is written."""
    program = ["-m", "actors.cli"] if samples is None else [str(ROOT / "scripts" / "_profile.py"), str(samples)]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        server = Floor(base_url) if name == "floor" else Streams(base_url, Path(folder), program=program)
        try:
            yield server
        finally:
            server.stop()


def bench(name: str, quick: bool) -> dict[str, Any]:
    with model_server() as models, under_test(name, models.url) as server:
        streams = trio.run(measure_all, server, quick)
        result = {"ready_s": server.ready_seconds, "idle_mb": server.idle, "after_mb": server.memory()}
    result["streams"] = streams
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        with model_server() as models, under_test(name, models.url) as server:
            result["one_core"] = trio.run(measure_one_core, server, models.pid, cores, quick)
    return result


def profiles(quick: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        samples = Path(folder) / "samples"
        with model_server() as models, under_test("daemon", models.url, samples) as server:
            assert isinstance(server, Streams)
            return trio.run(measure_profiles, server, samples, quick)


# ------------------------------------------------------------ what is said of it
def table(results: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, result in results.items():
        idle, after = result["idle_mb"], result["after_mb"]
        lines.append(
            f"{name}: ready in {result['ready_s']} s, idle {idle['rss']} MB resident ({idle['pss']} MB proportional), "
            f"{after['rss']} MB after"
        )
    lines.append(f"{'':18}" + "".join(f"{name:>48}" for name in results))
    unit = f"{'CPU µs/delta':>14}{'p50 ms':>9}{'p99 ms':>9}{'deltas/frame':>14}"
    lines.append(f"{'':18}" + "".join(f"{unit:>48}" for _ in results))
    for scenario in next(iter(results.values()))["streams"]:
        line = f"{scenario:18}"
        for result in results.values():
            one = result["streams"][scenario]
            latency = "".join(f"{one[key]:>9.1f}" if key in one else f"{'–':>9}" for key in ("p50_ms", "p99_ms"))
            cell = f"{one['cpu_us']:>14.1f}{latency}{one['merged']:>14.1f}"
            line += f"{cell:>48}"
        lines.append(line)
    return "\n".join(lines)


def one_core(name: str, result: dict[str, Any]) -> str:
    full = [what for what in ("service", "clients") if result[f"{what}_busy"] > FULL]
    held = f"; held up by the {' and the '.join(full)}" if full else ""
    return (
        f"{name}, {result['streams']} on one core: the slowest stream took {result['stretch']} of its "
        f"nominal {result['nominal_s']} s (median {result['stretch_median']}), all with their begin and end "
        f"{result['all_s']} s; {result['cpu_us']} µs/delta, core {result['busy']:.0%} busy "
        f"(and {result['kept_waiting']:.0%} of the time others had it), "
        f"p99 {result['p99_ms']} ms, {result['merged']} deltas/frame; beside it the service "
        f"{result['service_busy']:.0%}, the clients {result['clients_busy']:.0%} of the other cores{held}"
    )


def where(name: str, profile: dict[str, Any], floor: float | None) -> str:
    total = profile["cpu_us"]
    beside = f", the floor needs {floor}" if floor is not None else ""
    lines = [f"where {total} µs/delta go at {name} (sampled{beside}):"]
    for kind in ("layers", "functions"):
        lines += [f"  {value:>7.1f} µs {value / total:>4.0%}  {key}" for key, value in profile[kind].items()]
        lines.append("")
    return "\n".join(lines)


def judge(findings: Findings, daemon: dict[str, Any]) -> None:
    for name, (most_us, most_ms) in AIMS.items():
        one = daemon["streams"][name]
        findings.aim(f"{name}: CPU", one["cpu_us"], most_us, "µs/delta", f"{name}: CPU a delta")
        if most_ms is not None:
            findings.aim(f"{name}: p99", one["p99_ms"], most_ms, "ms", f"{name}: added to 99 of 100 deltas")
    if "one_core" in daemon:
        what = f"{daemon['one_core']['streams']} on one core: the slowest stream by its nominal time"
        findings.aim("one core: stretch", daemon["one_core"]["stretch"], STRETCH_MOST, "", what)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="standard output has the JSON line alone")
    parser.add_argument("--quick", action="store_true", help="one short round of each scenario; told and not judged")
    parser.add_argument("--only", choices=["floor", "daemon"], help="measure one of the two")
    asked = parser.parse_args()
    findings = Findings("stream", asked.quick)
    names = [asked.only] if asked.only else ["floor", "daemon"]
    results = {name: bench(name, asked.quick) for name in names}
    text = [
        table(results),
        *(one_core(name, one["one_core"]) for name, one in results.items() if "one_core" in one),
        "",
    ]
    findings.figures.update(results)
    if "daemon" in names:
        findings.figures["profile"] = profiles(asked.quick)
        for name, one in findings.figures["profile"].items():
            floor = results["floor"]["streams"][name]["cpu_us"] if "floor" in results else None
            text.append(where(name, one, floor))
        judge(findings, results["daemon"])
    if not asked.json:
        print("\n".join(text))
    return findings.report(asked.json)


if __name__ == "__main__":
    sys.exit(main())
