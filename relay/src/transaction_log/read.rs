//! Reads what was written, in any of the formats: the formatters backwards. Lines of somebody else are passed over.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;
use serde::Serialize;

use super::fields::Field;
use super::ncsa::MONTHS;
use super::text::decoded;

/// Octets of a line that are looked at: ours are shorter, and a file may be anybody's by now.
const LINE_OCTETS_MAX: u64 = 64 * 1024;

/// A record as it was read. What the file does not tell is empty.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Entry {
    /// When.
    pub time: Timestamp,
    /// The peer's address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_ip: String,
    /// The peer's port.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_port: String,
    /// `smtp`, `odmr` or `relay`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// The account, or the name in the hello.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Names the connection.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub session: String,
    /// Counts the transactions of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<u32>,
    /// What was said, or happened.
    pub event: String,
    /// What stood behind it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub argument: String,
    /// The code of the reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// The enhanced code of the reply.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub enhanced: String,
    /// The words of the reply, or a reason.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Octets that came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// Octets that we sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
    /// The message.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub queue_id: String,
    /// The delivery.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub delivery_id: String,
}

/// Reads one file from its beginning.
#[derive(Debug)]
pub struct Reader<R> {
    lines: R,
    line: Vec<u8>,
    /// What the last header named; empty in formats that have none.
    fields: Vec<Option<Field>>,
}

impl Reader<BufReader<File>> {
    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::new(BufReader::with_capacity(
            256 << 10,
            File::open(path)?,
        )))
    }
}

impl<R: BufRead> Reader<R> {
    /// Reads from anything.
    pub fn new(lines: R) -> Self {
        Self {
            lines,
            line: Vec::new(),
            fields: Vec::new(),
        }
    }

    /// The names of the fields in force, where the format has a header.
    #[must_use]
    pub fn fields(&self) -> &[Option<Field>] {
        &self.fields
    }

    /// The next record; none at the end. A last line without its end is still being written.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&mut self) -> io::Result<Option<Entry>> {
        loop {
            self.line.clear();
            let mut limited = (&mut self.lines).take(LINE_OCTETS_MAX);
            if limited.read_until(b'\n', &mut self.line)? == 0 {
                return Ok(None);
            }
            if self.line.last() != Some(&b'\n') {
                if (self.line.len() as u64) < LINE_OCTETS_MAX {
                    return Ok(None);
                }
                self.skip_line()?;
                continue;
            }
            let Ok(line) = std::str::from_utf8(&self.line[..self.line.len() - 1]) else {
                continue;
            };
            if let Some(directive) = line.strip_prefix('#') {
                if let Some(names) = directive.strip_prefix("Fields:") {
                    self.fields = names.split_ascii_whitespace().map(Field::named).collect();
                }
                continue;
            }
            let entry = match line.as_bytes().first() {
                Some(b'{') => json(line),
                _ if self.fields.is_empty() => ncsa(line),
                _ => w3c(&self.fields, line),
            };
            if entry.is_some() {
                return Ok(entry);
            }
        }
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let available = self.lines.fill_buf()?;
            let (count, is_end) = match memchr::memchr(b'\n', available) {
                Some(end) => (end + 1, true),
                None => (available.len(), available.is_empty()),
            };
            self.lines.consume(count);
            if is_end {
                return Ok(());
            }
        }
    }
}

/// A line of a W3C file with these fields.
fn w3c(fields: &[Option<Field>], line: &str) -> Option<Entry> {
    let mut entry = Entry::default();
    let (mut date, mut time) = (None, None);
    let mut values = line.split(' ');
    for field in fields {
        let value = values.next()?;
        let Some(field) = field.filter(|_| value != "-") else {
            continue;
        };
        match field {
            Field::Date => date = Some(value.parse().ok()?),
            Field::Time => time = Some(value.parse().ok()?),
            other => entry.put(other, unescaped(value)),
        }
    }
    if values.next().is_some() {
        return None;
    }
    let at = DateTime::from_parts(date.unwrap_or_default(), time.unwrap_or_default());
    entry.time = Offset::UTC.to_timestamp(at).ok()?;
    Some(entry)
}

fn unescaped(value: &str) -> Cow<'_, str> {
    if value.contains('%') {
        Cow::Owned(decoded(value))
    } else {
        Cow::Borrowed(value)
    }
}

/// A line of the common log format.
fn ncsa(line: &str) -> Option<Entry> {
    let mut entry = Entry::default();
    let (head, rest) = line.split_once(" [")?;
    let (at, rest) = rest.split_once("] \"")?;
    let (request, tail) = rest.split_once("\" ")?;
    let mut head = head.split(' ');
    let mut part = || head.next().map(|part| if part == "-" { "" } else { part });
    entry.client_ip = part()?.to_owned();
    if let Some((session, transaction)) = part()?.split_once('-') {
        entry.session = session.to_owned();
        entry.transaction = transaction.parse().ok();
    }
    entry.username = decoded(part()?);
    entry.time = ncsa_time(at)?;
    let mut words = request.split(' ');
    entry.event = words.next()?.to_owned();
    let subject = words.next()?;
    entry.service = words.next()?.to_ascii_lowercase();
    let (stem, query) = subject.split_once('?').unwrap_or((subject, ""));
    if stem != "-" {
        entry.put(Field::UriStem, stem.into());
    }
    for (index, part) in query.split('&').enumerate() {
        match part.split_once('=') {
            _ if index == 0 => entry.argument = decoded(part),
            Some(("enhanced", value)) => entry.enhanced = decoded(value),
            Some(("text", value)) => entry.text = decoded(value),
            _ => {}
        }
    }
    entry.code = tail.split(' ').next()?.parse().ok();
    Some(entry)
}

/// `21/Nov/2026:10:15:00 +0000`
fn ncsa_time(text: &str) -> Option<Timestamp> {
    let (at, zone) = text.split_once(' ')?;
    let (date, time) = at.split_once(':')?;
    let mut parts = date.split('/');
    let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    format!("{year}-{month:02}-{day}T{time}{zone}").parse().ok()
}

fn json(line: &str) -> Option<Entry> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).ok()?;
    let mut entry = Entry {
        time: object.get("time")?.as_str()?.parse().ok()?,
        ..Entry::default()
    };
    for (field, _, key) in Field::ALL {
        match object.get(key) {
            Some(serde_json::Value::String(text)) => entry.put(field, text.into()),
            Some(serde_json::Value::Number(number)) => entry.put(field, number.to_string().into()),
            _ => {}
        }
    }
    Some(entry)
}

impl Entry {
    fn put(&mut self, field: Field, value: Cow<'_, str>) {
        match field {
            Field::ClientIp => self.client_ip = value.into_owned(),
            Field::ClientPort => self.client_port = value.into_owned(),
            Field::SiteName => self.service = value.into_owned(),
            Field::Username => self.username = value.into_owned(),
            Field::Session => self.session = value.into_owned(),
            Field::Transaction => self.transaction = value.parse().ok(),
            Field::Method => self.event = value.into_owned(),
            Field::UriQuery => self.argument = value.into_owned(),
            Field::Status => self.code = value.parse().ok(),
            Field::Substatus => self.enhanced = value.into_owned(),
            Field::SentBytes => self.sent = value.parse().ok(),
            Field::ReceivedBytes => self.received = value.parse().ok(),
            Field::TimeTaken => self.milliseconds = value.parse().ok(),
            Field::Text => self.text = value.into_owned(),
            Field::QueueId => self.queue_id = value.into_owned(),
            Field::DeliveryId => self.delivery_id = value.into_owned(),
            // The delivery where there is one: its name begins with that of its message.
            Field::UriStem => {
                let message = value.split('.').next().unwrap_or_default();
                if message.len() < value.len() {
                    self.delivery_id = value.to_string();
                }
                self.queue_id = message.to_owned();
            }
            Field::Account
            | Field::ComputerName
            | Field::Date
            | Field::Host
            | Field::ServerIp
            | Field::ServerPort
            | Field::Time
            | Field::Version => {}
        }
    }
}
