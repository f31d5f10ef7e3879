//! What a disk must hold after a cut: opened by the real journal, and compared with what was promised.

use std::collections::BTreeMap;
use std::path::Path;

use atrn_puller::journal::{Begun, Journal};
use atrn_shared::smtp::parameter::DeliveryId;
use rusqlite::Connection;
use tokio::runtime::Runtime;

use super::Promises;
use crate::message::without_trace;
use crate::power::content::number;
use crate::power::cuts::{Found, Ledger};
use crate::power::trace::Moment;

impl Ledger for Promises {
    fn check(&self, image: &Path, cut: Moment, _: &Runtime) -> Result<Found, String> {
        let files = self.files(&image.join("mail"))?;
        let journaled = self.journaled(&image.join("data"))?;
        for (number, message) in self.messages.iter().enumerate() {
            let id = &message.id;
            let (is_there, is_known) = (files.contains_key(&number), journaled.contains(id));
            // The relay would be told that it is inside.
            if is_known && !is_there {
                return Err(format!(
                    "LOST: {id} (number {number}) is in the journal and not in the Maildir"
                ));
            }
            let Some(taken) = message.taken.filter(|taken| *taken < cut) else {
                continue;
            };
            if !is_there {
                let size = message.content.len();
                return Err(format!(
                    "LOST: {id} (number {number}, {size} octets), taken at {taken}"
                ));
            }
            if !is_known {
                return Err(format!(
                    "FORGOTTEN: {id} (number {number}), taken at {taken}: it could come twice"
                ));
            }
        }
        Ok(journaled)
    }

    fn promised(&self, cut: Moment) -> Found {
        let taken = self
            .messages
            .iter()
            .filter(|message| message.taken.is_some_and(|taken| taken < cut));
        taken.map(|message| message.id.clone()).collect()
    }
}

impl Promises {
    /// Messages in the Maildir, each whole and once.
    fn files(&self, maildir: &Path) -> Result<BTreeMap<usize, ()>, String> {
        let mut files = BTreeMap::new();
        for name in ["new", "cur"] {
            // A folder that nobody made holds nothing.
            let Ok(entries) = std::fs::read_dir(maildir.join(name)) else {
                continue;
            };
            for entry in entries {
                let path = entry.map_err(|error| error.to_string())?.path();
                let content = std::fs::read(&path).map_err(|error| error.to_string())?;
                let damaged = || format!("DAMAGED: {}", path.display());
                let number = number(&content).ok_or_else(damaged)?;
                let message = self.messages.get(number).ok_or_else(damaged)?;
                if without_trace(&content) != message.content {
                    return Err(damaged());
                }
                if files.insert(number, ()).is_some() {
                    return Err(format!("TWICE: number {number} in the Maildir"));
                }
            }
        }
        Ok(files)
    }

    /// Ids that the journal would answer with 258.
    fn journaled(&self, data: &Path) -> Result<Found, String> {
        // As the puller does before it opens its journal.
        std::fs::create_dir_all(data).map_err(|error| error.to_string())?;
        let journal =
            Journal::open(data).map_err(|error| format!("the journal does not open: {error}"))?;
        let mut journaled = Found::new();
        for message in &self.messages {
            let id: DeliveryId = message
                .id
                .parse()
                .map_err(|_| "an id that is none".to_owned())?;
            let begun = journal.begin(&id);
            if let Begun::Taken =
                begun.map_err(|error| format!("the journal cannot be asked: {error}"))?
            {
                journaled.insert(message.id.clone());
            }
        }
        journal.close();
        drop(journal);
        let connection =
            Connection::open(data.join("journal.db")).map_err(|error| error.to_string())?;
        let checked: String = connection
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .map_err(|error| error.to_string())?;
        match &*checked {
            "ok" => Ok(journaled),
            damage => Err(format!("integrity_check: {damage}")),
        }
    }
}
