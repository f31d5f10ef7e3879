//! Dialogues from files, in the notation of the RFCs: `P:` is what the provider (the relay) says,
//! `C:` what the customer (the puller, or on the edge the sending client) says, on through the
//! reversal. One file serves several times: against both machines in memory, against the real
//! relay with the script as puller, and against the real puller with the script as relay; whole,
//! and octet by octet.
//!
//! ```text
//! # A domain that is not the account's refuses the whole command (RFC 2645 §5.2.1).
//! # covers: R2645-9
//! @ mail plain example.org
//! C: ATRN example.org,not-mine.example
//! P: 450 4.7.1 …
//! --- reversed
//! C: 220 puller.example.org …
//! ```
//!
//! * `…` stands for any text; `{name}` for a word that must be the same each time.
//! * `{plain}` and `{cram-md5}` are computed from the account and `{challenge}`.
//! * `{ehlo ATRN | AUTH PLAIN | !STARTTLS}` is an EHLO reply with and without keywords.
//! * `{received}` is a whole trace field; `{message 1}` the content of the first `@ mail`.
//! * `{end}` ends the connection. `\r \n \0 \t \\ \xNN` are octets; `{no-crlf}` at the end of a
//!   line leaves out its CRLF. Lines of one party in a row leave in one segment.
//! * `--- tls` is a handshake, `--- reversed` the reversal.
//!
//! The directives are documented at [`Directive`].

mod against_puller;
mod against_relay;
mod memory;
mod parse;
mod pattern;
mod play;

use std::path::{Path, PathBuf};

pub use against_puller::play_against_puller;
pub use against_relay::play_against_relay;
pub use memory::{
    is_possible as is_possible_in_memory, play_against_customer, play_against_provider,
    play_against_server, play_pair,
};
pub use parse::{Directive, Kind, Line, Party, Step};

use crate::peer::Pace;

/// A dialogue, read from its file.
#[derive(Clone, Debug)]
pub struct Transcript {
    /// The file's name, for messages.
    pub name: String,
    /// What it is about.
    pub room: Room,
    /// The requirements that it covers.
    pub covers: Vec<String>,
    /// Its set-up.
    pub directives: Vec<Directive>,
    /// Its lines.
    pub steps: Vec<Step>,
}

/// The folder that a transcript is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// A client of the Internet and the relay.
    Edge,
    /// A puller and the relay, from the greeting on.
    Odmr,
    /// The same, from the reversal on.
    Reversed,
}

/// Who is real in a run; the script is the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// The puller.
    Puller,
    /// The relay.
    Relay,
}

impl Transcript {
    /// Reads all transcripts of a room.
    ///
    /// # Panics
    /// When one cannot be read, or there is none.
    #[must_use]
    pub fn all(room: Room) -> Vec<Self> {
        let folder = folder().join(room.folder());
        let entries = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.expect("a directory entry").path())
            .collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
        paths.sort();
        assert!(!paths.is_empty(), "{}: no transcript", folder.display());
        paths.iter().map(|path| Self::read(path, room)).collect()
    }

    fn read(path: &Path, room: Room) -> Self {
        let text = std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        parse::parse(&format!("{}/{name}", room.folder()), room, &text)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Whether it is meant to be played against this party.
    #[must_use]
    pub fn is_against(&self, who: Against) -> bool {
        self.directives.iter().all(|directive| match directive {
            Directive::Against(only) => *only == who,
            Directive::PairOnly => false,
            _ => true,
        })
    }

    /// Whether both machines say just these lines when they talk with each other.
    #[must_use]
    pub fn is_pair(&self) -> bool {
        let pairs = [Directive::Pair, Directive::PairOnly];
        self.directives
            .iter()
            .any(|directive| pairs.contains(directive))
    }

    /// In which portions it may be sent.
    #[must_use]
    pub fn paces(&self) -> &'static [Pace] {
        // A segment that holds too much is a matter of segments.
        let whole = self.directives.contains(&Directive::Whole);
        if whole {
            &[Pace::Whole]
        } else {
            &[Pace::Whole, Pace::Octets]
        }
    }
}

impl Room {
    fn folder(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Odmr => "odmr",
            Self::Reversed => "reversed",
        }
    }
}

/// Where the transcripts are.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts")
}

/// Plays many at once, and fails with the names of all that failed.
///
/// # Panics
/// When one of them fails, or none was played.
pub fn play_all(
    transcripts: &[Transcript],
    chosen: impl Fn(&Transcript) -> bool,
    play: impl Fn(&Transcript, Pace) + Sync,
) {
    // A run of one transcript: ATRN_TRANSCRIPT=odmr/two-domains cargo test …
    let only = std::env::var("ATRN_TRANSCRIPT").unwrap_or_default();
    let chosen: Vec<&Transcript> = transcripts
        .iter()
        .filter(|transcript| chosen(transcript) && transcript.name.contains(&only))
        .collect();
    assert!(
        !chosen.is_empty() || !only.is_empty(),
        "no transcript to play"
    );
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failed = std::sync::Mutex::new(Vec::new());
    // Most of a run is waiting for programs to start.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(transcript) = chosen.get(number) else {
                        return;
                    };
                    for &pace in transcript.paces() {
                        let run = std::panic::AssertUnwindSafe(|| play(transcript, pace));
                        if std::panic::catch_unwind(run).is_err() {
                            let name = format!("{} ({pace:?})", transcript.name);
                            failed.lock().expect("no panic holds it").push(name);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic holds it");
    assert!(
        failed.is_empty(),
        "transcripts that failed: {}",
        failed.join(", ")
    );
}
