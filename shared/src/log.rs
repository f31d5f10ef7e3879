//! The operational log: `tracing` to standard error, and how text from a peer is shown in it.

use std::fmt;
use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::{Section, Value};

/// What the lines look like.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
    #[default]
    Text,
}

/// The `[log]` table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogConfig {
    /// The least severe level that is logged.
    pub level: LevelFilter,
    /// What the lines look like.
    pub format: Format,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: LevelFilter::INFO,
            format: Format::Text,
        }
    }
}

impl LogConfig {
    /// Reads the table.
    #[must_use]
    pub fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        Self {
            level: section.or("level", default.level, |value| value.word(&LEVELS)),
            format: section.or("format", default.format, |value: Value<'_>| {
                value.word(&FORMATS)
            }),
        }
    }
}

/// Starts the log. `RUST_LOG` overrules the settings; each `-v` lifts the level of our own crates by one.
///
/// A second call changes nothing: tests start the programs' libraries several times in one process.
pub fn start(config: LogConfig, verbosity: u8) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(config.level, verbosity))
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE);
    let _ = match config.format {
        Format::Json => builder.json().flatten_event(true).try_init(),
        Format::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
    };
}

fn filter(level: LevelFilter, verbosity: u8) -> EnvFilter {
    match EnvFilter::try_from_default_env() {
        Ok(filter) => filter,
        // The libraries below are worth a line only when they are in trouble, unless all is asked for.
        Err(_) => {
            let ours = raised(level, verbosity);
            let (others, tls) = if ours == LevelFilter::TRACE {
                (ours, ours)
            } else {
                // rustls warns of what a peer may do as it likes (fetchmail names an address where a host name
                // belongs); what ends a handshake is in the line at the end of the session.
                (ours.min(LevelFilter::WARN), ours.min(LevelFilter::ERROR))
            };
            EnvFilter::new(format!(
                "{others},rustls={tls},atrn_shared={ours},atrn_relay={ours},atrn_puller={ours}"
            ))
        }
    }
}

fn raised(level: LevelFilter, verbosity: u8) -> LevelFilter {
    let position = LEVELS
        .iter()
        .position(|(_, each)| *each == level)
        .unwrap_or_default();
    LEVELS[(position + usize::from(verbosity)).min(LEVELS.len() - 1)].1
}

/// What a library finds wrong can have many lines, and an error is one.
#[must_use]
pub fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}

/// Text from a peer, made fit for a log line or a terminal: cut at [`PEER_CHARACTERS`], control and other
/// deceptive characters escaped, so that no peer can forge a line or steer a terminal.
#[must_use]
pub fn peer<T: AsRef<[u8]> + ?Sized>(text: &T) -> Peer<'_> {
    Peer(text.as_ref())
}

/// Displays text from a peer; see [`peer`].
#[derive(Clone, Copy)]
pub struct Peer<'t>(&'t [u8]);

impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = PEER_CHARACTERS;
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if left == 0 {
                    return f.write_str("…");
                }
                left -= 1;
                write_escaped(f, character)?;
            }
            for byte in chunk.invalid() {
                if left == 0 {
                    return f.write_str("…");
                }
                left -= 1;
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// `char::escape_debug` knows which characters do not show (controls, direction marks, joiners); quotes may stay.
fn write_escaped(f: &mut fmt::Formatter<'_>, character: char) -> fmt::Result {
    use fmt::Write;
    match character {
        '"' | '\'' => f.write_char(character),
        _ => character
            .escape_debug()
            .try_for_each(|each| f.write_char(each)),
    }
}

/// Characters of a peer's text that are shown.
pub const PEER_CHARACTERS: usize = 256;

/// From least to most.
const LEVELS: [(&str, LevelFilter); 5] = [
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];
const FORMATS: [(&str, Format); 2] = [("text", Format::Text), ("json", Format::Json)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_cannot_forge_a_line() {
        for (text, expected) in [
            (&b"plain \"text\" it's"[..], "plain \"text\" it's"),
            (b"a\r\n2026 INFO forged", "a\\r\\n2026 INFO forged"),
            (b"\x1b[2J\x07\0", "\\u{1b}[2J\\u{7}\\0"),
            (b"gr\xc3\xbc\xc3\x9fe \xff\xfe", "grüße \\xff\\xfe"),
            ("\u{202e}live".as_bytes(), "\\u{202e}live"),
            (b"back\\slash", "back\\\\slash"),
        ] {
            assert_eq!(peer(text).to_string(), expected);
        }
    }

    #[test]
    fn a_peers_text_is_cut() {
        let exact = "x".repeat(PEER_CHARACTERS);
        assert_eq!(peer(&exact).to_string(), exact);
        assert_eq!(peer(&format!("{exact}y")).to_string(), format!("{exact}…"));
        assert_eq!(
            peer(&vec![0xff; PEER_CHARACTERS + 1])
                .to_string()
                .chars()
                .last(),
            Some('…')
        );
    }

    #[test]
    fn verbosity_lifts_the_level() {
        for (level, verbosity, expected) in [
            (LevelFilter::INFO, 0, LevelFilter::INFO),
            (LevelFilter::INFO, 1, LevelFilter::DEBUG),
            (LevelFilter::ERROR, 2, LevelFilter::INFO),
            (LevelFilter::INFO, 9, LevelFilter::TRACE),
        ] {
            assert_eq!(raised(level, verbosity), expected);
        }
    }
}
