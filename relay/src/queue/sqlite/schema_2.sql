-- Step 2: checksums, a steady clock for all waits, and room for reports.

-- steady: of the shared::steady clock at its last mark; wall: of the wall clock at the same time; both 0: never.
INSERT INTO setting (name, value) VALUES ('steady', 0), ('wall', 0);

-- CRC-32 of the content. NULL: accepted before there were any.
ALTER TABLE message ADD COLUMN checksum INTEGER;
-- When it was accepted on the steady clock, as are next_attempt and since of its deliveries.
ALTER TABLE message ADD COLUMN held_since INTEGER NOT NULL DEFAULT 0;
UPDATE message SET held_since = received_at;
-- A queue that was restored goes on under a new instance: the lost one gave ids that its backup does not know. Messages
-- up to the mark that it had keep the instance before, by which journals know them.
CREATE TABLE former_instance (
    until    INTEGER PRIMARY KEY,
    instance INTEGER NOT NULL
) STRICT;
-- failed, expired: when it ended. Else: when an admin had it begin anew, or 0.
ALTER TABLE delivery ADD COLUMN since INTEGER NOT NULL DEFAULT 0;
