//! JSON: one object a line, its keys those of the operational log where they name the same thing.
//!
//! What is not known is left out. Characters that control, or that do not show, are escaped.

use std::fmt::Display;
use std::net::SocketAddr;

use super::event::{Record, Subject};
use super::fields::Field;
use super::text::{CUT, clock, cut, date, ip, milliseconds, number, shown, utc};
use super::w3c::subject;

/// One line, with its end.
pub fn line(fields: &[Field], record: &Record<'_>, output: &mut Vec<u8>) {
    let mut object = Object {
        is_empty: true,
        output,
    };
    object.output.push(b'{');
    for field in fields {
        member(&mut object, fields, *field, record);
    }
    output.extend_from_slice(b"}\n");
}

#[allow(clippy::too_many_lines, reason = "a flat match, one arm a field")]
fn member(object: &mut Object<'_>, fields: &[Field], field: Field, record: &Record<'_>) {
    let Record { origin, event, .. } = record;
    let key = field.key();
    match field {
        // One member, wherever the first of the two stands.
        Field::Time if fields.contains(&Field::Date) => {}
        Field::Date | Field::Time => object.quoted(key, |output| {
            let at = utc(record.at);
            date(&at, output);
            output.push(b'T');
            clock(&at, output);
            milliseconds(&at, output);
            output.push(b'Z');
        }),
        Field::ClientIp => object.host(key, origin.client),
        Field::ServerIp => object.host(key, origin.server),
        Field::ClientPort => object.number(key, origin.client.map(|end| end.port().into())),
        Field::ServerPort => object.number(key, origin.server.map(|end| end.port().into())),
        Field::ComputerName => object.text(key, record.hostname),
        Field::SiteName => object.text(key, origin.service.name()),
        Field::Username => object.text(key, origin.username()),
        Field::Method => object.text(key, event.method),
        Field::UriStem if event.subject == Subject::None => {}
        Field::UriStem => object.quoted(key, |output| subject(event.subject, output)),
        Field::UriQuery => object.text(key, event.argument),
        Field::Status => object.number(key, event.code.map(u64::from)),
        Field::Substatus => object.shown(key, event.enhanced),
        Field::SentBytes => object.number(key, Some(event.sent)),
        Field::ReceivedBytes => object.number(key, Some(event.received)),
        Field::TimeTaken => object.number(key, Some(event.milliseconds())),
        Field::Version => object.text(key, origin.service.protocol()),
        Field::Host => object.text(key, &origin.hello),
        Field::Session => object.shown(key, origin.session),
        Field::Transaction => {
            let number = origin.session.map(|_| u64::from(origin.transaction));
            object.number(key, number);
        }
        Field::QueueId => object.shown(key, event.subject.queue_id()),
        Field::DeliveryId => object.shown(key, event.subject.delivery_id()),
        Field::Account => object.text(key, &origin.account),
        Field::Text => object.text(key, &event.text),
    }
}

struct Object<'o> {
    is_empty: bool,
    output: &'o mut Vec<u8>,
}

impl Object<'_> {
    fn key(&mut self, key: &str) {
        if !std::mem::replace(&mut self.is_empty, false) {
            self.output.push(b',');
        }
        self.output.push(b'"');
        self.output.extend_from_slice(key.as_bytes());
        self.output.extend_from_slice(b"\":");
    }

    fn number(&mut self, key: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.key(key);
            number(value, self.output);
        }
    }

    fn host(&mut self, key: &str, end: Option<SocketAddr>) {
        if let Some(end) = end {
            self.quoted(key, |output| ip(end.ip(), output));
        }
    }

    /// Something of ours that prints itself.
    fn shown(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.quoted(key, |output| shown(value, output));
        }
    }

    /// Something of ours, that needs no escape.
    fn quoted(&mut self, key: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.key(key);
        self.output.push(b'"');
        write(self.output);
        self.output.push(b'"');
    }

    /// A peer's text; nothing where there is none.
    fn text(&mut self, key: &str, text: &str) {
        if text.is_empty() {
            return;
        }
        let (text, is_whole) = cut(text);
        self.quoted(key, |output| {
            escaped(text, output);
            if !is_whole {
                output.extend_from_slice(CUT.as_bytes());
            }
        });
    }
}

fn escaped(text: &str, output: &mut Vec<u8>) {
    let is_plain = |octet: u8| matches!(octet, 0x20..0x7f) && octet != b'"' && octet != b'\\';
    if text.bytes().all(is_plain) {
        return output.extend_from_slice(text.as_bytes());
    }
    for character in text.chars() {
        match character {
            '"' | '\\' => output.extend_from_slice(&[b'\\', character as u8]),
            ' '..='~' => output.push(character as u8),
            _ if shows(character) => {
                let mut buffer = [0; 4];
                output.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
            }
            _ => {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    shown(format_args!("\\u{unit:04x}"), output);
                }
            }
        }
    }
}

/// Controls, direction marks and joiners do not.
fn shows(character: char) -> bool {
    character.escape_debug().len() == 1
}
