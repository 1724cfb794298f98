-- Messages lie in commit order alone. An index with an entry for each of them is written in as many places as there are
-- agents in a commit: with 256 agents that took five times as long as all the rest. Instead each message tells how far
-- back the agent's one before it lies, the agent's row where its last one is, and `agent_steps` where 128 of them are.

ALTER TABLE agents ADD COLUMN tail INTEGER NOT NULL DEFAULT 0; -- position of its last message; 0: it has none

UPDATE agents SET tail = coalesce(
    (SELECT position FROM agent_messages WHERE agent_key = agents.key AND sequence_number = agents.head), 0);

CREATE TABLE messages_in_order (
    position        INTEGER PRIMARY KEY,
    agent_key       INTEGER NOT NULL REFERENCES agents (key) ON DELETE CASCADE,
    sequence_number INTEGER NOT NULL,
    back            INTEGER NOT NULL DEFAULT 0, -- positions back to the agent's message before it; 0: there is none
    type            TEXT NOT NULL
                    CHECK (type IN ('assistant', 'user', 'system', 'error', 'tool', 'response')),
    role            TEXT,
    content         TEXT NOT NULL,
    content_type    TEXT NOT NULL CHECK (content_type IN ('text', 'json')),
    raw             BLOB,                       -- the producer's line without its newline, byte for byte
    metadata        TEXT,                       -- JSON object
    key             TEXT,                       -- makes a repeated send harmless
    created_at      TEXT NOT NULL,
    checksum        INTEGER NOT NULL            -- CRC-32 over every field but `back`, which `verify` counts
) STRICT;

INSERT INTO messages_in_order
SELECT position, agent_key, sequence_number,
       position - coalesce((SELECT before.position FROM agent_messages AS before
                            WHERE before.agent_key = m.agent_key AND before.sequence_number = m.sequence_number - 1),
                           position),
       type, role, content, content_type, raw, metadata, key, created_at, checksum
FROM agent_messages AS m ORDER BY position;

DROP TABLE agent_messages;

ALTER TABLE messages_in_order RENAME TO agent_messages;

CREATE UNIQUE INDEX agent_messages_by_key ON agent_messages (agent_key, key) WHERE key IS NOT NULL;

CREATE TABLE agent_steps (
    agent_key       INTEGER NOT NULL REFERENCES agents (key) ON DELETE CASCADE,
    sequence_number INTEGER NOT NULL,           -- divisible by 128
    position        INTEGER NOT NULL,           -- of the message with this sequence
    backs           TEXT    NOT NULL,           -- `back` of this message and of the 126 before it, in descending order
    PRIMARY KEY (agent_key, sequence_number)
) STRICT, WITHOUT ROWID;

INSERT INTO agent_steps
SELECT agent_key, sequence_number, position,
       (WITH RECURSIVE walk (position, back, steps) AS (
            SELECT m.position, m.back, 1
            UNION ALL
            SELECT before.position, before.back, steps + 1
            FROM walk JOIN agent_messages AS before ON before.position = walk.position - walk.back WHERE steps < 127)
        SELECT group_concat(back) FROM walk)
FROM agent_messages AS m WHERE sequence_number % 128 = 0;
