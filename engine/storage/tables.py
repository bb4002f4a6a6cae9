"""The schema and its migrations.

MIGRATIONS is append-only: `user_version` counts those that a database has had, each in one transaction. A
database of a newer program is refused, because it may mean something that this one would destroy.

- Integers order everything: `position` in a session or message, `key` among runs, `changed` among sessions. Ids are
  for looking up only.
- Long strings are BLOBs of UTF-8: their length is read without loading them, pieces are read by byte offset, and
  a NUL is a byte like any other.
- `parts.text` is what most of a part is: text of text and reasoning, output of a tool call, content of a file (see
  engine.storage.parts). Text that still grows is in `chunks`, by the byte offset where each begins.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from engine.storage.faults import UnusableStore

# In the file's header ("grnr"), so that `file` and we can tell a database of ours from any other.
APPLICATION_ID: Final = 0x67726E72

_FIRST: Final = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    # Columns of lists come first: a row is read up to the last column asked for.
    """CREATE TABLE sessions (
        key INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        changed INTEGER NOT NULL UNIQUE,    -- rises over all sessions with each change of one
        title TEXT NOT NULL,
        model TEXT NOT NULL,
        cwd TEXT NOT NULL,
        parent_id TEXT,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        message_count INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        cache_read_tokens INTEGER NOT NULL,
        cache_write_tokens INTEGER NOT NULL,
        cost REAL,
        toolsets BLOB NOT NULL,             -- JSON array of names
        metadata BLOB NOT NULL,             -- JSON object
        instructions BLOB
    ) STRICT""",
    """CREATE TABLE messages (
        key INTEGER PRIMARY KEY,
        session INTEGER NOT NULL REFERENCES sessions (key) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        id TEXT NOT NULL UNIQUE,
        role TEXT NOT NULL,
        body BLOB NOT NULL,                 -- JSON of the record without its id
        UNIQUE (session, position)
    ) STRICT""",
    """CREATE TABLE parts (
        key INTEGER PRIMARY KEY,
        message INTEGER NOT NULL REFERENCES messages (key) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        id TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        body BLOB NOT NULL,                 -- JSON of the record's short fields without its id
        text BLOB,
        input BLOB,
        error BLOB,
        UNIQUE (message, position)
    ) STRICT""",
    """CREATE TABLE chunks (
        part INTEGER NOT NULL REFERENCES parts (key) ON DELETE CASCADE,
        offset INTEGER NOT NULL,            -- of its first byte in the part's text
        text BLOB NOT NULL,
        PRIMARY KEY (part, offset)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE runs (
        key INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        session INTEGER NOT NULL REFERENCES sessions (key) ON DELETE CASCADE,
        message_id TEXT NOT NULL,           -- of the user's message that started it
        answer INTEGER,                     -- key of its newest assistant message
        open INTEGER NOT NULL,              -- 1 until the status is terminal
        seq_reserved INTEGER NOT NULL,      -- numbers up to here may have been used
        status TEXT NOT NULL,
        model TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        started_at INTEGER,
        ended_at INTEGER,
        first_seq INTEGER NOT NULL,
        last_seq INTEGER NOT NULL,
        position INTEGER,                   -- in the session's queue
        reason TEXT,
        error BLOB,                         -- JSON
        usage BLOB NOT NULL                 -- JSON
    ) STRICT""",
    "CREATE INDEX runs_of_session ON runs (session, key)",
    # A start after a crash reads the open runs only, however many have ended.
    "CREATE INDEX runs_open ON runs (key) WHERE open",
    """CREATE TABLE idempotency (
        method TEXT NOT NULL,
        key TEXT NOT NULL,
        digest BLOB NOT NULL,               -- of the payload
        result_id TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        PRIMARY KEY (method, key)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX idempotency_by_age ON idempotency (created_at)",
)

_QUEUE: Final = (
    # The user's message of a run that waits. It is no part of the transcript until the run begins: the turns of the
    # active run come before it.
    """CREATE TABLE queued (
        run INTEGER PRIMARY KEY REFERENCES runs (key) ON DELETE CASCADE,
        message BLOB NOT NULL,              -- JSON: the body of its info
        parts BLOB NOT NULL                 -- JSON: array of its parts, each with its kind
    ) STRICT""",
    # A session's queue is counted whenever the session is read.
    "CREATE INDEX runs_queued ON runs (session, key) WHERE status = 'queued'",
    # A run's place is counted too: stored, it would have to be written for all that follow when one leaves.
    "ALTER TABLE runs DROP COLUMN position",
)

_BLOBS: Final = (
    # Content that is a file of its own (engine.storage.blobs); one row for equal content.
    """CREATE TABLE blobs (
        key INTEGER PRIMARY KEY,
        hash TEXT NOT NULL UNIQUE,          -- SHA-256 in hex, the file's name
        size INTEGER NOT NULL,
        uses INTEGER NOT NULL               -- rows of attachments; kept by the triggers
    ) STRICT""",
    "CREATE INDEX blobs_unused ON blobs (hash) WHERE uses = 0",
    # What refers to a blob: a part, or a message that waits in a queue.
    """CREATE TABLE attachments (
        key INTEGER PRIMARY KEY,
        part INTEGER UNIQUE REFERENCES parts (key) ON DELETE CASCADE,
        queued INTEGER REFERENCES queued (run) ON DELETE CASCADE,
        blob INTEGER NOT NULL REFERENCES blobs (key),
        handle TEXT NOT NULL                -- the name that it is read by
    ) STRICT""",
    "CREATE INDEX attachments_of_handle ON attachments (handle)",
    "CREATE INDEX attachments_of_queued ON attachments (queued) WHERE queued IS NOT NULL",
    "CREATE INDEX attachments_of_blob ON attachments (blob)",
    """CREATE TRIGGER attached AFTER INSERT ON attachments BEGIN
        UPDATE blobs SET uses = uses + 1 WHERE key = NEW.blob;
    END""",
    """CREATE TRIGGER detached AFTER DELETE ON attachments BEGIN
        UPDATE blobs SET uses = uses - 1 WHERE key = OLD.blob;
    END""",
)

_APPROVALS: Final = (
    """CREATE TABLE approvals (
        run INTEGER NOT NULL REFERENCES runs (key) ON DELETE CASCADE,
        call_id TEXT NOT NULL,
        decision TEXT,                      -- NULL while a person is waited for
        "by" TEXT,
        PRIMARY KEY (run, call_id)
    ) STRICT, WITHOUT ROWID""",
    "ALTER TABLE sessions ADD COLUMN grants BLOB",  # JSON: what people allowed for the rest of the session
)

# Rises with each change of a message's row or of its parts, whoever makes it: what was decoded of it at a revision
# is right as long as that is its revision (engine.storage.rows). Text that grows counts with its first chunk and when
# it is folded, not with each chunk: that would write the message's page with every commit of a stream.
_CHANGED: Final = "UPDATE messages SET revision = revision + 1 WHERE key ="
_REVISIONS: Final = (
    "ALTER TABLE messages ADD COLUMN revision INTEGER NOT NULL DEFAULT 1",
    f"""CREATE TRIGGER message_changed AFTER UPDATE OF body ON messages BEGIN
        {_CHANGED} NEW.key;
    END""",
    f"""CREATE TRIGGER part_added AFTER INSERT ON parts BEGIN
        {_CHANGED} NEW.message;
    END""",
    f"""CREATE TRIGGER part_changed AFTER UPDATE ON parts BEGIN
        {_CHANGED} NEW.message;
    END""",
    f"""CREATE TRIGGER part_grows AFTER INSERT ON chunks
    WHEN NOT EXISTS (SELECT 1 FROM chunks WHERE part = NEW.part AND offset < NEW.offset) BEGIN
        {_CHANGED} (SELECT message FROM parts WHERE key = NEW.part);
    END""",
)

# What a session has beside its transcript. (Its `changed` is below 1 while nobody sees it: engine.storage.hidden.)
_STATE: Final = (
    "ALTER TABLE sessions ADD COLUMN named INTEGER NOT NULL DEFAULT 0",  # 1: a person (or program) gave the title
    "ALTER TABLE sessions ADD COLUMN todos BLOB",  # JSON array of what is to be done
    # Titles from before this version were all given or made from a message: nobody renames them.
    "UPDATE sessions SET named = 1 WHERE title != ''",
)

_COMPACTED: Final = (
    # Key of the session's newest message with a summary: a window finds it, however much has come since.
    "ALTER TABLE sessions ADD COLUMN compacted INTEGER",
    """CREATE TRIGGER compacted AFTER INSERT ON parts WHEN NEW.kind = 'compaction' BEGIN
        UPDATE sessions SET compacted = NEW.message WHERE key = (SELECT session FROM messages WHERE key = NEW.message);
    END""",
)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (_FIRST, _QUEUE, _BLOBS, _APPROVALS, _REVISIONS, _STATE, _COMPACTED)


def check(connection: sqlite3.Connection, known: int = len(MIGRATIONS)) -> int:
    """The database's schema version, 0 if it is new. Raises UnusableStore if it is newer than what is known, or not
    ours. Only reads."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (tables or application):
        raise UnusableStore("the database file is of another program: choose another data directory")
    if version > known:
        raise UnusableStore(
            f"the database is of a newer greenroom (schema {version}, this one knows {known}): "
            "update greenroom, or choose another data directory"
        )
    return int(version)


def migrate(connection: sqlite3.Connection, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS) -> None:
    """Bring the database to the newest schema, each migration in a transaction. Raises as `check` does."""
    version = check(connection, len(migrations))
    for index in range(version, len(migrations)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in migrations[index]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {index + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
