//! What a disk must hold after a cut: opened by the real queue, and compared with what was promised.

use std::collections::BTreeSet;
use std::path::Path;

use atrn_relay::queue::{Filter, Item, QueueId, Store};
use rusqlite::Connection;
use tokio::runtime::Runtime;

use super::Promises;
use crate::message::without_trace;
use crate::power::content::number;
use crate::power::cuts::{Found, Ledger};
use crate::power::trace::Moment;

/// Deliveries of a page.
const PAGE: usize = 100;

impl Ledger for Promises {
    fn check(&self, image: &Path, cut: Moment, runtime: &Runtime) -> Result<Found, String> {
        let data = image.join("data");
        // What was there before the relay had begun is not its own.
        let store =
            Store::open(&data).map_err(|error| format!("the queue does not open: {error}"))?;
        let found = runtime.block_on(self.read(&store));
        // The last handle waits for all threads: files that no row names are gone then.
        drop(store);
        let found = found?;
        self.nothing_lost(&found, cut)?;
        consistent(&data)?;
        Ok(found)
    }

    fn promised(&self, cut: Moment) -> Found {
        let accepted = self.messages.iter().enumerate();
        let accepted = accepted
            .filter(|(_, message)| message.accepted.as_ref().is_some_and(|(at, _)| *at < cut));
        let shares = accepted.flat_map(|(number, message)| {
            let recipients = message.recipients.iter();
            recipients.map(move |recipient| share(number, &recipient.path))
        });
        shares.collect()
    }
}

impl Promises {
    /// Everything in the queue, each message whole and as it was sent.
    async fn read(&self, store: &Store) -> Result<Found, String> {
        let mut found = Found::new();
        let mut after = None;
        loop {
            let page = store.list(Filter::default(), after, PAGE).await;
            let page = page.map_err(|error| format!("the queue cannot be listed: {error}"))?;
            let Some(last) = page.last() else {
                return Ok(found);
            };
            after = Some(last.delivery_id);
            for item in &page {
                let content = content(store, item.id).await?;
                self.right(item, &content, &mut found)?;
            }
        }
    }

    /// Whether a delivery is one that was sent, to whom it was sent.
    fn right(&self, item: &Item, content: &[u8], found: &mut Found) -> Result<(), String> {
        let Some(number) = number(content) else {
            let is_report = item.sender.is_empty() && is_report(content);
            return if is_report {
                Ok(())
            } else {
                Err(format!("{} is no message that was sent", item.id))
            };
        };
        let message = self
            .messages
            .get(number)
            .ok_or_else(|| format!("{number} was never sent"))?;
        if without_trace(content) != message.content {
            return Err(format!("{} (number {number}) is damaged", item.id));
        }
        if message
            .accepted
            .as_ref()
            .is_some_and(|(_, id)| *id != item.id.to_string())
        {
            return Err(format!(
                "number {number} was accepted under another id than {}",
                item.id
            ));
        }
        for path in &item.recipients {
            let is_known = message
                .recipients
                .iter()
                .any(|recipient| recipient.path == *path);
            if !is_known || !found.insert(share(number, path)) {
                return Err(format!("{} has a recipient {path} too many", item.id));
            }
        }
        Ok(())
    }

    fn nothing_lost(&self, found: &BTreeSet<String>, cut: Moment) -> Result<(), String> {
        for (number, message) in self.messages.iter().enumerate() {
            let Some((accepted, id)) = message
                .accepted
                .as_ref()
                .filter(|(accepted, _)| *accepted < cut)
            else {
                continue;
            };
            for recipient in &message.recipients {
                let may_be_gone = recipient.delivered.is_some_and(|delivered| delivered < cut);
                if !may_be_gone && !found.contains(&share(number, &recipient.path)) {
                    let (path, size) = (&recipient.path, message.content.len());
                    return Err(format!(
                        "LOST: {id} (number {number}, {size} octets) for {path}, accepted at {accepted}, \
                         delivered at {:?}",
                        recipient.delivered
                    ));
                }
            }
        }
        Ok(())
    }
}

fn is_report(content: &[u8]) -> bool {
    String::from_utf8_lossy(content).contains("Content-Type: multipart/report")
}

fn share(number: usize, path: &str) -> String {
    format!("{number} {path}")
}

async fn content(store: &Store, id: QueueId) -> Result<Vec<u8>, String> {
    let failed = |error| format!("the content of {id} cannot be read: {error}");
    let reader = store.content(id).await.map_err(failed)?;
    let mut reader = reader.ok_or_else(|| format!("{id} has no content"))?;
    let mut content = Vec::new();
    while let Some(part) = reader.next().await.map_err(failed)? {
        content.extend_from_slice(&part);
    }
    Ok(content)
}

/// The database as SQLite sees it, its own sums, and the files beside it.
fn consistent(data: &Path) -> Result<(), String> {
    let connection = Connection::open(data.join("queue.db")).map_err(|error| error.to_string())?;
    let none = |query: &str| -> Result<(), String> {
        let found = connection.query_row(query, [], |row| row.get::<_, i64>(0));
        match found {
            Ok(0) => Ok(()),
            Ok(count) => Err(format!("{count} rows of: {query}")),
            Err(error) => Err(format!("{error}: {query}")),
        }
    };
    let checked: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .map_err(|error| error.to_string())?;
    if checked != "ok" {
        return Err(format!("integrity_check: {checked}"));
    }
    none("SELECT count(*) FROM message WHERE key NOT IN (SELECT message FROM delivery)")?;
    none("SELECT count(*) FROM delivery WHERE message NOT IN (SELECT key FROM message)")?;
    // Of a message with a content file it has the head, which may be empty; of all others everything.
    none("SELECT count(*) FROM body WHERE message NOT IN (SELECT key FROM message)")?;
    none(
        "SELECT count(*) FROM message WHERE flags & 4 = 0 AND key NOT IN (SELECT message FROM body)",
    )?;
    none(
        "SELECT count(*) FROM total WHERE deliveries <>
         (SELECT count(*) FROM delivery WHERE domain = total.domain AND state = total.state)",
    )?;
    none(
        "SELECT count(*) FROM total WHERE octets <> (SELECT coalesce(sum(size), 0) FROM delivery
         JOIN message ON key = message WHERE domain = total.domain AND state = total.state)",
    )?;
    let spooled: i64 = connection
        .query_row("SELECT count(*) FROM message WHERE flags & 4", [], |row| {
            row.get(0)
        })
        .map_err(|error| error.to_string())?;
    let files = files(&data.join("spool")).map_err(|error| error.to_string())?;
    match i64::try_from(files) {
        Ok(files) if files == spooled => Ok(()),
        _ => Err(format!("{files} content files for {spooled} messages")),
    }
}

fn files(spool: &Path) -> std::io::Result<usize> {
    let mut files = 0;
    for directory in std::fs::read_dir(spool)? {
        files += std::fs::read_dir(directory?.path())?.count();
    }
    Ok(files)
}
