"""How a run's work ended, before that is stored and shown."""

from __future__ import annotations

import attrs

from actors._ask import ActorDied
from engine.errors import EngineError
from engine.runs.lifecycle import Status
from engine.transcript.records import Failure, Finish


@attrs.frozen(slots=True)
class End:
    """How the work ended: the run's status and the open turn's finish."""

    status: Status
    finish: Finish
    reason: str | None = None
    error: Failure | None = None

    @property
    def why(self) -> str:
        """What a call's result says of a call that did not finish."""
        if self.error is not None:
            return self.error.message
        if self.finish == "length":
            return "the answer reached its bound"
        return f"the run was {self.status}" + (f" ({self.reason})" if self.reason else "")


def lost_end(exc: BaseException) -> End:
    """The end of a run whose store does not answer: what the next start of the daemon makes of it too."""
    if isinstance(exc, EngineError):
        error = Failure(code=exc.code, message=exc.message)
    elif isinstance(exc, ActorDied):
        error = Failure(code="internal", message="a part of the daemon that the run needs has ended")
    else:
        error = Failure(code="disk_full", message="the disk did not take the run's end in time")
    return End("interrupted", "interrupted", "the store did not take the run's end", error)
