-- Failed logins, summed by name and address; refusals, summed by reason and network; where accounts logged in from.
-- Times are seconds since 1970. Every table has a bound: see store.rs.

CREATE TABLE name (
    key   INTEGER PRIMARY KEY,
    name  TEXT    NOT NULL UNIQUE,
    first INTEGER NOT NULL,
    last  INTEGER NOT NULL,
    tries INTEGER NOT NULL
);
CREATE INDEX name_least ON name (tries, last);

CREATE TABLE attempt (
    name       INTEGER NOT NULL REFERENCES name (key) ON DELETE CASCADE,
    address    TEXT    NOT NULL,
    mechanisms INTEGER NOT NULL,
    first      INTEGER NOT NULL,
    last       INTEGER NOT NULL,
    tries      INTEGER NOT NULL,
    PRIMARY KEY (name, address)
) WITHOUT ROWID;
CREATE INDEX attempt_least ON attempt (tries, last);

CREATE TABLE refusal (
    service TEXT    NOT NULL,
    reason  TEXT    NOT NULL,
    network TEXT    NOT NULL,
    first   INTEGER NOT NULL,
    last    INTEGER NOT NULL,
    times   INTEGER NOT NULL,
    PRIMARY KEY (service, reason, network)
) WITHOUT ROWID;
CREATE INDEX refusal_least ON refusal (times, last);

CREATE TABLE login (
    account TEXT    NOT NULL,
    network TEXT    NOT NULL,
    address TEXT    NOT NULL,
    first   INTEGER NOT NULL,
    last    INTEGER NOT NULL,
    times   INTEGER NOT NULL,
    PRIMARY KEY (account, network)
) WITHOUT ROWID;
CREATE INDEX login_last ON login (last);

CREATE TABLE lock (
    name  TEXT    PRIMARY KEY,
    until INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE setting (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;
