-- Of which channel a request was told, or that it could not be. With `place_ts`, the message can be
-- changed; with `handle`, it has buttons, which are for what `rendered_sha256` says was shown.
CREATE TABLE notice (
    request_id      TEXT NOT NULL REFERENCES request (request_id),
    channel         TEXT NOT NULL,
    at              INTEGER NOT NULL,
    error           TEXT,
    place           TEXT,
    place_ts        TEXT,
    handle          TEXT UNIQUE,
    rendered_sha256 BLOB CHECK (length(rendered_sha256) = 32),
    shown_sha256    BLOB CHECK (length(shown_sha256) = 32),
    PRIMARY KEY (request_id, channel)
) STRICT;

-- Which account a chat user is.
CREATE TABLE chat_link (
    team_id   TEXT NOT NULL,
    user_id   TEXT NOT NULL,
    account   TEXT NOT NULL COLLATE NOCASE REFERENCES account (name),
    linked_at INTEGER NOT NULL,
    PRIMARY KEY (team_id, user_id)
) STRICT;

CREATE TABLE chat_link_token (
    sha256     BLOB PRIMARY KEY CHECK (length(sha256) = 32),
    team_id    TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    name       TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    UNIQUE (team_id, user_id)
) STRICT;

-- What people clicked, kept before it is acknowledged: the other side delivers at least once.
CREATE TABLE click (
    id      TEXT PRIMARY KEY,
    channel TEXT NOT NULL,
    body    BLOB NOT NULL,
    at      INTEGER NOT NULL,
    done    INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX click_at ON click (at);

-- Who was shown the whole of a request, first when.
CREATE TABLE seen (
    request_id TEXT NOT NULL REFERENCES request (request_id),
    account    TEXT NOT NULL COLLATE NOCASE REFERENCES account (name),
    at         INTEGER NOT NULL,
    PRIMARY KEY (request_id, account)
) STRICT;

-- Limits are per agent, and denials per question.
ALTER TABLE request ADD COLUMN agent TEXT NOT NULL DEFAULT '';
ALTER TABLE request ADD COLUMN question TEXT NOT NULL DEFAULT '';
ALTER TABLE request ADD COLUMN answered_at INTEGER;
UPDATE request SET agent = body ->> '$.agent.name', question = body ->> '$.coalesce_key';
CREATE INDEX request_agent ON request (host_id, agent) WHERE phase = 'waiting';
CREATE INDEX request_question ON request (host_id, agent, question, answered_at) WHERE answered_at IS NOT NULL;
