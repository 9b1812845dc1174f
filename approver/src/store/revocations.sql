-- Approvals that people took back. n: its place in the list of its host, given once the ledger has it;
-- only then is it handed out.
CREATE TABLE revocation (
    decision_id TEXT PRIMARY KEY REFERENCES decision (decision_id),
    request_id  TEXT NOT NULL REFERENCES request (request_id),
    host_id     TEXT NOT NULL REFERENCES host (host_id),
    n           INTEGER,
    approver    TEXT NOT NULL CHECK (json_valid(approver)),
    at          INTEGER NOT NULL,
    keeper      INTEGER NOT NULL,
    UNIQUE (host_id, n)
) STRICT;
CREATE INDEX revocation_request ON revocation (request_id);
CREATE INDEX revocation_unrecorded ON revocation (at) WHERE n IS NULL;
