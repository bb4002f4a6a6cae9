"""When a model call that failed is made again, and after which wait: the one layer that repeats such calls.

- It is repeated if the service failed in a way that may pass (`PeerError.retry`; a disk that is full is not the
  service's): there are `limits.model_attempts` attempts in all.
- The wait is drawn between `retry_delay_first` and twice of it, between the double of both the next time and so on,
  up to `retry_delay_max`: a crowd that was refused together does not come back together.
- A service that asks for a longer pause (Retry-After, in seconds in `error.data["retry_after"]`) gets it, up to
  `retry_after_max`. For one that asks for more, a week even, it is called again after that bound: such services are
  often back sooner, the attempts are few, and the error in the end names what was asked for.
- All attempts of a call and the waits between them take `limits.call_timeout` together. A wait that does not end
  before is not begun.

Time and randomness are given by the caller.
"""

from __future__ import annotations

from typing import Final

import attrs

from engine.errors import PeerError
from engine.limits import Limits
from engine.restart import Backoff
from engine.runs.events import RetryScheduled

_OF_SERVICES: Final = frozenset({"provider_error", "provider_timeout"})
_UNITS: Final = (("days", 86_400), ("hours", 3600), ("minutes", 60))


@attrs.frozen(slots=True, kw_only=True)
class Retry:
    """The next attempt of a call."""

    attempt: int  # its number; the first that is a repetition is 2
    max_attempts: int
    delay: float  # seconds to wait before it
    reason: str  # what the attempt before it failed with

    @property
    def delay_ms(self) -> int:
        return round(self.delay * 1000)


def scheduled(retry: Retry) -> RetryScheduled:
    """The event that tells of it."""
    return RetryScheduled(
        attempt=retry.attempt, max_attempts=retry.max_attempts, delay_ms=retry.delay_ms, reason=retry.reason
    )


def after(error: PeerError, attempt: int, *, left: float, random: float, limits: Limits) -> Retry | None:
    """What follows the failure of attempt number `attempt` (from 1), `left` seconds before the call's end; `random`
    is in [0, 1). None if the call is given up: see `given_up`."""
    if not _may_pass(error) or attempt >= limits.model_attempts:
        return None
    delay = Backoff(2 * limits.retry_delay_first, limits.retry_delay_max).delay(attempt, random)
    delay = max(delay, min(_asked(error), limits.retry_after_max))
    if delay >= left:
        return None
    reason = error.message + _told(error, limits)
    return Retry(attempt=attempt + 1, max_attempts=limits.model_attempts, delay=delay, reason=reason)


def given_up(error: PeerError, attempts: int, limits: Limits) -> PeerError:
    """The error of a call that ends with `error` after so many attempts."""
    if not _may_pass(error):
        return error
    tried = f" (given up after {attempts} attempts)" if attempts > 1 else ""
    return PeerError(error.code, f"{error.message}{_told(error, limits)}{tried}", retry=False, **error.data)


def out_of_time(attempts: int, limits: Limits) -> PeerError:
    """The error of a call that was not over after `limits.call_timeout`."""
    tried = f" and {attempts} attempts" if attempts > 1 else ""
    return PeerError(
        "provider_timeout", f"the model's service did not end its answer in {limits.call_timeout:g} s{tried}"
    )


def _may_pass(error: PeerError) -> bool:
    return error.retry and error.code in _OF_SERVICES


def _asked(error: PeerError) -> float:
    asked = error.data.get("retry_after")
    return asked if isinstance(asked, float) else 0.0


def _told(error: PeerError, limits: Limits) -> str:
    """What is said of a pause that is too long to be waited for."""
    asked = _asked(error)
    if asked <= limits.retry_after_max:
        return ""
    name, size = next((unit for unit in _UNITS if asked >= 2 * unit[1]), ("seconds", 1))
    return f"; it asked for a pause of {asked / size:,.0f} {name}, longer than the {limits.retry_after_max:g} s waited"
