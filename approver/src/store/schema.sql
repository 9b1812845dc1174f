CREATE TABLE host (
    host_id     TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    public_key  TEXT NOT NULL UNIQUE,
    enrolled_at INTEGER NOT NULL,
    disabled_at INTEGER
) STRICT;

CREATE TABLE enrol_token (
    lookup     BLOB PRIMARY KEY CHECK (length(lookup) = 32),
    made_at    INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_by    TEXT REFERENCES host (host_id)
) STRICT;

CREATE TABLE account (
    name         TEXT PRIMARY KEY COLLATE NOCASE,
    email        TEXT NOT NULL UNIQUE COLLATE NOCASE,
    groups       TEXT NOT NULL CHECK (json_valid(groups)),
    token_sha256 BLOB NOT NULL UNIQUE CHECK (length(token_sha256) = 32),
    made_at      INTEGER NOT NULL,
    disabled_at  INTEGER
) STRICT;

CREATE TABLE session (
    sha256     BLOB PRIMARY KEY CHECK (length(sha256) = 32),
    account    TEXT NOT NULL COLLATE NOCASE REFERENCES account (name),
    expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE request (
    request_id     TEXT PRIMARY KEY,
    host_id        TEXT NOT NULL REFERENCES host (host_id),
    nonce          TEXT NOT NULL,
    envelope       BLOB NOT NULL,
    body           TEXT NOT NULL CHECK (json_valid(body)),
    request_sha256 BLOB NOT NULL CHECK (length(request_sha256) = 32),
    phase          TEXT NOT NULL CHECK (phase IN ('waiting', 'late', 'approved', 'denied', 'expired', 'withdrawn')),
    received_at    INTEGER NOT NULL,
    hold_until     INTEGER NOT NULL,
    late_until     INTEGER NOT NULL,
    recorded       INTEGER NOT NULL DEFAULT 0,
    UNIQUE (host_id, nonce)
) STRICT;
CREATE INDEX request_open ON request (phase, hold_until) WHERE phase IN ('waiting', 'late');
CREATE INDEX request_unrecorded ON request (received_at) WHERE recorded = 0;
CREATE INDEX request_recent ON request (received_at);

CREATE TABLE vote (
    request_id      TEXT NOT NULL REFERENCES request (request_id),
    account         TEXT NOT NULL COLLATE NOCASE REFERENCES account (name),
    scope           TEXT NOT NULL,
    rendered_sha256 BLOB NOT NULL CHECK (length(rendered_sha256) = 32),
    approver        TEXT NOT NULL CHECK (json_valid(approver)),
    PRIMARY KEY (request_id, account)
) STRICT;

-- A request may get two: `expired`, then a late approval. Only a recorded one is handed out.
CREATE TABLE decision (
    seq         INTEGER PRIMARY KEY,
    decision_id TEXT NOT NULL UNIQUE,
    request_id  TEXT NOT NULL REFERENCES request (request_id),
    body        TEXT NOT NULL CHECK (json_valid(body)),
    envelope    BLOB NOT NULL,
    recorded    INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX decision_request ON decision (request_id, seq);
CREATE INDEX decision_unrecorded ON decision (seq) WHERE recorded = 0;

CREATE TABLE outcome (
    request_id  TEXT NOT NULL REFERENCES request (request_id),
    seq         INTEGER NOT NULL,
    sha256      BLOB NOT NULL CHECK (length(sha256) = 32),
    body        TEXT NOT NULL CHECK (json_valid(body)),
    received_at INTEGER NOT NULL,
    PRIMARY KEY (request_id, seq)
) STRICT;
