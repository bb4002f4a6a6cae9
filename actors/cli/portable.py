"""`greenroom sessions export` and `import`: a session as a file, without a daemon or (export) beside one."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from actors.cli.arguments import Arguments
from actors.cli.exits import FAILED, USAGE, Exit
from actors.cli.output import note, say, say_json
from actors.cli.settings import read_config
from actors.cli.steps import Steps
from actors.places import data_dir, make_private
from engine.storage import blobs, database, lock
from engine.storage.exporting import Export
from engine.storage.importing import BadLine, Import
from engine.storage.wal import Wal

_BUFFER: Final = 256 * 1024


def export(arguments: Arguments) -> None:
    folder = data_dir(arguments.data)
    path = folder / database.FILE_NAME
    if not path.exists():
        raise Exit(USAGE, f"no store is in {folder}")
    steps = Steps()
    with database.translated(path), contextlib.closing(database.open_beside(path)) as connection:
        made = Export(connection, arguments.id, blobs.Blobs(folder / blobs.FOLDER_NAME))
        with _output(arguments.output) as file:
            for line in made.lines():
                file.write(line)
                steps("messages", made.counts.messages, made.total)
    steps.clear()
    left = made.total - made.counts.messages
    if left > 0:
        note(f"{left} messages are not in it: an answer that is being written, and what is behind it")


def take_in(arguments: Arguments) -> None:
    config = read_config(arguments.config)
    folder = data_dir(arguments.data)
    path = folder / database.FILE_NAME
    steps = Steps()
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_input(arguments.file))
        make_private(folder)
        stack.enter_context(lock.hold(folder))
        stack.enter_context(database.translated(path))
        connection = database.open_writer(path, config.durability)
        stack.callback(database.close_writer, connection)
        store = blobs.Blobs(folder / blobs.FOLDER_NAME)
        try:
            session = Import(connection, store, Wal(path, config.limits), config.limits).run(
                file, time.time_ns() // 1_000_000, steps
            )
        except BadLine as exc:
            raise Exit(FAILED, f"{arguments.file}: {exc}", "nothing was imported") from None
        finally:
            steps.clear()
    if arguments.json:
        say_json({"session_id": session.id, "title": session.title, "messages": session.message_count})
    else:
        say(session.id)


@contextlib.contextmanager
def _output(name: str | None) -> Iterator[BinaryIO]:
    """Standard output, or a new file that appears when all of it is written."""
    if name is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name).expanduser().absolute()
    if os.path.lexists(path):
        raise Exit(USAGE, f"{path} is there already")
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # 0600
        try:
            with open(descriptor, "wb", buffering=_BUFFER) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as exc:
        raise Exit(FAILED, f"{path} cannot be written: {exc.strerror or exc}") from None


@contextlib.contextmanager
def _input(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    path = Path(name).expanduser()
    try:
        file = open(path, "rb", buffering=_BUFFER)  # noqa: SIM115 - closed below; only this may fail here
    except OSError as exc:
        raise Exit(USAGE, f"{path}: {exc.strerror or exc}") from None
    with file:
        yield file
