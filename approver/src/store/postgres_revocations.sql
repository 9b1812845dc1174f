-- What revocations.sql says for SQLite. Whoever waits for a host's list is told its host.
CREATE TABLE revocation (
    decision_id TEXT PRIMARY KEY REFERENCES decision (decision_id),
    request_id  TEXT NOT NULL REFERENCES request (request_id),
    host_id     TEXT NOT NULL REFERENCES host (host_id),
    n           BIGINT,
    approver    TEXT NOT NULL,
    at          BIGINT NOT NULL,
    keeper      BIGINT NOT NULL,
    UNIQUE (host_id, n)
);
CREATE INDEX revocation_request ON revocation (request_id);
CREATE INDEX revocation_unrecorded ON revocation (at) WHERE n IS NULL;

CREATE FUNCTION syshold_changed_revocation() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_notify('syshold', 'revoked ' || NEW.host_id); RETURN NULL; END $$;
CREATE TRIGGER changed AFTER UPDATE OF n ON revocation
    FOR EACH ROW EXECUTE FUNCTION syshold_changed_revocation();
