-- The log: one row per durable change. The row with no successor is a key's current state.
CREATE TABLE log (
    revision        INTEGER PRIMARY KEY,
    key             TEXT    NOT NULL,
    -- The revision this row supersedes, 0 if the log knows none.
    prev_revision   INTEGER NOT NULL,
    create_revision INTEGER NOT NULL,
    deleted         INTEGER NOT NULL,
    value           BLOB    NOT NULL
) STRICT;

-- Optimistic concurrency: a revision is superseded once, whatever the code above believes.
CREATE UNIQUE INDEX log_key_prev_revision ON log (key, prev_revision);

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- compacted: exact reads below this revision are refused.
-- reserved: revisions below this one may have been handed out without a row in the log.
INSERT INTO meta (name, value) VALUES ('compacted', 0), ('reserved', 1);
