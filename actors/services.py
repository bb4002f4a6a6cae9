"""What sessions and runs use; made by the composition root."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

import attrs

from actors._clock import now_ms
from actors._tally import Tally
from actors.models import Models
from actors.store_ref import StoreRef
from actors.titles import Titles
from actors.toolset import Toolbox
from engine.limits import Limits
from engine.runs.budget import LogBudget
from engine.tools.permissions import Judge


@attrs.frozen(slots=True, kw_only=True)
class Services:
    """`judge` has the configuration's rules, `headless` decides what nobody is there to be asked."""

    store: StoreRef
    models: Models
    toolbox: Toolbox
    limits: Limits
    budget: LogBudget  # of all replay logs
    tally: Tally = attrs.field(factory=Tally)
    judge: Judge = attrs.field(factory=Judge)
    titles: Titles | None = None  # None: sessions keep the beginning of their first message as title
    headless: Literal["deny", "allow"] = "deny"
    now_ms: Callable[[], int] = now_ms
    random: Callable[[], float] = random.random
