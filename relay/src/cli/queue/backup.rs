//! `queue backup`, `queue restore` and `queue salvage`.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};

use atrn_relay::control::{Client, ClientError, Reply, Request, act_as_owner};
use atrn_relay::queue::backup::{
    BackupError, Manifest, Passing, Phase, Progress, prepare as prepare_directory, restore,
};
use atrn_relay::queue::salvage::{Salvaged, salvage};
use atrn_shared::cli::{Failure, size};
use clap::Args;

use super::unexpected;
use crate::cli::units::counted;
use crate::cli::{Call, client_failure, keep_files_private};

/// Copy the queue as it is now, while the relay runs or not
///
/// The directory must be empty or not exist yet, and the relay's user must be able to write there. On the same file
/// system content files are linked, not copied. The file backup.json in it is written last: a directory without it
/// holds no backup.
///
/// Example: atrn-relay queue backup /var/backups/atrn-relay/monday
#[derive(Args, Debug)]
pub(in crate::cli) struct Backup {
    /// Where the backup goes.
    #[arg(value_name = "DIR")]
    to: PathBuf,
}

/// Bring a backup back, into an empty queue of a relay that is stopped
///
/// The backup is checked first and stays as it is. What was pulled since it was made is offered again, and the
/// pullers' journals answer that they have it.
///
/// Example: atrn-relay queue restore /var/backups/atrn-relay/monday
#[derive(Args, Debug)]
pub(in crate::cli) struct Restore {
    /// The directory of the backup.
    #[arg(value_name = "DIR")]
    from: PathBuf,
}

/// Copy what can still be read of a damaged queue
///
/// The damaged files are not changed. What comes out is a backup, for `queue restore`; salvage.txt in it says what
/// could not be read, and unread/ has the content of that, as far as there is any.
///
/// Example: atrn-relay queue salvage --to /var/backups/atrn-relay/salvaged
#[derive(Args, Debug)]
pub(in crate::cli) struct Salvage {
    /// Where it goes: a directory that is empty or does not exist yet.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,

    /// The directory of the damaged queue (default: data_dir of the configuration).
    #[arg(long, value_name = "DATA_DIR")]
    from: Option<PathBuf>,
}

impl Backup {
    pub(super) fn run(self, call: &Call, client: &mut Client) -> Result<(), Failure> {
        let to = std::path::absolute(&self.to)
            .map_err(|error| Failure::failed(format!("{}: {error}", self.to.display())))?;
        let mut bar = Bar::default();
        let made = match client.is_daemon() {
            false => ask(client, to, &mut bar),
            true => through(&call.config()?.data_dir, client, &to, &mut bar),
        };
        bar.clear();
        call.output.show(&made?, |manifest| {
            format!("Backed up {} to {}.", amount(manifest), self.to.display())
        })
    }
}

/// The running relay writes in its own directory only: it makes the backup there, and we carry it on.
fn through(
    data_dir: &Path,
    client: &mut Client,
    to: &Path,
    bar: &mut Bar,
) -> Result<Manifest, Failure> {
    let failed = |error| Failure::failed(format!("{}: {error}", data_dir.display()));
    // The relay's idea of where it stands may differ from ours.
    let data_dir = std::path::absolute(data_dir).map_err(failed)?;
    act_as_owner(&data_dir).map_err(failed)?;
    prepare_directory(to).map_err(failure)?;
    let passing = Passing::through(&data_dir);
    ask(client, passing.directory().to_owned(), bar)?;
    passing
        .carry(to, &mut |progress| bar.goes_on(progress))
        .map_err(failure)
}

fn ask(client: &mut Client, to: PathBuf, bar: &mut Bar) -> Result<Manifest, Failure> {
    let mut made = None;
    let asked = client.ask(&Request::Backup { to }, |reply| {
        match reply {
            Reply::Progress(progress) => bar.show(progress),
            other => made = Some(other),
        }
        Ok::<_, ClientError>(())
    });
    asked.map_err(client_failure)?;
    match made {
        Some(Reply::BackedUp(manifest)) => Ok(manifest),
        Some(other) => Err(unexpected(&other)),
        None => Err(Failure::failed("the relay broke off its answer")),
    }
}

impl Restore {
    pub(super) fn run(self, call: &Call) -> Result<(), Failure> {
        let data_dir = call.config()?.data_dir;
        prepare(&data_dir)?;
        let mut bar = Bar::default();
        let restored = restore(&data_dir, &self.from, &mut |progress| bar.goes_on(progress));
        bar.clear();
        let restored = restored.map_err(failure)?;
        for damaged in &restored.damaged {
            // Nobody is left to tell when this fails.
            let _ = writeln!(
                std::io::stderr(),
                "warning: {}: {}",
                damaged.id,
                damaged.reason
            );
        }
        call.output.show(&restored, |restored| {
            format!(
                "Restored {} to {}.",
                amount(&restored.manifest),
                data_dir.display()
            )
        })
    }
}

impl Salvage {
    pub(super) fn run(self, call: &Call) -> Result<(), Failure> {
        let data_dir = match self.from {
            Some(from) => from,
            None => call.config()?.data_dir,
        };
        prepare(&data_dir)?;
        let mut bar = Bar::default();
        let salvaged = salvage(&data_dir, &self.to, &mut |progress| bar.goes_on(progress));
        bar.clear();
        let salvaged = salvaged.map_err(failure)?;
        call.output.show(&salvaged, |salvaged| {
            describe(salvaged, &data_dir, &self.to)
        })
    }
}

/// No relay may be running; and what is written belongs to its user.
fn prepare(data_dir: &Path) -> Result<(), Failure> {
    keep_files_private();
    if Client::daemon(data_dir).map_err(client_failure)?.is_some() {
        let text = format!(
            "a relay is running on {}; stop it first",
            data_dir.display()
        );
        return Err(Failure::failed(text));
    }
    if !data_dir.exists() {
        return Ok(());
    }
    act_as_owner(data_dir)
        .map_err(|error| Failure::failed(format!("{}: {error}", data_dir.display())))
}

fn failure(error: BackupError) -> Failure {
    Failure::failed(error.to_string().replace('\n', " "))
}

fn amount(manifest: &Manifest) -> String {
    let messages = counted(manifest.messages, "message", "messages");
    let deliveries = counted(manifest.deliveries, "delivery", "deliveries");
    let files = counted(manifest.files, "content file", "content files");
    format!(
        "{messages} with {deliveries} and {files} ({})",
        size(manifest.file_octets)
    )
}

/// Names of lost messages that are shown at once; the file has all.
const LOST_SHOWN: usize = 20;

fn describe(salvaged: &Salvaged, data_dir: &Path, to: &Path) -> String {
    let mut text = format!(
        "Salvaged {} to {}.\n",
        amount(&salvaged.manifest),
        to.display()
    );
    for note in &salvaged.notes {
        let _ = writeln!(text, "Note: {note}.");
    }
    for lost in salvaged.unreadable.iter().take(LOST_SHOWN) {
        let _ = writeln!(text, "Not read: {lost}");
    }
    if let Some(more) = salvaged.unreadable.len().checked_sub(LOST_SHOWN + 1) {
        let _ = writeln!(
            text,
            "… and {} more, in {}",
            more + 1,
            to.join("salvage.txt").display()
        );
    }
    let _ = write!(
        text,
        "Next: move queue.db, queue.db-wal and spool/ out of {} and keep them, then `atrn-relay queue restore {}`",
        data_dir.display(),
        to.display()
    );
    text
}

/// One line on a terminal that says how far it is.
#[derive(Debug, Default)]
struct Bar {
    shown: String,
}

impl Bar {
    fn goes_on(&mut self, progress: Progress) -> bool {
        self.show(progress);
        true
    }

    fn show(&mut self, progress: Progress) {
        let line = line(progress);
        if line != self.shown && std::io::stderr().is_terminal() {
            // Nobody is left to tell when this fails.
            let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
        }
        self.shown = line;
    }

    fn clear(&self) {
        if !self.shown.is_empty() && std::io::stderr().is_terminal() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(progress: Progress) -> String {
    let Progress { phase, done, total } = progress;
    let what = match phase {
        Phase::Check => return "checking the copy".to_owned(),
        Phase::Database => "database",
        Phase::Files => "content files",
        Phase::Messages => "messages",
    };
    let percent = match total {
        0 => 100,
        total => u128::from(done) * 100 / u128::from(total),
    };
    format!("{what} {percent} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is() {
        for (phase, done, total, expected) in [
            (Phase::Database, 0, 0, "database 100 %"),
            (Phase::Database, 1, 3, "database 33 %"),
            (Phase::Files, u64::MAX, u64::MAX, "content files 100 %"),
            (Phase::Messages, 0, 9, "messages 0 %"),
            (Phase::Check, 0, 1, "checking the copy"),
        ] {
            assert_eq!(line(Progress { phase, done, total }), expected);
        }
    }
}
