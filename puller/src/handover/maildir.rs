//! The hand-over into a Maildir: one file a message, as D. J. Bernstein's format has it, durable before it is acknowledged.
//!
//! Content is stored as it was received, line ends included: a transparent relay changes nothing. Nothing is added
//! either, so that a delivery agent which reads the folder finds no `Return-Path` (R5321-19).
//!
//! A delivery that the relay names gives its file the name, so that it is in the folder once even when we die between
//! the file and the journal. (The format lets a name be anything without a colon that does not begin with a dot.)

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use atrn_shared::directory;
use atrn_shared::smtp::parameter::DeliveryId;
use atrn_shared::smtp::reply::Reply;
use aws_lc_rs::digest;
use jiff::Timestamp;
use tracing::error;

use super::connect::ConnectError;
use super::verdict::{self, Verdict};
use super::{Group, Setup, Verdicts};

/// Octets that are gathered in memory before they are written: small messages cost one visit to the file system.
const GATHER_OCTETS: usize = 256 * 1024;
/// What the name of a file begins with that has its name from a delivery.
const NAMED: &str = "delivery.";

/// A folder, and the message that is on its way into it.
#[derive(Debug)]
pub struct Maildir {
    folder: Arc<Folder>,
    /// What the relay calls the message under way.
    delivery_id: Option<DeliveryId>,
    /// A process was killed that had it in hand, perhaps since we looked into the folder.
    was_abandoned: bool,
    draft: Option<Draft>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    hostname: String,
    seen: Arc<Seen>,
    /// Messages of one session that may be on their way into it.
    writers_max: usize,
}

/// The name of a file that has it from a delivery.
#[derive(Debug)]
struct Name {
    text: String,
    was_abandoned: bool,
}

/// Deliveries that were in a folder when this process first looked, wherever readers put them since.
pub(super) type Seen = OnceLock<HashSet<Fingerprint>>;

/// Of a file name without its flags: a folder may have a million of them.
type Fingerprint = [u8; 16];

/// A message that is not complete. To drop it removes what was written.
#[derive(Debug, Default)]
struct Draft {
    gathered: Vec<u8>,
    file: Option<Unfinished>,
    failure: Option<Reply>,
}

#[derive(Debug)]
struct Unfinished {
    file: File,
    path: PathBuf,
    is_kept: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_kept {
            // A file that stays in tmp/ is swept by whoever reads the folder after 36 hours, as the format says.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Maildir {
    /// Opens the folder, and makes it where it is missing.
    pub(super) async fn open(path: PathBuf, setup: &Setup) -> Result<Self, ConnectError> {
        let maildir = Self::on(Arc::new(Folder {
            path,
            hostname: setup.hostname.clone(),
            seen: Arc::clone(&setup.seen),
            writers_max: setup.config.connections,
        }));
        maildir.be_ready().await?;
        Ok(maildir)
    }

    fn on(folder: Arc<Folder>) -> Self {
        Self {
            folder,
            delivery_id: None,
            was_abandoned: false,
            draft: None,
        }
    }

    /// For another message, into the same folder.
    pub(super) fn beside(&self) -> Self {
        Self::on(Arc::clone(&self.folder))
    }

    pub(super) fn connections_max(&self) -> usize {
        self.folder.writers_max
    }

    /// Whether the folder can be written.
    pub(super) async fn be_ready(&self) -> Result<(), ConnectError> {
        let folder = Arc::clone(&self.folder);
        let outcome = blocking(move || folder.prepare()).await;
        outcome.map_err(|source| ConnectError::Directory {
            path: self.folder.path.clone(),
            source,
        })
    }

    pub(super) fn begin(&mut self, group: &Group) -> Verdicts {
        if let Some((_, parameters)) = &group.mail {
            self.draft = None;
            self.delivery_id.clone_from(&parameters.delivery_id);
            self.was_abandoned = group.was_abandoned;
        }
        if group.content.is_some() {
            self.draft = Some(Draft::default());
        }
        Verdicts::positive(group)
    }

    pub(super) async fn body(&mut self, part: &[u8]) {
        let Some(draft) = &mut self.draft else {
            return;
        };
        if draft.failure.is_some() {
            return;
        }
        draft.gathered.extend_from_slice(part);
        if draft.gathered.len() < GATHER_OCTETS {
            return;
        }
        let (folder, taken) = (Arc::clone(&self.folder), std::mem::take(draft));
        let outcome = blocking(move || taken.spill(&folder)).await;
        self.draft = Some(outcome.unwrap_or_else(|error| Draft {
            failure: Some(self.folder.refusal(&error)),
            ..Draft::default()
        }));
    }

    pub(super) async fn finish(&mut self) -> Verdict {
        let Some(mut draft) = self.draft.take() else {
            return Verdict::ours(verdict::link_lost());
        };
        if let Some(reply) = draft.failure.take() {
            return Verdict::ours(reply);
        }
        let folder = Arc::clone(&self.folder);
        let name = self.delivery_id.take().map(|id| Name {
            text: format!("{NAMED}{id}"),
            was_abandoned: self.was_abandoned,
        });
        match blocking(move || draft.deliver(&folder, name.as_ref())).await {
            Ok(()) => Verdict::ours(verdict::taken()),
            Err(error) => Verdict::ours(self.folder.refusal(&error)),
        }
    }

    pub(super) fn abandon(&mut self) {
        self.draft = None;
    }
}

impl Folder {
    fn prepare(&self) -> io::Result<()> {
        // All that will be synced below them is lost with them.
        for path in [
            &self.path,
            &self.path.join("tmp"),
            &self.path.join("new"),
            &self.path.join("cur"),
        ] {
            directory::make_durable(path)?;
        }
        // Whether it can be written shows only when it is.
        self.create().map(drop)
    }

    /// A file of a name that no other has: time, process, count, host. It keeps that name where the relay gave none.
    fn create(&self) -> io::Result<Unfinished> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let now = Timestamp::now();
        let name = format!(
            "{}.M{}P{}Q{}.{}",
            now.as_second(),
            now.subsec_microsecond(),
            std::process::id(),
            COUNT.fetch_add(1, Relaxed),
            self.hostname
        );
        let path = self.path.join("tmp").join(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Unfinished {
            file,
            path,
            is_kept: false,
        })
    }

    /// Moves a complete file into `new/`: from then on it is a message.
    fn publish(&self, mut unfinished: Unfinished, name: Option<&Name>) -> io::Result<()> {
        let new = self.path.join("new");
        let own_name = unfinished.path.file_name().unwrap_or_default();
        let (place, is_there) = match name {
            Some(name) => (new.join(&name.text), self.has(name)?),
            None => (new.join(own_name), false),
        };
        if is_there || place.try_exists()? {
            // It was whole when it got its name; that the name stays, here or where a reader put it, is certain only now.
            directory::sync(&self.path.join("cur"))?;
            return directory::sync(&new);
        }
        unfinished.file.sync_all()?;
        fs::rename(&unfinished.path, &place)?;
        unfinished.is_kept = true;
        directory::sync(&new).inspect_err(|_| {
            // A sync that comes later could succeed and still not mean this name. The message is not taken, so it is
            // not there; the next attempt begins with a file of its own.
            let _ = fs::remove_file(&place);
        })
    }

    /// Whether another process has brought it. One look at the folder is enough, for nobody else gives such names
    /// while the delivery is in our hands; unless a process had it in hand since, and was killed. While the folder cannot
    /// be read nothing is known, and nothing taken.
    fn has(&self, name: &Name) -> io::Result<bool> {
        let wanted = fingerprint(&name.text);
        if name.was_abandoned {
            return Ok(self.look()?.contains(&wanted));
        }
        let seen = match self.seen.get() {
            Some(seen) => seen,
            None => {
                let seen = self.look()?;
                self.seen.get_or_init(|| seen)
            }
        };
        Ok(seen.contains(&wanted))
    }

    /// First `new/`: what a reader moves to `cur/` meanwhile is found there.
    fn look(&self) -> io::Result<HashSet<Fingerprint>> {
        let mut seen = HashSet::new();
        for folder in ["new", "cur"] {
            for entry in fs::read_dir(self.path.join(folder))? {
                let name = entry?.file_name();
                if let Some(name) = name.to_str().filter(|name| name.starts_with(NAMED)) {
                    let base = name.split([':', ',', ';', '!']).next();
                    seen.insert(fingerprint(base.unwrap_or(name)));
                }
            }
        }
        Ok(seen)
    }

    /// R5321-15: any doubt is a transient refusal.
    fn refusal(&self, error: &io::Error) -> Reply {
        error!(path = %self.path.display(), %error, "cannot store a message");
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Reply::new(452, "4.3.1", "No room for the message now")
            }
            _ => Reply::new(451, "4.3.0", "The message cannot be stored now"),
        }
    }
}

impl Draft {
    /// Writes what was gathered.
    fn spill(mut self, folder: &Folder) -> io::Result<Self> {
        let mut unfinished = match self.file.take() {
            Some(unfinished) => unfinished,
            None => folder.create()?,
        };
        unfinished.file.write_all(&self.gathered)?;
        self.gathered.clear();
        self.file = Some(unfinished);
        Ok(self)
    }

    fn deliver(self, folder: &Folder, name: Option<&Name>) -> io::Result<()> {
        match self.spill(folder)?.file {
            Some(unfinished) => folder.publish(unfinished, name),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn fingerprint(name: &str) -> Fingerprint {
    let digest = digest::digest(&digest::SHA256, name.as_bytes());
    digest
        .as_ref()
        .first_chunk()
        .copied()
        .expect("SHA-256 has 32 octets")
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the work was interrupted")))
}
