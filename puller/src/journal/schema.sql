-- Delivery ids whose messages are inside. Rows are appended at one end and removed at the other, and ids grow with
-- time, so the cost of a row does not grow with the journal.

CREATE TABLE taken (
    key        INTEGER PRIMARY KEY,  -- in the order of their coming
    id         TEXT NOT NULL UNIQUE, -- as it stood behind XDELIVERYID
    at         INTEGER NOT NULL,     -- on the steady clock, in milliseconds
    recipients TEXT                  -- JSON: forward-paths; NULL: everybody that the delivery was for
) STRICT;

-- Where the steady clock stood, and the wall clock beside it, when it was last looked at.
CREATE TABLE clock (
    key    INTEGER PRIMARY KEY CHECK (key = 1),
    steady INTEGER NOT NULL,
    wall   INTEGER NOT NULL
) STRICT;
