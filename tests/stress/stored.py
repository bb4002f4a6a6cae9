"""What the store's own check says of a data directory behind a test."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from engine.storage import checking, database


def stored_problems(folder: Path) -> list[checking.Finding]:
    """What is wrong in the data directory, which no daemon has; what the next start removes is not."""
    with closing(database.open_beside(folder / database.FILE_NAME)) as connection:
        found = checking.check(connection, folder, live=False, progress=lambda *_: None)
        return [finding for finding in found if finding.kind == "problem"]
