//! `trace`: the story of a message, from the transaction log.

use std::io;
use std::time::Duration;

use atrn_relay::control::act_as_owner;
use atrn_relay::transaction_log::{Entry, FOUND_MAX, Needle, Told, Trace};
use atrn_shared::cli::{Failure, Output, print};
use atrn_shared::config::reason;
use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::units::{self, shown};
use super::{Call, keep_files_private};

/// Follow a message from connect to settle, by its id, an address, a client's IP address or its Message-ID
///
/// Reads the files of the transaction log, also those before the current one, whether the relay runs or not. The running
/// relay writes its log several times a second. An IP address tells all of its connections.
///
/// Example: atrn-relay trace alice@example.net --since 2h
#[derive(Args, Debug)]
pub(super) struct TraceCommand {
    /// Queue id, delivery id, mail address, IP address or Message-ID.
    #[arg(value_name = "ID|ADDRESS|IP|MESSAGE-ID")]
    needle: Needle,

    /// Only what happened within so long (1d, 12h).
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    since: Option<Duration>,
}

impl TraceCommand {
    pub(super) fn run(self, call: &Call) -> Result<(), Failure> {
        let config = call.config()?;
        let log = &config.transaction_log;
        keep_files_private();
        if config.data_dir.exists() {
            act_as_owner(&config.data_dir).map_err(Trouble::from)?;
        }
        let trace = Trace {
            directory: log.directory(&config.data_dir),
            needle: self.needle,
            since: self.since.and_then(ago),
        };
        let output = call.output;
        let told: Told = trace.run(|entry| match output {
            Output::Json => Ok::<_, Trouble>(print(&json(entry)?)?),
            Output::Table => Ok(print(&line(entry))?),
        })?;
        warn(&told);
        if told.records > 0 {
            return Ok(());
        }
        let directory = trace.directory.display();
        let needle = shown(&trace.needle.to_string(), TEXT_CHARACTERS);
        let why = match (told.files, log.enabled) {
            (0, false) => "there are no files, and [transaction_log] is not enabled",
            (0, true) => "there are no files",
            _ => "nothing of it was found",
        };
        Err(Failure::failed(format!(
            "no trace of {needle} in {directory}: {why}"
        )))
    }
}

/// What goes wrong on the way: a file of the log, or the output.
struct Trouble(Failure);

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self(Failure::failed(format!(
            "cannot read the transaction log: {}",
            reason(&error)
        )))
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl From<Trouble> for Failure {
    fn from(Trouble(failure): Trouble) -> Self {
        failure
    }
}

fn ago(time: Duration) -> Option<Timestamp> {
    let time = SignedDuration::try_from(time).ok()?;
    Timestamp::now().checked_sub(time).ok()
}

fn json(entry: &Entry) -> Result<String, Failure> {
    serde_json::to_string(entry)
        .map_err(|error| Failure::failed(format!("cannot print as JSON: {error}")))
}

/// What the story may lack.
fn warn(told: &Told) {
    if !told.missing.is_empty() {
        let names: Vec<_> = told.missing.iter().copied().collect();
        anstream::eprintln!(
            "Not all can be told: some files have no {}; add what is missing to transaction_log.fields.",
            names.join(", ")
        );
    }
    if told.is_cut {
        anstream::eprintln!(
            "More than {FOUND_MAX} messages or sessions match; --since looks at the later ones."
        );
    }
}

fn line(entry: &Entry) -> String {
    let at = entry.time.strftime("%Y-%m-%d %H:%M:%S%.3f");
    let origin = match entry.session.as_str() {
        "" => shown(&entry.service, ORIGIN_CHARACTERS),
        session => {
            let origin = format!("{} {session}", entry.service);
            shown(&origin, ORIGIN_CHARACTERS)
        }
    };
    format!("{at}  {origin:<14} {}", story(entry))
}

/// One record for people. All that a peer may have said is escaped and cut.
fn story(entry: &Entry) -> String {
    let text = |text: &str| shown(text, TEXT_CHARACTERS);
    let (event, argument) = (text(&entry.event), text(&entry.argument));
    let said = format!("{event} {argument}").trim_end().to_owned();
    match entry.event.as_str() {
        "connect" => format!("connected from {}", peer(entry)),
        "refused" => format!("turned away {}: {}", peer(entry), text(&entry.text)),
        "close" => format!("closed: {}{}", text(&entry.text), taken(entry)),
        "content" => {
            let octets = entry.received.unwrap_or_default();
            let queued = match entry.queue_id.as_str() {
                "" => String::new(),
                id => format!(", queued as {}", text(id)),
            };
            let id = if argument.is_empty() {
                "without Message-ID"
            } else {
                &argument
            };
            format!(
                "content of {octets} octets, {id}{}{queued}{}",
                reply(entry),
                taken(entry)
            )
        }
        "login" => format!("login as {argument}: {}", text(&entry.text)),
        "turned" => format!("turned, for {argument}"),
        _ if !entry
            .event
            .starts_with(|first: char| first.is_ascii_uppercase()) =>
        {
            let of = match entry.delivery_id.as_str() {
                "" => String::new(),
                id => format!(", delivery {}", text(id)),
            };
            format!("{said}{of}{}", reply(entry))
        }
        _ => format!("{said}{}", reply(entry)),
    }
}

fn peer(entry: &Entry) -> String {
    let port = match entry.client_port.as_str() {
        "" => String::new(),
        port => format!(" port {}", shown(port, ORIGIN_CHARACTERS)),
    };
    format!("{}{port}", shown(&entry.client_ip, TEXT_CHARACTERS))
}

fn reply(entry: &Entry) -> String {
    let code = entry.code.map(|code| code.to_string()).unwrap_or_default();
    let parts = [&code, &entry.enhanced, &entry.text];
    let parts: Vec<_> = parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(|part| shown(part, TEXT_CHARACTERS))
        .collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!(" -> {}", parts.join(" "))
    }
}

fn taken(entry: &Entry) -> String {
    match entry.milliseconds {
        Some(milliseconds) if milliseconds > 0 => {
            let taken = Duration::from_millis(milliseconds);
            format!(", after {}", humantime::format_duration(taken))
        }
        _ => String::new(),
    }
}

/// Wider than any column of a table: a trace is read line by line.
const TEXT_CHARACTERS: usize = 200;
const ORIGIN_CHARACTERS: usize = 40;
