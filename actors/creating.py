"""What a new session is, from what was asked and what the daemon has as defaults."""

from __future__ import annotations

import attrs

from actors.services import Services
from engine import ids
from engine.commands import NewSession
from engine.errors import CallerError
from engine.tools import paths
from engine.transcript.session import Session


@attrs.frozen(slots=True)
class Defaults:
    """What a new session gets where the request is silent."""

    model: str
    toolsets: tuple[str, ...]
    cwd: str


async def new_session(new: NewSession, defaults: Defaults, services: Services) -> Session:
    """The record, not stored yet. Raises CallerError unknown_model, unknown_toolset, invalid_path."""
    model = new.model or defaults.model
    if not services.models.has(model):
        raise CallerError("unknown_model", f"no model is named {model!r}")
    toolsets = defaults.toolsets if new.toolsets is None else new.toolsets
    services.toolbox.check(toolsets)
    if new.cwd is not None:
        await services.toolbox.in_thread(paths.check_folder, new.cwd)
    now = services.now_ms()
    return Session(
        id=ids.session_id(),
        title=new.title or "",
        model=model,
        instructions=new.instructions,
        cwd=new.cwd or defaults.cwd,
        toolsets=toolsets,
        metadata=new.metadata or b"{}",
        created_at=now,
        updated_at=now,
    )
