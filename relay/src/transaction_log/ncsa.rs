//! The common log format, as SMTP services write it: the command stands where a web server has its request.
//!
//! `client session-transaction username [time] "METHOD subject?argument SMTP" code octets`. The words of a refusal and its
//! enhanced code follow the argument as `&text=` and `&enhanced=`; all of it is percent-encoded.

use super::event::{Event, Record};
use super::text::{self, QUERY_PLAIN, clock, encoded, hexadecimal, number, padded, shown, utc};
use super::w3c::subject;

/// One line, with its end.
pub fn line(record: &Record<'_>, output: &mut Vec<u8>) {
    let Record { origin, event, .. } = record;
    or_hyphen(output, |output| {
        if let Some(address) = text::host(origin.client) {
            text::ip(address, output);
        }
    });
    output.push(b' ');
    or_hyphen(output, |output| {
        if let Some(session) = origin.session {
            hexadecimal(session.0, output);
            output.push(b'-');
            number(origin.transaction.into(), output);
        }
    });
    output.push(b' ');
    or_hyphen(output, |output| {
        encoded(origin.username(), &QUERY_PLAIN, output);
    });
    time(record, output);
    output.extend_from_slice(event.method.as_bytes());
    output.push(b' ');
    or_hyphen(output, |output| subject(event.subject, output));
    query(event, output);
    output.push(b' ');
    output.extend_from_slice(origin.service.protocol().as_bytes());
    output.extend_from_slice(b"\" ");
    or_hyphen(output, |output| {
        if let Some(code) = event.code {
            number(code.into(), output);
        }
    });
    output.push(b' ');
    number(event.sent + event.received, output);
    output.push(b'\n');
}

/// ` [21/Nov/2026:10:15:00 +0000] "`
fn time(record: &Record<'_>, output: &mut Vec<u8>) {
    let at = utc(record.at);
    output.extend_from_slice(b" [");
    padded(at.day().unsigned_abs().into(), 2, output);
    output.push(b'/');
    let month = usize::from(at.month().unsigned_abs()) - 1;
    output.extend_from_slice(MONTHS[month].as_bytes());
    output.push(b'/');
    padded(at.year().unsigned_abs().into(), 4, output);
    output.push(b':');
    clock(&at, output);
    output.extend_from_slice(b" +0000] \"");
}

fn query(event: &Event<'_>, output: &mut Vec<u8>) {
    let start = output.len();
    output.push(b'?');
    encoded(event.argument, &QUERY_PLAIN, output);
    if let Some(enhanced) = event.enhanced {
        output.extend_from_slice(b"&enhanced=");
        shown(enhanced, output);
    }
    if !event.text.is_empty() {
        output.extend_from_slice(b"&text=");
        encoded(&event.text, &QUERY_PLAIN, output);
    }
    if output.len() == start + 1 {
        output.truncate(start);
    }
}

/// A hyphen stands for nothing; one that was said is encoded.
fn or_hyphen(output: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = output.len();
    write(output);
    if output.len() == start {
        output.push(b'-');
    } else if output[start..] == *b"-" {
        output.truncate(start);
        output.extend_from_slice(b"%2D");
    }
}

pub(super) const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
