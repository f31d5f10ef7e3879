-- Delivery ids whose messages are inside. One tree and nothing beside it, so that an entry is one page of the log: ids
-- grow with time, so the page is mostly the last one, and a look-up goes where the last commits have been.

CREATE TABLE taken (
    id         TEXT PRIMARY KEY,     -- as it stood behind XDELIVERYID
    at         INTEGER NOT NULL,     -- on the steady clock, in milliseconds
    recipients BLOB                  -- 16 octets of the SHA-256 of each forward-path; NULL: everybody it was for
) STRICT, WITHOUT ROWID;

-- What a process leaves to the next one, written now and then.
CREATE TABLE state (
    key     INTEGER PRIMARY KEY CHECK (key = 1),
    steady  INTEGER NOT NULL,        -- the steady clock …
    wall    INTEGER NOT NULL,        -- … and the wall clock at the same time
    entries INTEGER NOT NULL,        -- as far as they were counted
    pruned  TEXT NOT NULL            -- old entries were looked for up to this id; then the search begins anew
) STRICT;
