"""When memory is shed, when it is given back to the system, and when new runs are refused: decided per sample.

Levels: above the soft bound what can be had again is shed (replay logs of ended runs, caches), above the hard bound
new runs are refused as well. A level is left at LEAVE of its bound only, so that a value that hovers does not flap.

Freed memory stays with the process until it is given back, which takes milliseconds. That is done

- when a level begins, and as long as it lasts every RELEASE_PAUSE
- whenever work is over: at most half of what was held since the last time is held now, and either memory has grown by
  GROWTH since then, or MANY things have ended, which left it in pieces
- when all runs have ended and none has begun for QUIET_PAUSE, on the same conditions: clients may stay connected, and
  what is held does not halve then

Active work is never touched.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import attrs

from engine.limits import MIB

Level = Literal["normal", "soft", "hard"]
LEVELS: Final[tuple[Level, ...]] = ("normal", "soft", "hard")

# Of a bound, where its level ends.
LEAVE: Final = 0.9
# Growth that is worth giving back, of an idle daemon of some 40 MiB.
GROWTH: Final = 2 * MIB
# Things that have ended: of 60 KiB an active run they are worth it as well.
MANY: Final = 16
# Seconds between two times of giving back while a level lasts: what little was freed meanwhile can wait.
RELEASE_PAUSE: Final = 30.0
# The same after work has ended: an end in portions is not followed one by one.
QUIET_PAUSE: Final = 2.0
# When what was still at work at the last of them has ended too, that was a burst: its rest goes after so long.
ONCE_MORE: Final = 10.0


@attrs.frozen(slots=True)
class Sample:
    """`resident` bytes of the process; `held` counts what it works with: runs and connections; `kept` what it keeps
    for a while behind that: ended runs, idle sessions; `runs` are those of the held that are runs at work."""

    resident: int
    held: int
    kept: int = 0
    runs: int = 0


@attrs.frozen(slots=True)
class State:
    """What is known of the samples before: since memory was last given back `floor` is the least that was resident
    (None: no sample yet), `peak` the most that was held, and `kept` and `runs` likewise; `tail` if work went on then.
    No run is at work since `resting`."""

    level: Level = "normal"
    floor: int | None = None
    peak: int = 0
    kept: int = 0
    tail: bool = False
    released_at: float = -math.inf
    runs: int = 0
    resting: float = math.inf


@attrs.frozen(slots=True)
class Decision:
    """`shed`: drop what can be had again. `release`: return free pages to the system, caches first if it sheds."""

    state: State
    shed: bool = False
    release: bool = False


def decide(state: State, sample: Sample, now: float, *, soft: int, hard: int) -> Decision:
    """What a sample taken at `now` (seconds of any monotonic clock) asks for. `soft` ≤ `hard`."""
    level = _level(state.level, sample.resident, soft=soft, hard=hard)
    floor = sample.resident if state.floor is None else min(state.floor, sample.resident)
    peak = max(state.peak, sample.held)
    since = now - state.released_at
    kept = max(state.kept, sample.kept)
    grown = sample.resident - floor >= GROWTH
    over = 2 * sample.held <= peak and (grown or peak - sample.held >= MANY)
    over = over or (2 * sample.kept <= kept and kept - sample.kept >= MANY)
    runs = max(state.runs, sample.runs)
    resting = math.inf if sample.runs else min(state.resting, now)
    over = over or (now - resting >= QUIET_PAUSE and runs > 0 and (grown or runs >= MANY))
    rest = state.tail and 2 * sample.held <= peak and since >= ONCE_MORE
    release = rest or (over and since >= QUIET_PAUSE)
    if level != "normal":
        release = release or since >= RELEASE_PAUSE or LEVELS.index(level) > LEVELS.index(state.level)
    if release:
        state = State(level, None, sample.held, sample.kept, sample.held > 0, now, sample.runs, resting)
    else:
        state = State(level, floor, peak, kept, state.tail, state.released_at, runs, resting)
    return Decision(state, shed=level != "normal", release=release)


def _level(before: Level, resident: int, *, soft: int, hard: int) -> Level:
    if resident > (hard * LEAVE if before == "hard" else hard):
        return "hard"
    if resident > (soft if before == "normal" else soft * LEAVE):
        return "soft"
    return "normal"
