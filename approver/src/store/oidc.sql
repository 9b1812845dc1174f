-- Who somebody at an identity provider is here. Made by an administrator, before the first sign-in.
CREATE TABLE identity (
    issuer  TEXT NOT NULL,
    subject TEXT NOT NULL CHECK (length(subject) BETWEEN 1 AND 255),
    account TEXT NOT NULL COLLATE NOCASE REFERENCES account (name),
    made_at INTEGER NOT NULL,
    PRIMARY KEY (issuer, subject)
) STRICT;
