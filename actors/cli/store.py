"""`greenroom store`: backup, check, vacuum. Works on the files, with or without a daemon."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from actors.cli.arguments import Arguments
from actors.cli.exits import FAILED, GOOD, USAGE, Exit
from actors.cli.output import say, say_json, size
from actors.cli.processes import holder
from actors.cli.steps import Steps
from actors.places import data_dir
from engine.storage import backup, checking, database, lock
from engine.storage.vacuum import vacuum

# Of a store that is wrong everywhere: more is not read by anybody. All are counted.
_LISTED: Final = 1000


def main(arguments: Arguments) -> int:
    folder = data_dir(arguments.data)
    if not (folder / database.FILE_NAME).exists():
        raise Exit(USAGE, f"no store is in {folder}")
    return {"backup": _backup, "check": _check, "vacuum": _vacuum}[arguments.action](arguments, folder)


def _backup(arguments: Arguments, folder: Path) -> int:
    target = Path(arguments.target).expanduser().absolute()
    steps = Steps()
    try:
        made = backup.make(folder, target, steps)
    except backup.TargetTaken as exc:
        raise Exit(USAGE, f"{exc}: a backup is a new folder") from None
    finally:
        steps.clear()
    if arguments.json:
        say_json(
            {
                "target": str(target),
                "database_bytes": made.database_bytes,
                "blobs": made.blobs,
                "blob_bytes": made.blob_bytes,
            }
        )
    else:
        say(f"{target}: database {size(made.database_bytes)}, {made.blobs} blobs {size(made.blob_bytes)}")
    return GOOD


def _check(arguments: Arguments, folder: Path) -> int:
    found: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    path = folder / database.FILE_NAME
    steps = Steps()
    with database.translated(path), closing(database.open_beside(path)) as connection:
        for finding in checking.check(connection, folder, live=holder(folder) is not None, progress=steps):
            counts[finding.kind] += 1
            if counts.total() > _LISTED:
                continue
            if arguments.json:
                found.append({"kind": finding.kind, "place": finding.place, "text": finding.text})
            else:
                steps.clear()
                say(f"{'' if finding.kind == 'problem' else '(note) '}{finding.place}: {finding.text}")
    steps.clear()
    good = not counts["problem"]
    if arguments.json:
        say_json({"good": good, "problems": counts["problem"], "notes": counts["note"], "findings": found})
    else:
        if counts.total() > _LISTED:
            say(f"… and {counts.total() - _LISTED} more")
        say("good" if good else f"{counts['problem']} problems")
    return GOOD if good else FAILED


def _vacuum(arguments: Arguments, folder: Path) -> int:
    with lock.hold(folder):
        before, after = vacuum(folder)
    if arguments.json:
        say_json({"bytes_before": before, "bytes_after": after})
    else:
        say(f"{size(before)} before, {size(after)} after")
    return GOOD
