"""Stops at every await (class E): a turn with three parallel calls, its run stopped at each of its steps, many times.

    python scripts/stress_cancel.py [--rounds N] [--json] [--quick]

A round stops a run at each step from the first to behind the last (tests/stress/cancel_matrix.py): a shell command that
a person allows, a search of files and a tool of a server over pipes work at the same time, with the real disk, threads
and processes. So each round meets the same steps in another order of the others. After each stop the transcript and the
run's events are judged, the next prompt has to work, and no task, process, model's call or descriptor may be left; at
the end no descriptor and no child of the whole engine. Fewer than 100 steps mean that it looks away. Exit code 1 if a
condition does not hold. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import trio
from _daemon import Findings, say

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.actors.processes import children, descriptors  # noqa: E402 - found by the line above
from tests.stress.cancel_matrix import Outcome, open_matrix  # noqa: E402

ROUNDS = 20
ROUNDS_QUICK = 1
PLACES = 100
SHOWN = 10  # of what is wrong
# Of one round in seconds, for what hangs; a stop takes milliseconds.
LIMIT = 300.0


async def rounds(count: int, outcomes: list[Outcome], places: list[int]) -> None:
    with tempfile.TemporaryDirectory(prefix="greenroom-cancel-") as folder:
        async with open_matrix(Path(folder)) as matrix:
            for number in range(1, count + 1):
                with trio.fail_after(LIMIT):
                    found = await matrix.all_cases()
                outcomes += found
                places.append(sum(outcome.fired for outcome in found))
                say(f"round {number} of {count}: {places[-1]} places")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help=f"how often all places ({ROUNDS})")
    parser.add_argument("--json", action="store_true", help="only the JSON")
    parser.add_argument("--quick", action="store_true", help=f"{ROUNDS_QUICK} round")
    arguments = parser.parse_args()
    count = arguments.rounds or (ROUNDS_QUICK if arguments.quick else ROUNDS)
    findings = Findings("cancel", arguments.quick)
    outcomes: list[Outcome] = []
    places: list[int] = []
    began = time.monotonic()
    before = descriptors()
    with findings.told():
        trio.run(rounds, count, outcomes, places)
        findings.hold("places", min(places), min(places) >= PLACES, "", f"places of a turn, at least {PLACES}")
    findings.note("stops", sum(places), "", "runs stopped")
    states = Counter(outcome.call_states for outcome in outcomes)
    findings.note("call_states", len(states), "", "different ends of the three calls together")
    findings.note("cases_s", round((time.monotonic() - began) / max(1, len(outcomes)), 4), "s", "one case")
    wrong = [outcome for outcome in outcomes if outcome.problems]
    for outcome in wrong[:SHOWN]:
        say(str(outcome))
    findings.hold("wrong", len(wrong), not wrong, "", "stops that left something, or a transcript that is not one")
    left = descriptors() - before, children(os.getpid())
    findings.hold("left", len(left[0]) + len(left[1]), not any(left), "", "descriptors and children at the end")
    return findings.report(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
