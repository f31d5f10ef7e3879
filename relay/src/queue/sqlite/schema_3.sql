-- Step 3: content in a spool file may have its head here: what the relay says of a message (Received, Authentication-Results)
-- is known when its content is on disk already. The tables stay as they are. A program that does not know of heads would
-- take every such file for one that was cut short, so it must not open this database.
UPDATE setting SET value = value WHERE name = 'mark';
