-- Each opening for writing is a run. A file that is put back from a backup goes on in a run of its own, so a cursor that
-- was given in a run which this file does not know, or beyond where that run ended in it, is of another history.

CREATE TABLE runs (
    number INTEGER PRIMARY KEY,
    epoch  TEXT    NOT NULL UNIQUE,            -- random
    began  INTEGER NOT NULL                    -- the position after which it began, and at which the one before ended
) STRICT;
