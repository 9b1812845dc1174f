-- When another group is asked as well, because nobody has answered; told: it has been.
CREATE TABLE escalation (
    request_id TEXT NOT NULL REFERENCES request (request_id),
    asked      TEXT NOT NULL,
    due        INTEGER NOT NULL,
    told_at    INTEGER,
    PRIMARY KEY (request_id, asked)
) STRICT;
CREATE INDEX escalation_due ON escalation (due) WHERE told_at IS NULL;
