//! The corporate side: a mail server that looks into the journal before it answers, and somebody who
//! reads the Maildir while mail comes in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::journal::Journal;
use super::ledger::{Copy, Ledger, Target};
use super::mail::{Mail, Seen, queue_id};
use crate::inside::Inside;
use crate::world::RELAY_NAME;

/// The reader looks so often.
const READ_EVERY: Duration = Duration::from_millis(20);
/// Read mail is thrown away in portions, so that the folder stays small in a long campaign.
const READ_KEPT: usize = 500;

/// The mail server of the SMTP target.
pub(super) fn server(ledger: Arc<Ledger>, journal: Journal) -> Inside {
    Inside::witnessed(move |arrived| {
        let seen = Mail::seen(&arrived.content);
        note(&ledger, Target::Smtp, &arrived.content, seen, |id| {
            journal.has(id).map_err(|error| format!("{error:#}"))
        });
    })
}

/// The owner of the Maildir: moves what is new to `cur/`, as mail readers do, and throws it away later, once the
/// puller's journal knows of it.
#[derive(Debug)]
pub(super) struct Reader {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    pub(super) fn start(folder: &Path, ledger: Arc<Ledger>, journal: Journal) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut mailbox = Mailbox {
            folder: folder.to_owned(),
            ledger,
            journal,
            read: Vec::new(),
        };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            loop {
                let is_last = stopped.load(Ordering::Relaxed);
                mailbox.look();
                if is_last {
                    return;
                }
                std::thread::sleep(READ_EVERY);
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Reads what is left.
    pub(super) fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.end();
    }
}

struct Mailbox {
    folder: PathBuf,
    ledger: Arc<Ledger>,
    journal: Journal,
    /// Files in `cur/`, with the queue ids of their messages.
    read: Vec<(PathBuf, String)>,
}

impl Mailbox {
    fn look(&mut self) {
        let outcome = self.read_new().and_then(|()| self.throw_away());
        match outcome {
            Ok(()) => {}
            // The puller makes it with the first mail.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.ledger.violation(format!("the Maildir: {error}")),
        }
    }

    fn read_new(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(self.folder.join("new"))? {
            let entry = entry?;
            let content = fs::read(entry.path())?;
            let seen = Mail::seen(&content);
            note(&self.ledger, Target::Maildir, &content, seen, |_| Ok(false));
            let mut name = entry.file_name();
            name.push(":2,S");
            let read = self.folder.join("cur").join(name);
            fs::rename(entry.path(), &read)?;
            let id = queue_id(&content, RELAY_NAME).unwrap_or_default();
            self.read.push((read, id));
        }
        Ok(())
    }

    fn throw_away(&mut self) -> io::Result<()> {
        if self.read.len() < READ_KEPT {
            return Ok(());
        }
        for (path, id) in std::mem::take(&mut self.read) {
            // While the puller may still have to ask the folder whether it has the message, it stays.
            if self.journal.has(&id).unwrap_or(false) {
                fs::remove_file(path)?;
            } else {
                self.read.push((path, id));
            }
        }
        Ok(())
    }
}

/// Writes a copy into the ledger.
fn note(
    ledger: &Ledger,
    target: Target,
    content: &[u8],
    seen: Seen,
    is_journaled: impl FnOnce(&str) -> Result<bool, String>,
) {
    let at = Instant::now();
    let (mail, is_whole) = match seen {
        Seen::Whole(mail) => (mail, true),
        Seen::Changed(mail) => (mail, false),
        Seen::Foreign => {
            let name = target.name();
            ledger.violation(format!("{name} has {} octets of nobody", content.len()));
            return;
        }
    };
    let Some(id) = queue_id(content, RELAY_NAME) else {
        let number = mail.number;
        ledger.violation(format!("message {number} came without the relay's trace"));
        return;
    };
    let is_journaled = is_journaled(&id).unwrap_or_else(|error| {
        ledger.violation(format!("the journal cannot be read: {error}"));
        false
    });
    ledger.arrived(Copy {
        target,
        mail,
        is_whole,
        is_journaled,
        at,
    });
}
