-- A database of schema 7 with a conversation in it, as that version of the program made it.
PRAGMA application_id = 1735552626;
PRAGMA foreign_keys = ON;
CREATE TABLE sessions (
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
    , grants BLOB, named INTEGER NOT NULL DEFAULT 0, todos BLOB, compacted INTEGER) STRICT;
CREATE TABLE messages (
        key INTEGER PRIMARY KEY,
        session INTEGER NOT NULL REFERENCES sessions (key) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        id TEXT NOT NULL UNIQUE,
        role TEXT NOT NULL,
        body BLOB NOT NULL, revision INTEGER NOT NULL DEFAULT 1,                 -- JSON of the record without its id
        UNIQUE (session, position)
    ) STRICT;
CREATE TABLE parts (
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
    ) STRICT;
CREATE TABLE chunks (
        part INTEGER NOT NULL REFERENCES parts (key) ON DELETE CASCADE,
        offset INTEGER NOT NULL,            -- of its first byte in the part's text
        text BLOB NOT NULL,
        PRIMARY KEY (part, offset)
    ) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
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
        reason TEXT,
        error BLOB,                         -- JSON
        usage BLOB NOT NULL                 -- JSON
    ) STRICT;
CREATE INDEX runs_of_session ON runs (session, key);
CREATE INDEX runs_open ON runs (key) WHERE open;
CREATE TABLE idempotency (
        method TEXT NOT NULL,
        key TEXT NOT NULL,
        digest BLOB NOT NULL,               -- of the payload
        result_id TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        PRIMARY KEY (method, key)
    ) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_age ON idempotency (created_at);
CREATE TABLE queued (
        run INTEGER PRIMARY KEY REFERENCES runs (key) ON DELETE CASCADE,
        message BLOB NOT NULL,              -- JSON: the body of its info
        parts BLOB NOT NULL                 -- JSON: array of its parts, each with its kind
    ) STRICT;
CREATE INDEX runs_queued ON runs (session, key) WHERE status = 'queued';
CREATE TABLE blobs (
        key INTEGER PRIMARY KEY,
        hash TEXT NOT NULL UNIQUE,          -- SHA-256 in hex, the file's name
        size INTEGER NOT NULL,
        uses INTEGER NOT NULL               -- rows of attachments; kept by the triggers
    ) STRICT;
CREATE INDEX blobs_unused ON blobs (hash) WHERE uses = 0;
CREATE TABLE attachments (
        key INTEGER PRIMARY KEY,
        part INTEGER UNIQUE REFERENCES parts (key) ON DELETE CASCADE,
        queued INTEGER REFERENCES queued (run) ON DELETE CASCADE,
        blob INTEGER NOT NULL REFERENCES blobs (key),
        handle TEXT NOT NULL                -- the name that it is read by
    ) STRICT;
CREATE INDEX attachments_of_handle ON attachments (handle);
CREATE INDEX attachments_of_queued ON attachments (queued) WHERE queued IS NOT NULL;
CREATE INDEX attachments_of_blob ON attachments (blob);
CREATE TRIGGER attached AFTER INSERT ON attachments BEGIN
        UPDATE blobs SET uses = uses + 1 WHERE key = NEW.blob;
    END;
CREATE TRIGGER detached AFTER DELETE ON attachments BEGIN
        UPDATE blobs SET uses = uses - 1 WHERE key = OLD.blob;
    END;
CREATE TABLE approvals (
        run INTEGER NOT NULL REFERENCES runs (key) ON DELETE CASCADE,
        call_id TEXT NOT NULL,
        decision TEXT,                      -- NULL while a person is waited for
        "by" TEXT,
        PRIMARY KEY (run, call_id)
    ) STRICT, WITHOUT ROWID;
CREATE TRIGGER message_changed AFTER UPDATE OF body ON messages BEGIN
        UPDATE messages SET revision = revision + 1 WHERE key = NEW.key;
    END;
CREATE TRIGGER part_added AFTER INSERT ON parts BEGIN
        UPDATE messages SET revision = revision + 1 WHERE key = NEW.message;
    END;
CREATE TRIGGER part_changed AFTER UPDATE ON parts BEGIN
        UPDATE messages SET revision = revision + 1 WHERE key = NEW.message;
    END;
CREATE TRIGGER part_grows AFTER INSERT ON chunks
    WHEN NOT EXISTS (SELECT 1 FROM chunks WHERE part = NEW.part AND offset < NEW.offset) BEGIN
        UPDATE messages SET revision = revision + 1 WHERE key = (SELECT message FROM parts WHERE key = NEW.part);
    END;
CREATE TRIGGER compacted AFTER INSERT ON parts WHEN NEW.kind = 'compaction' BEGIN
        UPDATE sessions SET compacted = NEW.message WHERE key = (SELECT session FROM messages WHERE key = NEW.message);
    END;
INSERT INTO sessions (key, id, changed, title, model, cwd, parent_id, created_at, updated_at, revision, message_count,
  input_tokens, output_tokens, reasoning_tokens, cache_read_tokens, cache_write_tokens, cost, toolsets, metadata, instructions)
  VALUES (1, 'ses_old', 2, 'An old one', 'demo', '/home/x', NULL, 1700000000000, 1700000005000, 7, 4, 30, 20, 5, 2, 1, 0.25,
  CAST('["files"]' AS BLOB), CAST('{"a":[1]}' AS BLOB), CAST('be short' AS BLOB)),
  (2, 'ses_empty', 1, '', 'demo', '/', 'ses_old', 1700000000000, 1700000000000, 1, 0, 0, 0, 0, 0, 0, NULL, CAST('[]' AS BLOB), CAST('{}' AS BLOB), NULL);
INSERT INTO runs (key, id, session, message_id, answer, open, seq_reserved, status, model, created_at, started_at, ended_at, first_seq, last_seq, reason, error, usage) VALUES
  (1, 'run_done', 1, 'msg_u1', 2, 0, 100, 'completed', 'demo', 1700000000000, 1700000000001, 1700000001000, 1, 42, NULL, NULL, CAST('{"input_tokens":30,"output_tokens":20,"reasoning_tokens":5,"cache_read_tokens":2,"cache_write_tokens":1,"cost":0.25}' AS BLOB)),
  (2, 'run_open', 1, 'msg_u2', 4, 1, 16384, 'running', 'demo', 1700000002000, 1700000002001, NULL, 1, 0, NULL, NULL, CAST('{"input_tokens":0,"output_tokens":0,"reasoning_tokens":0,"cache_read_tokens":0,"cache_write_tokens":0}' AS BLOB)),
  (3, 'run_waits', 1, 'msg_q1', NULL, 1, 0, 'queued', 'demo', 1700000003000, NULL, NULL, 1, 0, NULL, NULL, CAST('{"input_tokens":0,"output_tokens":0,"reasoning_tokens":0,"cache_read_tokens":0,"cache_write_tokens":0}' AS BLOB));
INSERT INTO messages (key, session, position, id, role, body) VALUES
  (1, 1, 1, 'msg_u1', 'user', CAST('{"created_at":1700000000000,"run_id":"run_done"}' AS BLOB)),
  (2, 1, 2, 'msg_a1', 'assistant', CAST('{"created_at":1700000000500,"run_id":"run_done","parent_id":"msg_u1","finished_at":1700000001000,"model":"demo","finish":"stop","usage":{"input_tokens":30,"output_tokens":20,"reasoning_tokens":5,"cache_read_tokens":2,"cache_write_tokens":1,"cost":0.25}}' AS BLOB)),
  (3, 1, 3, 'msg_u2', 'user', CAST('{"created_at":1700000002000,"run_id":"run_open"}' AS BLOB)),
  (4, 1, 4, 'msg_a2', 'assistant', CAST('{"created_at":1700000002500,"run_id":"run_open","parent_id":"msg_u2","model":"demo"}' AS BLOB));
INSERT INTO parts (key, message, position, id, kind, body, text, input, error) VALUES
  (1, 1, 1, 'prt_1', 'text', CAST('{}' AS BLOB), CAST('é hello' AS BLOB), NULL, NULL),
  (2, 2, 1, 'prt_2', 'step-start', CAST('{"turn":1}' AS BLOB), NULL, NULL, NULL),
  (3, 2, 2, 'prt_3', 'reasoning', CAST('{"signature":"sig"}' AS BLOB), CAST('hm' AS BLOB), NULL, NULL),
  (4, 2, 3, 'prt_4', 'tool', CAST('{"call_id":"call_1","tool":"files.read_file","state":"completed","title":"t","started_at":1700000000600,"finished_at":1700000000700,"whole":{"handle":"out_old","hash":"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","size":5}}' AS BLOB), CAST('head' AS BLOB), CAST('{"path":"a b"}' AS BLOB), NULL),
  (5, 2, 4, 'prt_5', 'text', CAST('{}' AS BLOB), CAST('the answer' AS BLOB), NULL, NULL),
  (6, 2, 5, 'prt_6', 'step-finish', CAST('{"turn":1,"finish":"stop","usage":{"input_tokens":30,"output_tokens":20,"reasoning_tokens":5,"cache_read_tokens":2,"cache_write_tokens":1,"cost":0.25}}' AS BLOB), NULL, NULL, NULL),
  (7, 3, 1, 'prt_7', 'text', CAST('{}' AS BLOB), CAST('more' AS BLOB), NULL, NULL),
  (8, 4, 1, 'prt_8', 'step-start', CAST('{"turn":1}' AS BLOB), NULL, NULL, NULL),
  (9, 4, 2, 'prt_9', 'text', CAST('{}' AS BLOB), CAST('' AS BLOB), NULL, NULL),
  (10, 4, 3, 'prt_10', 'tool', CAST('{"call_id":"call_2","tool":"shell.run","state":"running","started_at":1700000002600}' AS BLOB), NULL, CAST('{"command":"ls"}' AS BLOB), NULL);
INSERT INTO chunks VALUES (9, 0, CAST('so ' AS BLOB)), (9, 3, CAST('far' AS BLOB));
INSERT INTO idempotency VALUES ('run.start', 'k1', x'00', 'run_done', 1700000000000);
INSERT INTO queued VALUES (3, CAST('{"created_at":1700000003000,"run_id":"run_waits"}' AS BLOB), CAST('[{"kind":"text","id":"prt_q1","text":"later"}]' AS BLOB));
INSERT INTO blobs VALUES (1, '2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824', 5, 0);
INSERT INTO attachments VALUES (1, 4, NULL, 1, 'out_old');
INSERT INTO approvals VALUES (2, 'call_2', NULL, NULL), (1, 'call_1', 'allow', 'client');
UPDATE sessions SET grants = CAST('[]' AS BLOB) WHERE key = 1;
UPDATE sessions SET named = 1, todos = CAST('[{"text":"one","status":"pending"}]' AS BLOB) WHERE key = 1;
PRAGMA user_version = 7;
