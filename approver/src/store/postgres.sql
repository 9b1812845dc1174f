-- The state in PostgreSQL: what the SQLite files say, in one. Times are milliseconds; names and mail
-- addresses are the same in upper and lower case.
CREATE COLLATION syshold_nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);

-- Which gateway's state this is: every replica has the same keys.
CREATE TABLE gateway (
    what  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE host (
    host_id     TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    public_key  TEXT NOT NULL UNIQUE,
    enrolled_at BIGINT NOT NULL,
    disabled_at BIGINT
);

CREATE TABLE enrol_token (
    lookup     BYTEA PRIMARY KEY CHECK (length(lookup) = 32),
    made_at    BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_by    TEXT REFERENCES host (host_id)
);

CREATE TABLE account (
    name         TEXT COLLATE syshold_nocase PRIMARY KEY,
    email        TEXT COLLATE syshold_nocase NOT NULL UNIQUE,
    groups       TEXT NOT NULL,
    token_sha256 BYTEA NOT NULL UNIQUE CHECK (length(token_sha256) = 32),
    made_at      BIGINT NOT NULL,
    disabled_at  BIGINT
);

CREATE TABLE session (
    sha256     BYTEA PRIMARY KEY CHECK (length(sha256) = 32),
    account    TEXT COLLATE syshold_nocase NOT NULL REFERENCES account (name),
    expires_at BIGINT NOT NULL
);

-- keeper: the replica whose ledger has it, or, before it is recorded, is to have it.
CREATE TABLE request (
    request_id     TEXT PRIMARY KEY,
    host_id        TEXT NOT NULL REFERENCES host (host_id),
    nonce          TEXT NOT NULL,
    envelope       BYTEA NOT NULL,
    body           TEXT NOT NULL,
    request_sha256 BYTEA NOT NULL CHECK (length(request_sha256) = 32),
    phase          TEXT NOT NULL CHECK (phase IN ('waiting', 'late', 'approved', 'denied', 'expired', 'withdrawn')),
    received_at    BIGINT NOT NULL,
    hold_until     BIGINT NOT NULL,
    late_until     BIGINT NOT NULL,
    recorded       BIGINT NOT NULL DEFAULT 0,
    agent          TEXT NOT NULL,
    question       TEXT NOT NULL,
    answered_at    BIGINT,
    keeper         BIGINT NOT NULL,
    UNIQUE (host_id, nonce)
);
CREATE INDEX request_open ON request (phase, hold_until) WHERE phase IN ('waiting', 'late');
CREATE INDEX request_unrecorded ON request (received_at) WHERE recorded = 0;
CREATE INDEX request_recent ON request (received_at);
CREATE INDEX request_agent ON request (host_id, agent) WHERE phase = 'waiting';
CREATE INDEX request_question ON request (host_id, agent, question, answered_at) WHERE answered_at IS NOT NULL;
CREATE INDEX request_before ON request (host_id, agent, received_at);

CREATE TABLE vote (
    rowid           BIGINT GENERATED ALWAYS AS IDENTITY UNIQUE,
    request_id      TEXT NOT NULL REFERENCES request (request_id),
    account         TEXT COLLATE syshold_nocase NOT NULL REFERENCES account (name),
    scope           TEXT NOT NULL,
    rendered_sha256 BYTEA NOT NULL CHECK (length(rendered_sha256) = 32),
    approver        TEXT NOT NULL,
    PRIMARY KEY (request_id, account)
);

CREATE TABLE decision (
    seq         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    decision_id TEXT NOT NULL UNIQUE,
    request_id  TEXT NOT NULL REFERENCES request (request_id),
    body        TEXT NOT NULL,
    envelope    BYTEA NOT NULL,
    recorded    BIGINT NOT NULL DEFAULT 0,
    keeper      BIGINT NOT NULL
);
CREATE INDEX decision_request ON decision (request_id, seq);
CREATE INDEX decision_unrecorded ON decision (seq) WHERE recorded = 0;

CREATE TABLE outcome (
    request_id  TEXT NOT NULL REFERENCES request (request_id),
    seq         BIGINT NOT NULL,
    sha256      BYTEA NOT NULL CHECK (length(sha256) = 32),
    body        TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    PRIMARY KEY (request_id, seq)
);

CREATE TABLE passkey (
    credential_id BYTEA PRIMARY KEY CHECK (length(credential_id) BETWEEN 1 AND 1023),
    account       TEXT COLLATE syshold_nocase NOT NULL REFERENCES account (name),
    pin           TEXT NOT NULL UNIQUE,
    label         TEXT NOT NULL,
    counter       BIGINT NOT NULL,
    made_at       BIGINT NOT NULL,
    used_at       BIGINT
);
CREATE INDEX passkey_account ON passkey (account);

CREATE TABLE passkey_link (
    sha256     BYTEA PRIMARY KEY CHECK (length(sha256) = 32),
    account    TEXT COLLATE syshold_nocase NOT NULL REFERENCES account (name),
    expires_at BIGINT NOT NULL
);

CREATE TABLE challenge (
    sha256     BYTEA PRIMARY KEY CHECK (length(sha256) = 32),
    purpose    TEXT NOT NULL CHECK (purpose IN ('register', 'sign_in', 'approve')),
    account    TEXT COLLATE syshold_nocase REFERENCES account (name),
    expires_at BIGINT NOT NULL
);
CREATE INDEX challenge_age ON challenge (purpose, expires_at);

CREATE TABLE delegation (
    id       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    from_who TEXT COLLATE syshold_nocase NOT NULL REFERENCES account (name),
    to_who   TEXT COLLATE syshold_nocase NOT NULL REFERENCES account (name),
    made_at  BIGINT NOT NULL,
    until    BIGINT NOT NULL,
    ended_at BIGINT,
    CHECK (from_who <> to_who)
);
CREATE INDEX delegation_active ON delegation (to_who, until);

CREATE TABLE notice (
    rowid           BIGINT GENERATED ALWAYS AS IDENTITY UNIQUE,
    request_id      TEXT NOT NULL REFERENCES request (request_id),
    channel         TEXT NOT NULL,
    at              BIGINT NOT NULL,
    error           TEXT,
    place           TEXT,
    place_ts        TEXT,
    handle          TEXT UNIQUE,
    rendered_sha256 BYTEA CHECK (length(rendered_sha256) = 32),
    shown_sha256    BYTEA CHECK (length(shown_sha256) = 32),
    PRIMARY KEY (request_id, channel)
);

CREATE TABLE chat_link (
    team_id   TEXT NOT NULL,
    user_id   TEXT NOT NULL,
    account   TEXT COLLATE syshold_nocase NOT NULL REFERENCES account (name),
    linked_at BIGINT NOT NULL,
    PRIMARY KEY (team_id, user_id)
);

CREATE TABLE chat_link_token (
    sha256     BYTEA PRIMARY KEY CHECK (length(sha256) = 32),
    team_id    TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    name       TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    UNIQUE (team_id, user_id)
);

CREATE TABLE click (
    id      TEXT PRIMARY KEY,
    channel TEXT NOT NULL,
    body    BYTEA NOT NULL,
    at      BIGINT NOT NULL,
    done    BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX click_at ON click (at);

CREATE TABLE seen (
    request_id TEXT NOT NULL REFERENCES request (request_id),
    account    TEXT COLLATE syshold_nocase NOT NULL REFERENCES account (name),
    at         BIGINT NOT NULL,
    PRIMARY KEY (request_id, account)
);

CREATE TABLE escalation (
    request_id TEXT NOT NULL REFERENCES request (request_id),
    asked      TEXT NOT NULL,
    due        BIGINT NOT NULL,
    told_at    BIGINT,
    PRIMARY KEY (request_id, asked)
);
CREATE INDEX escalation_due ON escalation (due) WHERE told_at IS NULL;

CREATE TABLE log (
    origin      TEXT PRIMARY KEY,
    key         TEXT NOT NULL,
    host_id     TEXT UNIQUE REFERENCES host (host_id),
    claimed_at  BIGINT NOT NULL,
    note        TEXT,
    cosigned_at BIGINT,
    alarm       TEXT,
    CHECK ((note IS NULL) = (cosigned_at IS NULL))
);

CREATE TABLE break_glass (
    order_id    TEXT PRIMARY KEY,
    host_id     TEXT NOT NULL,
    host_name   TEXT NOT NULL,
    notice      TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    told_at     BIGINT,
    reviewed_at BIGINT,
    reviewed_by TEXT COLLATE syshold_nocase REFERENCES account (name),
    review      TEXT
);
CREATE INDEX break_glass_untold ON break_glass (received_at) WHERE told_at IS NULL;
CREATE INDEX break_glass_open ON break_glass (received_at) WHERE reviewed_at IS NULL;
CREATE INDEX break_glass_host ON break_glass (host_id, received_at);

CREATE TABLE identity (
    issuer  TEXT NOT NULL,
    subject TEXT NOT NULL CHECK (length(subject) BETWEEN 1 AND 255),
    account TEXT COLLATE syshold_nocase NOT NULL REFERENCES account (name),
    made_at BIGINT NOT NULL,
    PRIMARY KEY (issuer, subject)
);

-- Every replica hears of what changed, once it is committed.
CREATE FUNCTION syshold_changed() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_notify('syshold', NEW.request_id); RETURN NULL; END $$;
CREATE TRIGGER changed AFTER INSERT OR UPDATE OF phase ON request
    FOR EACH ROW EXECUTE FUNCTION syshold_changed();
CREATE TRIGGER changed AFTER INSERT ON vote FOR EACH ROW EXECUTE FUNCTION syshold_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OF recorded ON decision
    FOR EACH ROW EXECUTE FUNCTION syshold_changed();
CREATE TRIGGER changed AFTER INSERT ON outcome FOR EACH ROW EXECUTE FUNCTION syshold_changed();

CREATE FUNCTION syshold_changed_glass() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_notify('syshold', ''); RETURN NULL; END $$;
CREATE TRIGGER changed AFTER INSERT OR UPDATE OF reviewed_at ON break_glass
    FOR EACH ROW EXECUTE FUNCTION syshold_changed_glass();
