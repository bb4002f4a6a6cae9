"""Opening the database, and what its errors mean.

One connection writes and one reads, each in a thread of its own (actors/_disk.py). Transactions are begun and
ended by the caller, never by the driver. Every PRAGMA here has its reason beside it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from engine import codec
from engine.errors import OwnError, PeerError
from engine.limits import KIB, MIB
from engine.storage import tables
from engine.storage.faults import UnusableStore

Durability = Literal["full", "normal"]

FILE_NAME: Final = "greenroom.db"

# Another process (a backup, an operator's shell) may hold a lock for a moment; our own two connections never wait
# for each other in WAL mode.
_BUSY_MS: Final = 5000
# The log is folded into the database at this many pages of 4 KiB: 4 MiB, beyond which reads get slower.
_CHECKPOINT_PAGES: Final = 1000
# A single large transaction may grow the log beyond that; afterwards its file is cut back to this size.
_LOG_BYTES: Final = 8 * MIB
# Page cache of a connection, full after a few hundred runs. The system's own cache is behind it, and what is written is
# at the ends of the tables: of a million pages that 5,000 sessions asked for while they were written, 99.3 % are in it,
# and in one of 2 MiB, which took thousands of sessions to fill, hardly more.
_CACHE_BYTES: Final = 512 * KIB
# What one transaction changes stays in memory up to here, and goes to the log with its commit. A page that has to go
# before it may be changed once more, and is written twice then.
_UNWRITTEN_BYTES: Final = 2 * MIB

# SQLite's instructions between two looks for signals: well below a millisecond.
_STEPS: Final = 20_000

# What a directory that is full, read-only or broken makes SQLite say. Primary result codes.
_DISK_CODES: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
    }
)
_DAMAGE_CODES: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def open_writer(path: Path, durability: Durability = "full") -> sqlite3.Connection:
    """The connection that writes, the schema brought up to date. The file is made (0600) if it does not exist.

    Raises PeerError disk_full, or UnusableStore if the file is damaged, foreign or of a newer program.
    """
    with translated(path), _opening(path) as connection:
        tables.check(connection)  # first: a database that is refused stays as it is
        # Before the first table and before WAL, or it needs a full VACUUM: deleted sessions give space back.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        # What is deleted is overwritten where that costs no further write. ON, which some builds of SQLite have by
        # default, would write every page of a session once more when it is deleted. Free pages are given back soon.
        connection.execute("PRAGMA secure_delete = FAST").fetchall()
        # Readers and the writer do not block each other, and a commit is one sequential write.
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL syncs the log at each commit: what was acknowledged survives a power cut. NORMAL syncs at
        # checkpoints only: it survives a crash of the process, and a power cut without damage but with loss.
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        # In KiB: of a number of pages SQLite takes the lowest byte for a yes or no, and 512 pages are a no.
        connection.execute(f"PRAGMA cache_spill = -{_UNWRITTEN_BYTES // KIB}")
        tables.migrate(connection)
        return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that can only read. The database exists: the writer has been opened."""
    with translated(path), _opening(path) as connection:
        connection.execute("PRAGMA query_only = ON")  # a read that writes is a defect and fails
        # SQLite folds the case of ASCII only; titles are in any language.
        connection.create_function("casefold", 1, str.casefold, deterministic=True)
        return connection


def open_beside(path: Path, *, current: bool = True) -> sqlite3.Connection:
    """A connection that can only read, of a program that is not the daemon; a daemon may be at work on the file. It
    has the newest schema, unless not `current`.

    Raises UnusableStore if there is no such file or its schema is another one, and as open_writer.
    """
    if not path.exists():
        raise UnusableStore(f"no store is in {path.parent}")
    connection = open_reader(path)
    try:
        with translated(path):
            version = tables.check(connection)
        if current and version != len(tables.MIGRATIONS):
            raise UnusableStore(
                f"the database is of an older greenroom (schema {version}, this one has {len(tables.MIGRATIONS)}): "
                "`greenroom serve` brings it up to date"
            )
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _opening(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection with what both kinds need; closed again if anything raises."""
    try:
        # Its -wal and -shm get the same mode. A file that is there is not opened here: closing any descriptor of it
        # would release the locks (fcntl) that another connection of this process has on it, and a program that reads
        # beside us would believe to be the last one, and remove the log.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except OSError as exc:
        message = f"the data directory {path.parent} cannot be used: {exc.strerror or exc}"
        raise PeerError("disk_full", message) from exc
    # Opened in the thread that uses it, closed there too; `check_same_thread` would only hinder tests.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000)
    try:
        connection.execute("PRAGMA foreign_keys = ON")  # off by default; deleting a session cascades
        connection.execute(f"PRAGMA cache_size = -{_CACHE_BYTES // KIB}")
        connection.execute("PRAGMA trusted_schema = OFF")  # a file that was tampered with runs no functions
        yield connection
    except BaseException:
        connection.close()
        raise


@contextlib.contextmanager
def interruptible(connection: sqlite3.Connection) -> Iterator[None]:
    """A signal can end what SQLite does in the block, however long it takes, by what its handler raises: for programs
    whose main thread this is."""
    raised: list[BaseException] = []

    def look() -> int:
        try:
            _let_signals_in()
        except BaseException as exc:  # noqa: BLE001 - the driver would drop it
            raised.append(exc)
        return len(raised)

    connection.set_progress_handler(look, _STEPS)
    try:
        yield
    except sqlite3.OperationalError:
        if raised:
            raise raised[0] from None
        raise
    finally:
        connection.set_progress_handler(None, 0)


def _let_signals_in() -> None:
    """Handlers run between two instructions of Python."""


def shrink(connection: sqlite3.Connection) -> None:
    """Free what the connection holds and can read again: its page cache."""
    connection.execute("PRAGMA shrink_memory")


def close_writer(connection: sqlite3.Connection) -> None:
    """Fold the log into the database and close: the directory is left with one file."""
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.close()


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Errors of SQLite as errors of ours: PeerError disk_full naming the directory, UnusableStore for damage,
    OwnError for a defect; text that is not Unicode raises DecodeError."""
    try:
        yield
    except sqlite3.Error as exc:
        # The extended code has the primary one in its low byte. Errors of the driver itself have none.
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code in _DISK_CODES:
            message = f"the data directory {path.parent} cannot be written: {exc}"
            raise PeerError("disk_full", message, retry=True) from exc
        if code in _DAMAGE_CODES:
            raise UnusableStore(f"the database {path} is damaged or not a database: {exc}") from exc
        raise OwnError("internal", f"the store failed: {exc}") from exc
    except UnicodeEncodeError as exc:
        raise codec.DecodeError([("", f"is not Unicode text: {exc.reason} at {exc.start}")]) from None
