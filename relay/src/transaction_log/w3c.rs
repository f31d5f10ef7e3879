//! W3C Extended Log File Format: fields separated by blanks, and directives that say which they are.
//!
//! What a peer said can end no field and begin no directive: it is percent-encoded. `-` stands for what is not known, so
//! that a text of one hyphen is encoded too.

use jiff::Timestamp;

use super::event::{Record, Subject};
use super::fields::Field;
use super::text::{
    self, W3C_PLAIN, clock, date, encoded, hexadecimal, milliseconds, number, shown, utc,
};

/// What begins a file, and stands again where its fields change or the writer began anew.
#[must_use]
pub fn header(fields: &[Field], at: Timestamp) -> Vec<u8> {
    let at = utc(at);
    let mut output = Vec::new();
    output.extend_from_slice(b"#Version: 1.0\n#Software: atrn-relay ");
    output.extend_from_slice(env!("CARGO_PKG_VERSION").as_bytes());
    for directive in ["\n#Start-Date: ", "\n#Date: "] {
        output.extend_from_slice(directive.as_bytes());
        date(&at, &mut output);
        output.push(b' ');
        clock(&at, &mut output);
    }
    output.extend_from_slice(b"\n#Fields:");
    for field in fields {
        output.push(b' ');
        output.extend_from_slice(field.name().as_bytes());
    }
    output.push(b'\n');
    output
}

/// One line, with its end.
pub fn line(fields: &[Field], record: &Record<'_>, output: &mut Vec<u8>) {
    let at = utc(record.at);
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            output.push(b' ');
        }
        let start = output.len();
        match field {
            Field::Date => date(&at, output),
            Field::Time => {
                clock(&at, output);
                milliseconds(&at, output);
            }
            other => value(*other, record, output),
        }
        if output.len() == start {
            output.push(b'-');
        } else if output[start..] == *b"-" {
            output.truncate(start);
            output.extend_from_slice(b"%2D");
        }
    }
    output.push(b'\n');
}

/// The value of a field other than the time; nothing where it is not known.
fn value(field: Field, record: &Record<'_>, output: &mut Vec<u8>) {
    let Record { origin, event, .. } = record;
    match field {
        Field::Date | Field::Time => {}
        Field::ClientIp => {
            if let Some(address) = text::host(origin.client) {
                text::ip(address, output);
            }
        }
        Field::ClientPort => {
            if let Some(client) = origin.client {
                number(client.port().into(), output);
            }
        }
        Field::ServerIp => {
            if let Some(address) = text::host(origin.server) {
                text::ip(address, output);
            }
        }
        Field::ServerPort => {
            if let Some(server) = origin.server {
                number(server.port().into(), output);
            }
        }
        Field::ComputerName => encoded(record.hostname, &W3C_PLAIN, output),
        Field::SiteName => output.extend_from_slice(origin.service.name().as_bytes()),
        Field::Username => encoded(origin.username(), &W3C_PLAIN, output),
        Field::Method => output.extend_from_slice(event.method.as_bytes()),
        Field::UriStem => subject(event.subject, output),
        Field::UriQuery => encoded(event.argument, &W3C_PLAIN, output),
        Field::Status => {
            if let Some(code) = event.code {
                number(code.into(), output);
            }
        }
        Field::Substatus => {
            if let Some(enhanced) = event.enhanced {
                shown(enhanced, output);
            }
        }
        Field::SentBytes => number(event.sent, output),
        Field::ReceivedBytes => number(event.received, output),
        Field::TimeTaken => number(event.milliseconds(), output),
        Field::Version => output.extend_from_slice(origin.service.protocol().as_bytes()),
        Field::Host => encoded(&origin.hello, &W3C_PLAIN, output),
        Field::Session => {
            if let Some(session) = origin.session {
                hexadecimal(session.0, output);
            }
        }
        Field::Transaction => {
            if origin.session.is_some() {
                number(origin.transaction.into(), output);
            }
        }
        Field::QueueId => {
            if let Some(id) = event.subject.queue_id() {
                shown(id, output);
            }
        }
        Field::DeliveryId => {
            if let Subject::Delivery(id) = event.subject {
                shown(id, output);
            }
        }
        Field::Account => encoded(&origin.account, &W3C_PLAIN, output),
        Field::Text => encoded(&event.text, &W3C_PLAIN, output),
    }
}

/// What the record is about.
pub(super) fn subject(subject: Subject, output: &mut Vec<u8>) {
    match subject {
        Subject::Delivery(id) => shown(id, output),
        Subject::Message(id) => shown(id, output),
        Subject::None => {}
    }
}
