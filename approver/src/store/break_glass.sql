-- An order by which a host lets an agent through without asking. told: the channels have it; reviewed:
-- somebody who did not sign it has said what came of it.
CREATE TABLE break_glass (
    order_id    TEXT PRIMARY KEY,
    host_id     TEXT NOT NULL,
    host_name   TEXT NOT NULL,
    notice      TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    told_at     INTEGER,
    reviewed_at INTEGER,
    reviewed_by TEXT COLLATE NOCASE REFERENCES account (name),
    review      TEXT
) STRICT;
CREATE INDEX break_glass_untold ON break_glass (received_at) WHERE told_at IS NULL;
CREATE INDEX break_glass_open ON break_glass (received_at) WHERE reviewed_at IS NULL;
CREATE INDEX break_glass_host ON break_glass (host_id, received_at);
