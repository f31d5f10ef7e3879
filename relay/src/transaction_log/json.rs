//! JSON: one object a line, its keys those of the operational log where they name the same thing.
//!
//! What is not known is left out. Characters that control, or that do not show, are escaped.

use super::event::{Record, Subject};
use super::fields::Field;
use super::text::{CUT, clock, cut, date, hexadecimal, ip, milliseconds, number, shown, utc};
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
        Field::ClientIp | Field::ServerIp => {
            let end = if field == Field::ClientIp {
                origin.client
            } else {
                origin.server
            };
            if let Some(end) = end {
                object.quoted(key, |output| ip(end.ip(), output));
            }
        }
        Field::ClientPort | Field::ServerPort => {
            let end = if field == Field::ClientPort {
                origin.client
            } else {
                origin.server
            };
            if let Some(end) = end {
                object.number(key, end.port().into());
            }
        }
        Field::ComputerName => object.text(key, record.hostname),
        Field::SiteName => object.text(key, origin.service.name()),
        Field::Username => object.text(key, origin.username()),
        Field::Method => object.text(key, event.method),
        Field::UriStem if event.subject == Subject::None => {}
        Field::UriStem => object.quoted(key, |output| subject(event.subject, output)),
        Field::UriQuery => object.text(key, event.argument),
        Field::Status => {
            if let Some(code) = event.code {
                object.number(key, code.into());
            }
        }
        Field::Substatus => {
            if let Some(enhanced) = event.enhanced {
                object.quoted(key, |output| shown(enhanced, output));
            }
        }
        Field::SentBytes => object.number(key, event.sent),
        Field::ReceivedBytes => object.number(key, event.received),
        Field::TimeTaken => object.number(key, event.milliseconds()),
        Field::Version => object.text(key, origin.service.protocol()),
        Field::Host => object.text(key, &origin.hello),
        Field::Session => {
            if let Some(session) = origin.session {
                object.quoted(key, |output| hexadecimal(session.0, output));
            }
        }
        Field::Transaction => {
            if origin.session.is_some() {
                object.number(key, origin.transaction.into());
            }
        }
        Field::QueueId => {
            if let Some(id) = event.subject.queue_id() {
                object.quoted(key, |output| shown(id, output));
            }
        }
        Field::DeliveryId => {
            if let Subject::Delivery(id) = event.subject {
                object.quoted(key, |output| shown(id, output));
            }
        }
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

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        number(value, self.output);
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
