-- The queue. A message is one row in the order of arrival, its content once, and a delivery for each
-- domain. Rows are appended at one end of each tree and removed near the other, so the cost of a
-- message does not grow with the queue.

CREATE TABLE setting (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- instance: random, the last part of every delivery id.  mark: no id given was ever greater.
INSERT INTO setting (name, value) VALUES ('instance', abs(random() % 1073741824)), ('mark', 0);

CREATE TABLE domain (
    key  INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE message (
    key           INTEGER PRIMARY KEY,  -- queue id
    received_at   INTEGER NOT NULL,     -- milliseconds since 1970, as all times here
    received_from TEXT NOT NULL,
    reverse_path  TEXT NOT NULL,        -- without brackets; empty: the null reverse-path
    parameters    TEXT NOT NULL,        -- of MAIL
    flags         INTEGER NOT NULL,     -- 1: 8-bit content, 2: needs SMTPUTF8, 4: content is in a spool file
    size          INTEGER NOT NULL,
    next_number   INTEGER NOT NULL      -- of its next delivery; never given twice
) STRICT;

-- Apart from the message, so that lists do not read through content.
CREATE TABLE body (
    message INTEGER PRIMARY KEY,
    content BLOB NOT NULL
) STRICT;

CREATE TABLE delivery (
    message      INTEGER NOT NULL,
    number       INTEGER NOT NULL,
    domain       INTEGER NOT NULL,
    state        INTEGER NOT NULL,      -- 0 queued, 1 deferred, 2 held, 3 failed, 4 expired
    next_attempt INTEGER NOT NULL,      -- deferred: not before; else 0
    last_attempt INTEGER NOT NULL,      -- 0: none yet
    attempts     INTEGER NOT NULL,
    last_reply   TEXT,
    recipients   TEXT NOT NULL,         -- JSON: [{"to", "parameters", "reply"}, …]
    PRIMARY KEY (message, number)
) STRICT, WITHOUT ROWID;

-- The order of the claim, and of lists of one domain or state.
CREATE INDEX delivery_order ON delivery (domain, state, message, number);
CREATE INDEX delivery_due ON delivery (domain, next_attempt) WHERE state = 1;

-- Kept up to date by the writer: counting would cost more with each message.
CREATE TABLE total (
    domain     INTEGER NOT NULL,
    state      INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    octets     INTEGER NOT NULL,
    PRIMARY KEY (domain, state)
) STRICT, WITHOUT ROWID;
