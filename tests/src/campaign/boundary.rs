//! The places where a program can die between two steps of a promise: a system call each, and the
//! two moments right before and right after it.
//!
//! The list was made by looking at what the programs really call (`strace -f -y`). A boundary that
//! no longer exists is never hit, and the campaign fails.

use std::fmt;
use std::path::Path;

use super::tracer::Call;

/// A step on the way of a message that the kernel takes for a program.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Boundary {
    /// A content file is made in the spool directory.
    SpoolCreate,
    /// Content is written to it.
    SpoolWrite,
    /// It is synced.
    SpoolSync,
    /// The directory that names it is synced.
    SpoolDirectorySync,
    /// Accepted messages are written to the queue's log.
    AcceptWrite,
    /// That log is synced: the commit.
    AcceptSync,
    /// The sender's `250`.
    AcceptReply,
    /// Settled deliveries are written to the queue's log.
    SettleWrite,
    /// That log is synced.
    SettleSync,
    /// The content file of a message without deliveries is removed.
    SettleRemove,
    /// The queue's log is written into its database.
    QueueCheckpointWrite,
    /// The queue's database is synced.
    QueueCheckpointSync,
    /// Delivery ids are written to the journal's log.
    JournalWrite,
    /// That log is synced: the commit.
    JournalSync,
    /// The journal's log is written into its database.
    JournalCheckpointWrite,
    /// The journal's database is synced.
    JournalCheckpointSync,
    /// The puller's `250` to the relay.
    PullerReply,
    /// A file is made in the Maildir's `tmp/`.
    MaildirCreate,
    /// Content is written to it.
    MaildirWrite,
    /// It is synced.
    MaildirSync,
    /// It is moved to `new/`.
    MaildirRename,
    /// `new/` is synced.
    MaildirDirectorySync,
}

/// On which side of the call the program dies.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Side {
    /// The kernel has done it, the program does not know.
    After,
    /// The program is about to; the kernel never does it.
    Before,
}

/// Who dies there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// The puller with the Maildir.
    MaildirPuller,
    /// Either puller.
    Puller,
    /// The relay.
    Relay,
    /// The puller with the SMTP target, whose connections to the relay are in the clear.
    SmtpPuller,
}

/// What must go on, and what must not, for a call to belong to its boundary: one commit carries
/// whatever waits for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Traffic {
    /// Mail comes in, and nobody pulls.
    Accepts,
    /// Both ways.
    Both,
    /// What is there is pulled, and nothing comes in.
    Settlements,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Before, Self::After];
}

impl Boundary {
    /// All, in the order of a message's way.
    pub const ALL: [Self; 22] = [
        Self::SpoolCreate,
        Self::SpoolWrite,
        Self::SpoolSync,
        Self::SpoolDirectorySync,
        Self::AcceptWrite,
        Self::AcceptSync,
        Self::AcceptReply,
        Self::SettleWrite,
        Self::SettleSync,
        Self::SettleRemove,
        Self::QueueCheckpointWrite,
        Self::QueueCheckpointSync,
        Self::JournalWrite,
        Self::JournalSync,
        Self::JournalCheckpointWrite,
        Self::JournalCheckpointSync,
        Self::PullerReply,
        Self::MaildirCreate,
        Self::MaildirWrite,
        Self::MaildirSync,
        Self::MaildirRename,
        Self::MaildirDirectorySync,
    ];

    /// As the table and the tracer's command line have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SpoolCreate => "accept: create spool file",
            Self::SpoolWrite => "accept: write spool file",
            Self::SpoolSync => "accept: sync spool file",
            Self::SpoolDirectorySync => "accept: sync spool directory",
            Self::AcceptWrite => "accept: write queue log",
            Self::AcceptSync => "accept: sync queue log",
            Self::AcceptReply => "accept: 250 to the sender",
            Self::SettleWrite => "settle: write queue log",
            Self::SettleSync => "settle: sync queue log",
            Self::SettleRemove => "settle: remove spool file",
            Self::QueueCheckpointWrite => "queue: write database",
            Self::QueueCheckpointSync => "queue: sync database",
            Self::JournalWrite => "journal: write log",
            Self::JournalSync => "journal: sync log",
            Self::JournalCheckpointWrite => "journal: write database",
            Self::JournalCheckpointSync => "journal: sync database",
            Self::PullerReply => "journal: 250 to the relay",
            Self::MaildirCreate => "maildir: create in tmp",
            Self::MaildirWrite => "maildir: write",
            Self::MaildirSync => "maildir: sync",
            Self::MaildirRename => "maildir: move to new",
            Self::MaildirDirectorySync => "maildir: sync directory",
        }
    }

    /// By its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|boundary| boundary.name() == name)
    }

    /// Who is killed there.
    #[must_use]
    pub fn place(self) -> Place {
        match self {
            Self::SpoolCreate
            | Self::SpoolWrite
            | Self::SpoolSync
            | Self::SpoolDirectorySync
            | Self::AcceptWrite
            | Self::AcceptSync
            | Self::AcceptReply
            | Self::SettleWrite
            | Self::SettleSync
            | Self::SettleRemove
            | Self::QueueCheckpointWrite
            | Self::QueueCheckpointSync => Place::Relay,
            Self::JournalWrite
            | Self::JournalSync
            | Self::JournalCheckpointWrite
            | Self::JournalCheckpointSync => Place::Puller,
            Self::PullerReply => Place::SmtpPuller,
            Self::MaildirCreate
            | Self::MaildirWrite
            | Self::MaildirSync
            | Self::MaildirRename
            | Self::MaildirDirectorySync => Place::MaildirPuller,
        }
    }

    /// What must be going on.
    #[must_use]
    pub fn traffic(self) -> Traffic {
        match self {
            Self::AcceptWrite | Self::AcceptSync => Traffic::Accepts,
            Self::SettleWrite | Self::SettleSync | Self::SettleRemove => Traffic::Settlements,
            _ => Traffic::Both,
        }
    }

    /// Whether a program that is told to stop surely takes this step, and others only after a thousand commits.
    #[must_use]
    pub fn comes_at_the_end(self) -> bool {
        matches!(
            self,
            Self::JournalCheckpointWrite | Self::JournalCheckpointSync
        )
    }

    /// How many such calls may pass before the deadly one: one step of a promise can be many calls.
    #[must_use]
    pub fn passed_max(self) -> u32 {
        match self {
            Self::AcceptWrite | Self::SettleWrite | Self::JournalWrite => 40,
            Self::QueueCheckpointWrite => 20,
            Self::JournalCheckpointWrite => 3,
            Self::QueueCheckpointSync | Self::JournalCheckpointSync => 0,
            _ => 5,
        }
    }

    /// How many calls must pass because they may still belong to what went on before.
    #[must_use]
    pub fn passed_min(self) -> u32 {
        match self {
            // Settlements whose `250` was on its way to the relay when the pullers were stopped: windows of several
            // sessions, and a few commits take them all.
            Self::AcceptWrite => 60,
            Self::AcceptSync => 5,
            _ => 0,
        }
    }

    /// Whether a system call is this step.
    #[must_use]
    pub fn is(self, call: &Call) -> bool {
        match (self, call) {
            (Self::SpoolCreate, Call::Create(path))
            | (Self::SpoolWrite, Call::Write(path))
            | (Self::SpoolSync, Call::Sync(path))
            | (Self::SettleRemove, Call::Remove(path)) => is_below(path, "spool", 2),
            (Self::SpoolDirectorySync, Call::Sync(path)) => is_below(path, "spool", 1),
            (Self::AcceptWrite | Self::SettleWrite, Call::Write(path))
            | (Self::AcceptSync | Self::SettleSync, Call::Sync(path)) => path.ends_with(QUEUE_LOG),
            (Self::QueueCheckpointWrite, Call::Write(path))
            | (Self::QueueCheckpointSync, Call::Sync(path)) => path.ends_with(QUEUE),
            (Self::JournalWrite, Call::Write(path)) | (Self::JournalSync, Call::Sync(path)) => {
                path.ends_with(JOURNAL_LOG)
            }
            (Self::JournalCheckpointWrite, Call::Write(path))
            | (Self::JournalCheckpointSync, Call::Sync(path)) => path.ends_with(JOURNAL),
            (Self::MaildirCreate, Call::Create(path))
            | (Self::MaildirWrite, Call::Write(path))
            | (Self::MaildirSync, Call::Sync(path)) => is_below(path, "tmp", 1),
            (Self::MaildirRename, Call::Name(path)) => is_below(path, "new", 1),
            (Self::MaildirDirectorySync, Call::Sync(path)) => path.ends_with("new"),
            (Self::AcceptReply, Call::Send(octets)) => is_acceptance(octets),
            (Self::PullerReply, Call::Send(octets)) => contains(octets, HANDED_OVER),
            _ => false,
        }
    }
}

const QUEUE: &str = "queue.db";
const QUEUE_LOG: &str = "queue.db-wal";
const JOURNAL: &str = "journal.db";
const JOURNAL_LOG: &str = "journal.db-wal";
const HANDED_OVER: &[u8] = b"250 2.0.0 Message handed over\r\n";
const QUEUE_ID_OCTETS: usize = 11;

/// Whether a path goes so many levels below a folder of this name.
fn is_below(path: &Path, folder: &str, levels: usize) -> bool {
    path.ancestors()
        .nth(levels)
        .is_some_and(|above| above.ends_with(folder))
}

/// `250 2.0.0 <queue id>` and nothing else: no other reply of the relay is like that.
fn is_acceptance(octets: &[u8]) -> bool {
    let id = octets
        .strip_prefix(b"250 2.0.0 ")
        .and_then(|rest| rest.strip_suffix(b"\r\n"));
    id.is_some_and(|id| id.len() == QUEUE_ID_OCTETS && id.iter().all(u8::is_ascii_alphanumeric))
}

fn contains(octets: &[u8], part: &[u8]) -> bool {
    octets.windows(part.len()).any(|window| window == part)
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::After => "after",
            Self::Before => "before",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(call: &Call) -> Vec<Boundary> {
        let all = Boundary::ALL.into_iter();
        all.filter(|boundary| boundary.is(call)).collect()
    }

    #[test]
    fn each_call_belongs_to_the_steps_that_it_is() {
        use Boundary as B;
        use Call::{Create, Name, Remove, Send, Sync, Write};

        let table = [
            (
                Create("/d/spool/31/1M7ZX5RDH00".into()),
                vec![B::SpoolCreate],
            ),
            (Write("/d/spool/31/1M7ZX5RDH00".into()), vec![B::SpoolWrite]),
            (Sync("/d/spool/31/1M7ZX5RDH00".into()), vec![B::SpoolSync]),
            (Sync("/d/spool/31".into()), vec![B::SpoolDirectorySync]),
            (Sync("/d/spool".into()), vec![]),
            (
                Remove("/d/spool/31/1M7ZX5RDH00".into()),
                vec![B::SettleRemove],
            ),
            (
                Write("/d/queue.db-wal".into()),
                vec![B::AcceptWrite, B::SettleWrite],
            ),
            (Sync("/d/queue.db".into()), vec![B::QueueCheckpointSync]),
            (Write("/d/queue.db-shm".into()), vec![]),
            (Write("/p/journal.db-wal".into()), vec![B::JournalWrite]),
            (Sync("/p/journal.db".into()), vec![B::JournalCheckpointSync]),
            (Create("/box/tmp/1.a".into()), vec![B::MaildirCreate]),
            (Create("/p/status/.probe".into()), vec![]),
            (Name("/box/new/1.a".into()), vec![B::MaildirRename]),
            (Name("/p/status/mx1.json".into()), vec![]),
            (Sync("/box/new".into()), vec![B::MaildirDirectorySync]),
            (
                Send(b"250 2.0.0 1M7ZX5RDH00\r\n".to_vec()),
                vec![B::AcceptReply],
            ),
            (Send(b"250 2.0.0 OK\r\n".to_vec()), vec![]),
            (
                Send(b"250 2.1.5 Recipient ok\r\n250 2.0.0 Message handed over\r\n".to_vec()),
                vec![B::PullerReply],
            ),
        ];
        for (call, expected) in table {
            assert_eq!(is(&call), expected, "{call:?}");
        }
    }

    #[test]
    fn names_lead_back_to_their_boundaries() {
        for boundary in Boundary::ALL {
            assert_eq!(Boundary::named(boundary.name()), Some(boundary));
        }
    }
}
