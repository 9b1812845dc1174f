-- Whose ledger has it. Here there is one gateway only.
ALTER TABLE request ADD COLUMN keeper INTEGER NOT NULL DEFAULT 0;
ALTER TABLE decision ADD COLUMN keeper INTEGER NOT NULL DEFAULT 0;
