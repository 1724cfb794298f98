-- The first schema. Migrations are numbered, forward only, and never edited once released.
-- `positions.last` counts everything that subscribers can see, over all agents, in commit order:
-- creations, messages, transitions and deletions. A position is never reused.

CREATE TABLE positions (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    last  INTEGER NOT NULL,
    epoch TEXT    NOT NULL                     -- random: tells a restored file from the one it replaced
) STRICT;

CREATE TABLE agents (
    key             INTEGER PRIMARY KEY,       -- the position of its creation
    id              TEXT NOT NULL UNIQUE
                    CHECK (length(id) BETWEEN 1 AND 128 AND id NOT GLOB '*[^-A-Za-z0-9._:]*'
                           AND length(id) = length(CAST(id AS BLOB))), -- no NUL, at which SQLite stops to look
    epoch           TEXT NOT NULL,             -- random: tells a relaunched id from the old one
    head            INTEGER NOT NULL,          -- sequence of its last message
    status          TEXT NOT NULL
                    CHECK (status IN ('initializing', 'running', 'completed', 'failed', 'terminated')),
    type            TEXT NOT NULL,
    created_at      TEXT NOT NULL,
    started_at      TEXT,
    completed_at    TEXT,
    error_name      TEXT,
    error_message   TEXT,
    pid             INTEGER,
    pid_started     TEXT,                      -- boot and start time: tells a process from a later one of the same pid
    idempotency_key TEXT UNIQUE,
    result          TEXT,                      -- JSON
    configuration   TEXT NOT NULL,             -- JSON object
    prompt          TEXT NOT NULL
) STRICT;

CREATE TABLE agent_messages (
    position        INTEGER PRIMARY KEY,
    agent_key       INTEGER NOT NULL REFERENCES agents (key) ON DELETE CASCADE,
    sequence_number INTEGER NOT NULL,
    type            TEXT NOT NULL
                    CHECK (type IN ('assistant', 'user', 'system', 'error', 'tool', 'response')),
    role            TEXT,
    content         TEXT NOT NULL,
    content_type    TEXT NOT NULL CHECK (content_type IN ('text', 'json')),
    raw             BLOB,                      -- the producer's line without its newline, byte for byte
    metadata        TEXT,                      -- JSON object
    key             TEXT,                      -- makes a repeated send harmless
    created_at      TEXT NOT NULL,
    checksum        INTEGER NOT NULL,          -- CRC-32 over every field
    UNIQUE (agent_key, sequence_number)
) STRICT;

CREATE UNIQUE INDEX agent_messages_by_key ON agent_messages (agent_key, key) WHERE key IS NOT NULL;

CREATE TABLE agent_transitions (
    position       INTEGER PRIMARY KEY,
    agent_key      INTEGER NOT NULL REFERENCES agents (key) ON DELETE CASCADE,
    "from"         TEXT NOT NULL,
    "to"           TEXT NOT NULL,
    after_sequence INTEGER NOT NULL,           -- sequence of the last message before it
    at             TEXT NOT NULL,
    reason         TEXT,
    UNIQUE (agent_key, "to"),                  -- no status is reached twice
    CHECK ("from" || '>' || "to" IN (
        'initializing>running', 'initializing>failed', 'initializing>terminated',
        'running>completed', 'running>failed', 'running>terminated'
    ))
) STRICT;

CREATE TABLE agent_deletions (
    position INTEGER PRIMARY KEY,
    agent_id TEXT NOT NULL,
    at       TEXT NOT NULL
) STRICT;
