//! The new queue that takes what could be read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use atrn_shared::smtp::address::Domain;
use rusqlite::{Connection, params};

use super::super::backup::{
    BackupError, Manifest, ManifestKind, Phase, Progress, check, finish, put,
};
use super::super::id::QueueId;
use super::super::spool::spool_path;
use super::super::sqlite;
use super::message::{Delivery, Message};
use super::source::Settings;

/// Messages in one transaction.
const MESSAGES_A_COMMIT: u64 = 500;
/// Ids that were given and not marked lie at most so far ahead of the newest that is known.
const MARK_AHEAD_MILLIS: i64 = 120_000;

pub(super) struct Target {
    connection: Connection,
    path: PathBuf,
    spool: PathBuf,
    domains: HashMap<Domain, i64>,
    in_transaction: u64,
    files: (u64, u64),
}

impl Target {
    /// In a directory that was prepared.
    pub(super) fn create(directory: &Path) -> Result<Self, BackupError> {
        let path = directory.join("queue.db");
        let connection = sqlite::open_writer(&path)?;
        let target = Self {
            connection,
            spool: directory.join("spool"),
            path,
            domains: HashMap::new(),
            in_transaction: 0,
            files: (0, 0),
        };
        target.run("BEGIN")?;
        Ok(target)
    }

    fn run(&self, statements: &str) -> Result<(), BackupError> {
        let ran = self.connection.execute_batch(statements);
        ran.map_err(BackupError::sqlite(&self.path))
    }

    pub(super) fn progress(
        &self,
        watch: &mut dyn FnMut(Progress) -> bool,
        done: u64,
        total: u64,
    ) -> Result<(), BackupError> {
        let phase = Phase::Messages;
        match watch(Progress { phase, done, total }) {
            true => Ok(()),
            false => Err(BackupError::Cancelled),
        }
    }

    /// Adds a message with its content.
    pub(super) fn add(&mut self, message: &Message, spool: &Path) -> Result<(), BackupError> {
        if message.is_spooled() {
            put(
                &spool_path(spool, message.id),
                &spool_path(&self.spool, message.id),
            )?;
            let head = message.content.as_ref().map_or(0, |head| head.len() as u64);
            self.files.0 += 1;
            self.files.1 += message.size.cast_unsigned().saturating_sub(head);
        }
        self.insert(message)
            .map_err(BackupError::sqlite(&self.path))?;
        self.in_transaction += 1;
        if self.in_transaction == MESSAGES_A_COMMIT {
            self.in_transaction = 0;
            self.run("COMMIT; BEGIN")?;
        }
        Ok(())
    }

    fn insert(&mut self, message: &Message) -> rusqlite::Result<()> {
        let highest = message
            .deliveries
            .iter()
            .map(|delivery| delivery.number)
            .max();
        let next_number = message
            .next_number
            .max(highest.unwrap_or(0).saturating_add(1));
        let insert = "INSERT INTO message (key, received_at, received_from, reverse_path, parameters, flags, size,
             next_number, checksum, held_since) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        self.connection.prepare_cached(insert)?.execute(params![
            message.id.0,
            message.received_at,
            message.received_from,
            message.reverse_path,
            message.parameters,
            message.flags,
            message.size,
            next_number,
            message.checksum,
            message.held_since,
        ])?;
        if let Some(content) = &message.content {
            let insert = "INSERT INTO body (message, content) VALUES (?1, ?2)";
            let mut insert = self.connection.prepare_cached(insert)?;
            insert.execute(params![message.id.0, content])?;
        }
        for delivery in &message.deliveries {
            self.insert_delivery(message.id, delivery)?;
        }
        Ok(())
    }

    fn insert_delivery(&mut self, message: QueueId, delivery: &Delivery) -> rusqlite::Result<()> {
        let domain = self.domain(&delivery.domain)?;
        let insert = "INSERT INTO delivery (message, number, domain, state, next_attempt, last_attempt, attempts,
             last_reply, recipients, since) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        self.connection.prepare_cached(insert)?.execute(params![
            message.0,
            delivery.number,
            domain,
            delivery.state,
            delivery.next_attempt,
            delivery.last_attempt,
            delivery.attempts,
            delivery.last_reply,
            delivery.recipients,
            delivery.since,
        ])?;
        Ok(())
    }

    fn domain(&mut self, domain: &Domain) -> rusqlite::Result<i64> {
        if let Some(key) = self.domains.get(domain) {
            return Ok(*key);
        }
        let insert = "INSERT INTO domain (name) VALUES (?1)";
        let key = self
            .connection
            .prepare_cached(insert)?
            .insert([domain.as_str()])?;
        self.domains.insert(domain.clone(), key);
        Ok(key)
    }

    /// Counts, checks and syncs it all; `report` writes what there is to say before the manifest is written.
    pub(super) fn finish(
        self,
        directory: &Path,
        settings: Settings,
        newest: i64,
        watch: &mut dyn FnMut(Progress) -> bool,
        report: impl FnOnce(&Manifest) -> Result<(), BackupError>,
    ) -> Result<Manifest, BackupError> {
        let failed = BackupError::sqlite;
        self.settle_settings(settings, newest)
            .map_err(failed(&self.path))?;
        self.run(
            "INSERT INTO total (domain, state, deliveries, octets)
                 SELECT d.domain, d.state, count(*), sum(m.size)
                 FROM delivery d JOIN message m ON m.key = d.message GROUP BY d.domain, d.state;
             COMMIT",
        )?;
        // One file, without a log beside it.
        let mode = "PRAGMA journal_mode = DELETE";
        let changed = self.connection.query_row(mode, [], |_| Ok(()));
        changed.map_err(failed(&self.path))?;
        check(&self.connection, &self.path, watch)?;
        let manifest = Manifest::of(ManifestKind::Salvage, &self.connection, self.files);
        let manifest = manifest.map_err(failed(&self.path))?;
        report(&manifest)?;
        finish(directory, &manifest)?;
        Ok(manifest)
    }

    fn settle_settings(&self, settings: Settings, newest: i64) -> rusqlite::Result<()> {
        let newest = QueueId(newest).later(MARK_AHEAD_MILLIS).0;
        let mark = settings.mark.unwrap_or(0).max(newest);
        let values = [
            ("instance", settings.instance),
            ("mark", Some(mark)),
            (
                "steady",
                settings.steady.filter(|_| settings.wall.is_some()),
            ),
            ("wall", settings.wall.filter(|_| settings.steady.is_some())),
        ];
        for (until, instance) in &settings.former {
            let insert = "INSERT INTO former_instance (until, instance) VALUES (?1, ?2)";
            self.connection.execute(insert, params![until, instance])?;
        }
        for (name, value) in values {
            if let Some(value) = value {
                let update = "UPDATE setting SET value = ?2 WHERE name = ?1";
                self.connection.execute(update, params![name, value])?;
            }
        }
        Ok(())
    }
}
