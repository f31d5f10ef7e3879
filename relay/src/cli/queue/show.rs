//! `queue show` and `queue cat`.

use std::io::{self, IsTerminal, Write};

use atrn_relay::control::{Client, ClientError, Reply, Request};
use atrn_relay::queue::{Message, MessageDelivery, QueueId, Reference, State};
use atrn_shared::cli::{Failure, size};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use jiff::Timestamp;

use super::unexpected;
use crate::cli::units::{moment, shown, since};
use crate::cli::{Call, client_failure};

/// Show all that is known of a message
///
/// Example: atrn-relay queue show 1JX2M40G0W5
#[derive(Args, Debug)]
pub(in crate::cli) struct Show {
    /// The message's id, as its sender was told, or that of a delivery.
    id: Reference,
}

/// Print the content of a message, byte for byte unless to a terminal
///
/// Content that is not what was accepted is printed all the same, with a warning and exit code 1.
///
/// Example: atrn-relay queue cat 1JX2M40G0W5 > message.eml
#[derive(Args, Debug)]
pub(in crate::cli) struct Cat {
    /// The message's id, as its sender was told, or that of a delivery.
    id: Reference,

    /// Only the header section.
    #[arg(long)]
    headers: bool,
}

impl Show {
    pub(super) fn run(self, call: &Call, client: &mut Client) -> Result<(), Failure> {
        let request = Request::Show {
            id: message(self.id),
        };
        match client.ask_one(&request).map_err(client_failure)? {
            Reply::Message(message) => {
                let now = Timestamp::now();
                call.output
                    .show(&*message, |message| describe(message, now))
            }
            other => Err(unexpected(&other)),
        }
    }
}

fn message(reference: Reference) -> QueueId {
    match reference {
        Reference::Delivery { message, .. } | Reference::Message(message) => message,
    }
}

fn describe(message: &Message, now: Timestamp) -> String {
    let text = |text: &str| shown(text, TEXT_CHARACTERS);
    let received = format!(
        "{} ({} ago)",
        moment(message.received_at),
        since(message.received_at, now)
    );
    let mut lines = vec![
        ("message", message.id.to_string()),
        ("received", received),
        ("from", text(&message.received_from)),
        ("sender", crate::cli::units::sender(&message.sender)),
        ("parameters", text(&message.parameters)),
        (
            "size",
            format!("{} ({} octets)", size(message.size), message.size),
        ),
    ];
    lines.retain(|(_, value)| !value.is_empty());
    if message.needs_smtputf8 {
        lines.push(("needs", "SMTPUTF8".to_owned()));
    } else if message.eight_bit {
        lines.push(("needs", "8BITMIME".to_owned()));
    }
    let mut out: String = lines
        .iter()
        .map(|(key, value)| format!("{key:<14}{value}\n"))
        .collect();
    for delivery in &message.deliveries {
        out += &describe_delivery(delivery, now);
    }
    out
}

fn describe_delivery(delivery: &MessageDelivery, now: Timestamp) -> String {
    let item = &delivery.item;
    let mut lines = vec![
        ("delivery", item.delivery_id.to_string()),
        ("domain", item.domain.to_string()),
        ("state", item.state.to_string()),
        ("attempts", item.attempts.to_string()),
    ];
    if let Some(last) = delivery.last_attempt {
        lines.push((
            "last attempt",
            format!("{} ({} ago)", moment(last), since(last, now)),
        ));
    }
    if let Some(next) = item.next_attempt.filter(|_| item.state == State::Deferred) {
        lines.push((
            "next attempt",
            format!(
                "{} (in {})",
                moment(next),
                crate::cli::units::until(next, now)
            ),
        ));
    }
    if let Some(expires) = item.expires_at {
        lines.push(("expires", moment(expires)));
    }
    for recipient in &delivery.details {
        let mut text = shown(&recipient.recipient, TEXT_CHARACTERS);
        if !recipient.parameters.is_empty() {
            text += &format!(" {}", shown(&recipient.parameters, TEXT_CHARACTERS));
        }
        if let Some(reply) = &recipient.last_reply {
            text += &format!(": {}", shown(reply, TEXT_CHARACTERS));
        }
        if let Some(to) = &recipient.reported_to {
            text += &format!(" (reported to {})", shown(to, TEXT_CHARACTERS));
        }
        lines.push(("recipient", text));
    }
    let lines = lines
        .iter()
        .map(|(key, value)| format!("  {key:<14}{value}\n"));
    format!("\n{}", lines.collect::<String>())
}

/// Why printing ends before the content does.
enum End {
    Client(ClientError),
    Failure(Failure),
    /// All that was asked for is printed, or nobody reads it any more.
    Enough,
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl Cat {
    pub(super) fn run(self, client: &mut Client) -> Result<(), Failure> {
        let request = Request::Cat {
            id: message(self.id),
        };
        let mut out = io::stdout().lock();
        let terminal = out.is_terminal();
        let mut headers = Headers::default();
        let mut warning = None;
        let ended = client.ask(&request, |reply| {
            let text = match reply {
                Reply::Content(text) => text,
                Reply::Warning(text) => {
                    warning = Some(text);
                    return Ok(());
                }
                other => return Err(End::Failure(unexpected(&other))),
            };
            let octets = STANDARD.decode(text);
            let octets =
                octets.map_err(|error| End::Failure(Failure::failed(error.to_string())))?;
            let part = if self.headers {
                headers.take(&octets)
            } else {
                &octets
            };
            let written = if terminal {
                out.write_all(visible(part).as_bytes())
            } else {
                out.write_all(part)
            };
            written.map_err(|error| write_failure(&error))?;
            if part.len() < octets.len() {
                Err(End::Enough)
            } else {
                Ok(())
            }
        });
        match ended {
            Err(End::Client(error)) => return Err(client_failure(error)),
            Err(End::Failure(failure)) => return Err(failure),
            Ok(()) | Err(End::Enough) => {}
        }
        if let Err(End::Failure(failure)) = out.flush().map_err(|error| write_failure(&error)) {
            return Err(failure);
        }
        match warning {
            None => Ok(()),
            Some(warning) => {
                // Nobody is left to tell when this fails.
                let _ = writeln!(io::stderr(), "warning: {warning}");
                Err(Failure::failed(""))
            }
        }
    }
}

fn write_failure(error: &io::Error) -> End {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return End::Enough;
    }
    End::Failure(Failure::failed(format!(
        "cannot write to standard output: {error}"
    )))
}

/// Content for a terminal, which a sender must not be able to steer: control characters are escaped, lines end in LF.
fn visible(octets: &[u8]) -> String {
    let mut out = String::with_capacity(octets.len());
    for character in String::from_utf8_lossy(octets).chars() {
        match character {
            '\n' | '\t' => out.push(character),
            '\r' => {}
            character if character.is_control() => out.extend(character.escape_default()),
            character => out.push(character),
        }
    }
    out
}

/// Finds the end of the header section in content that comes in parts: an empty line.
#[derive(Debug, Default)]
struct Headers {
    /// Octets of `CRLF CRLF` seen; the content may begin with the last two.
    matched: Option<usize>,
}

impl Headers {
    /// The part of the octets that belongs to the header section.
    fn take<'o>(&mut self, octets: &'o [u8]) -> &'o [u8] {
        const END: &[u8; 4] = b"\r\n\r\n";
        let mut matched = self.matched.unwrap_or(2);
        for (index, octet) in octets.iter().enumerate() {
            matched = match *octet {
                octet if octet == END[matched] => matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            if matched == END.len() {
                // The empty line itself is the border.
                return &octets[..(index + 1).saturating_sub(2)];
            }
        }
        self.matched = Some(matched);
        octets
    }
}

const TEXT_CHARACTERS: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_end_at_the_empty_line_however_they_come() {
        for (content, expected) in [
            (
                &b"A: b\r\nC: d\r\n\r\nbody\r\n\r\nmore"[..],
                &b"A: b\r\nC: d\r\n"[..],
            ),
            (b"A: b\r\n", b"A: b\r\n"),
            (b"\r\nbody", b""),
            (b"A: b\r\r\n\r\nx", b"A: b\r\r\n"),
        ] {
            assert_eq!(Headers::default().take(content), expected);
            let mut headers = Headers::default();
            let mut taken = Vec::new();
            for octet in content.chunks(1) {
                let part = headers.take(octet);
                taken.extend_from_slice(part);
                if part.len() < octet.len() {
                    break;
                }
            }
            // Octet by octet the border itself is out before it is known.
            let border = &taken[expected.len()..];
            assert!(
                taken.starts_with(expected) && b"\r\n".starts_with(border),
                "{content:?}"
            );
        }
    }

    #[test]
    fn a_terminal_is_not_steered() {
        assert_eq!(
            visible(b"a\r\n\tb\x1b[2J\x07\xff"),
            "a\n\tb\\u{1b}[2J\\u{7}\u{fffd}"
        );
    }

    #[test]
    fn a_message_with_its_deliveries() {
        let json = serde_json::json!({
            "id": "00000000001", "received_at": "2026-01-01T00:00:00Z", "received_from": "mail.example.net [192.0.2.1]",
            "sender": "", "parameters": "", "size": 5, "eight_bit": true, "needs_smtputf8": false,
            "deliveries": [{
                "id": "00000000001", "delivery_id": "00000000001.1.000001", "domain": "example.com", "state": "deferred",
                "received_at": "2026-01-01T00:00:00Z", "size": 5, "sender": "", "recipients": ["u@example.com"],
                "attempts": 1, "next_attempt": "2026-01-01T00:02:00Z", "expires_at": "2026-01-06T00:00:00Z",
                "last_reply": "450 later", "last_attempt": "2026-01-01T00:00:30Z",
                "details": [
                    {"recipient": "u@example.com", "parameters": "NOTIFY=NEVER", "last_reply": "450 later"},
                    {
                        "recipient": "v@example.com", "parameters": "", "last_reply": "550 no",
                        "reported_to": "postmaster@example.com",
                    },
                ],
            }],
        });
        let message = serde_json::from_value(json).unwrap();
        let expected = "\
message       00000000001
received      2026-01-01 00:00:00 UTC (1m ago)
from          mail.example.net [192.0.2.1]
sender        <>
size          5 B (5 octets)
needs         8BITMIME

  delivery      00000000001.1.000001
  domain        example.com
  state         deferred
  attempts      1
  last attempt  2026-01-01 00:00:30 UTC (30s ago)
  next attempt  2026-01-01 00:02:00 UTC (in 1m)
  expires       2026-01-06 00:00:00 UTC
  recipient     u@example.com NOTIFY=NEVER: 450 later
  recipient     v@example.com: 550 no (reported to postmaster@example.com)
";
        assert_eq!(
            describe(&message, "2026-01-01T00:01:00Z".parse().unwrap()),
            expected
        );
    }
}
