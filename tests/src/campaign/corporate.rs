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
        queue_id: &id,
        mail,
        is_whole,
        is_journaled,
        at,
    });
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::message::Message;
    use crate::sender::Sender;

    const MAIL: Mail = Mail {
        number: 1,
        octets: 100,
    };

    fn with_trace(id: &str) -> Vec<u8> {
        let trace =
            format!("Received: from c\r\n\tby {RELAY_NAME} with ESMTP id {id};\r\n\tdate\r\n");
        [trace.as_bytes(), &MAIL.content()].concat()
    }

    /// A journal of a puller, with one delivery in it.
    fn journal(folder: &Path, id: &str) -> Journal {
        let file = folder.join("journal.db");
        let connection = Connection::open(&file).unwrap();
        let schema = include_str!("../../../puller/src/journal/schema.sql");
        connection.execute_batch(schema).unwrap();
        let insert = "INSERT INTO taken (id, at) VALUES (?1, 0)";
        connection.execute(insert, [id]).unwrap();
        Journal(file)
    }

    #[test]
    fn a_delivery_that_is_in_the_journal_comes_over_the_hop_again() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(folder.path(), "1M7ZX5RDH00.1.SMTANW");
        let ledger = Arc::<Ledger>::default();
        ledger.sent(MAIL, &Target::ALL);
        let inside = server(Arc::clone(&ledger), journal);
        let mut sender = Sender::connect(inside.address());
        // An id that the journaled one begins with is another message.
        for (id, duplicates) in [("1M7ZX5RDH0", 0), ("1M7ZX5RDH00", 1)] {
            sender.send(&Message::new("user@smtp.example", with_trace(id)));
            let counts = ledger.counts(Target::Smtp);
            assert_eq!(counts.duplicates_over_the_hop, duplicates, "{id}");
        }
    }

    #[test]
    fn a_second_file_is_a_second_copy_and_read_mail_goes_when_the_journal_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let inbox = folder.path().join("inbox");
        for name in ["new", "cur"] {
            fs::create_dir_all(inbox.join(name)).unwrap();
        }
        let ledger = Arc::<Ledger>::default();
        ledger.sent(MAIL, &[Target::Maildir]);
        let mut mailbox = Mailbox {
            folder: inbox.clone(),
            ledger: Arc::clone(&ledger),
            journal: journal(folder.path(), "1M7ZX5RDH00.1.SMTANW"),
            read: Vec::new(),
        };
        for (name, id, twice) in [("a", "1M7ZX5RDH00", 0), ("b", "1M7ZX5RDH01", 1)] {
            fs::write(inbox.join("new").join(name), with_trace(id)).unwrap();
            mailbox.look();
            assert_eq!(ledger.counts(Target::Maildir).duplicates_unexplained, twice);
        }
        assert!(inbox.join("cur/a:2,S").exists());
        mailbox.throw_away().unwrap();
        assert!(inbox.join("cur/a:2,S").exists(), "a few are kept");
        let copies = [mailbox.read[0].clone(), mailbox.read[1].clone()];
        let missing = (inbox.join("cur/none"), "1M7ZX5RDH02".to_owned());
        mailbox.read = vec![missing; READ_KEPT];
        mailbox.read.extend(copies);
        mailbox.throw_away().unwrap();
        let left: Vec<bool> = ["a", "b"]
            .map(|name| inbox.join("cur").join(format!("{name}:2,S")).exists())
            .to_vec();
        assert_eq!(left, [false, true], "what the journal does not know stays");
    }
}
