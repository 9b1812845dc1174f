CREATE TABLE passkey (
    credential_id BLOB PRIMARY KEY CHECK (length(credential_id) BETWEEN 1 AND 1023),
    account       TEXT NOT NULL COLLATE NOCASE REFERENCES account (name),
    pin           TEXT NOT NULL UNIQUE,
    label         TEXT NOT NULL,
    counter       INTEGER NOT NULL,
    made_at       INTEGER NOT NULL,
    used_at       INTEGER
) STRICT;
CREATE INDEX passkey_account ON passkey (account);

-- A one-time link: whoever opens it registers a passkey for that account.
CREATE TABLE passkey_link (
    sha256     BLOB PRIMARY KEY CHECK (length(sha256) = 32),
    account    TEXT NOT NULL COLLATE NOCASE REFERENCES account (name),
    expires_at INTEGER NOT NULL
) STRICT;

-- What an authenticator was asked to sign, until it has.
CREATE TABLE challenge (
    sha256     BLOB PRIMARY KEY CHECK (length(sha256) = 32),
    purpose    TEXT NOT NULL CHECK (purpose IN ('register', 'sign_in', 'approve')),
    account    TEXT COLLATE NOCASE REFERENCES account (name),
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX challenge_age ON challenge (purpose, expires_at);

-- Until when somebody may answer where somebody else may.
CREATE TABLE delegation (
    id       INTEGER PRIMARY KEY,
    from_who TEXT NOT NULL COLLATE NOCASE REFERENCES account (name),
    to_who   TEXT NOT NULL COLLATE NOCASE REFERENCES account (name),
    made_at  INTEGER NOT NULL,
    until    INTEGER NOT NULL,
    ended_at INTEGER,
    CHECK (from_who <> to_who)
) STRICT;
CREATE INDEX delegation_active ON delegation (to_who, until);

-- What an agent asked before.
CREATE INDEX request_before ON request (host_id, agent, received_at);
