-- Ledgers of hosts. One a host; an earlier one stays, without its host, so that what was seen of it
-- is not forgotten.
CREATE TABLE log (
    origin      TEXT PRIMARY KEY,
    key         TEXT NOT NULL,
    host_id     TEXT UNIQUE REFERENCES host (host_id),
    claimed_at  INTEGER NOT NULL,
    -- The last checkpoint that was cosigned, with the cosignature.
    note        TEXT,
    cosigned_at INTEGER,
    -- What is wrong with it, until a checkpoint is cosigned again.
    alarm       TEXT,
    CHECK ((note IS NULL) = (cosigned_at IS NULL))
) STRICT;
