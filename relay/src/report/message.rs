//! The report as a message: `multipart/report` (RFC 6522) with a text for people, the fields for programs, and the
//! header section of the message that it is about, or all of it.
//!
//! It stays in 7-bit ASCII wherever it can, so that it reaches also those who could not get the message itself.

use atrn_shared::smtp::address::{Domain, ForwardPath, ReversePath};
use atrn_shared::smtp::parameter::{BodyType, MailParameters, Notify, RcptParameters, Ret};
use atrn_shared::smtp::reply::Reply;
use jiff::Timestamp;
use mail_builder::MessageBuilder;
use mail_builder::headers::address::Address;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::date::Date;
use mail_builder::headers::message_id::MessageId;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::{BodyPart, MimePart};
use memchr::memmem;

use super::fields;
use super::routing::{Addressee, Fate};
use super::words;
use crate::queue::{Delivery, DeliveryRecipient, Envelope, Recipient, Report};

/// No report is larger: pullers take no larger one for an outside sender, and it fits into the commit that it
/// belongs to.
pub(crate) const REPORT_OCTETS: usize = 64 * 1024;
/// RFC 5322 §2.1.1: text with longer lines is not 7-bit, nor 8-bit (RFC 2045 §2.7).
const LINE_OCTETS_MAX: usize = 998;
/// A `Message-ID` that is longer is nobody's.
const MESSAGE_ID_OCTETS_MAX: usize = 512;

/// What a report says.
#[derive(Debug)]
pub(crate) struct Notice<'m> {
    /// Our name.
    pub(crate) hostname: &'m Domain,
    /// The delivery that ended.
    pub(crate) delivery: &'m Delivery,
    /// Whom it is for.
    pub(crate) addressee: Addressee,
    /// Those that it is about; at least one.
    pub(crate) recipients: Vec<Told<'m>>,
    /// The message itself, as far as it was read.
    pub(crate) original: Original,
    /// When it was last offered to a puller, if that was the end of it.
    pub(crate) last_attempt: Option<Timestamp>,
    /// Now.
    pub(crate) now: Timestamp,
    /// Of this report alone: a delivery may end more than once, when an admin has it tried again. With it stands the
    /// queue id, which the sender knows; a whole delivery id is for pullers only.
    pub(crate) number: u64,
}

/// What became of one recipient.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told<'m> {
    /// Its place in the delivery.
    pub(crate) index: usize,
    pub(crate) recipient: &'m DeliveryRecipient,
    pub(crate) fate: Fate,
    pub(crate) reply: Option<&'m Reply>,
}

/// The beginning of the message that a report is about.
#[derive(Debug, Default)]
pub(crate) struct Original {
    octets: Vec<u8>,
    /// Where the header section ends, with the empty line behind it.
    header_octets: usize,
    is_whole: bool,
}

impl Original {
    /// `octets` are all of the content, or as much as somebody cared to read.
    pub(crate) fn new(octets: Vec<u8>, is_whole: bool) -> Self {
        let header_octets = if octets.starts_with(b"\r\n") {
            0
        } else {
            let end = memmem::find(&octets, b"\r\n\r\n").map(|end| end + 2);
            end.unwrap_or_else(|| cut(&octets, octets.len()))
        };
        Self {
            octets,
            header_octets,
            is_whole,
        }
    }

    fn header(&self) -> &[u8] {
        &self.octets[..self.header_octets]
    }

    /// The `Message-ID` without brackets, if it has one that can be repeated.
    fn message_id(&self) -> Option<&str> {
        const NAME: &[u8] = b"message-id:";
        let header = self.header();
        let mut fields =
            std::iter::once(0).chain(memmem::find_iter(header, b"\r\n").map(|end| end + 2));
        let value = fields.find_map(|start| {
            let (name, value) = header[start..].split_at_checked(NAME.len())?;
            name.eq_ignore_ascii_case(NAME).then_some(value)
        })?;
        let value = &value[..value.len().min(MESSAGE_ID_OCTETS_MAX)];
        let start = value.iter().position(|octet| !b" \t\r\n".contains(octet))?;
        let id = value[start..].strip_prefix(b"<")?;
        let id = &id[..id.iter().position(|octet| *octet == b'>')?];
        let is_plain = !id.is_empty() && id.iter().all(|octet| (b'!'..=b'~').contains(octet));
        str::from_utf8(id)
            .ok()
            .filter(|_| is_plain && !id.contains(&b'<'))
    }
}

/// Where a header section can be cut so that at most `octets` are left: before the last field that does not fit.
fn cut(header: &[u8], octets: usize) -> usize {
    if header.len() <= octets && header.ends_with(b"\r\n") {
        return header.len();
    }
    let room = &header[..header.len().min(octets)];
    let mut ends = memmem::rfind_iter(room, b"\r\n").map(|end| end + 2);
    let is_folded = |end: usize| matches!(header.get(end), Some(b' ' | b'\t') | None);
    ends.find(|end| !is_folded(*end)).unwrap_or(0)
}

impl Notice<'_> {
    /// The message, ready to be queued.
    pub(crate) fn report(&self) -> Report {
        let to = self.to();
        let is_ascii = to.is_ascii();
        let mut content = self.write(&to, None);
        let room = REPORT_OCTETS.saturating_sub(content.len());
        if let Some(part) = self.returned(room) {
            let whole = self.write(&to, Some(part));
            // What was returned is only a help; the report itself must not be too large to be sent.
            if whole.len() <= REPORT_OCTETS {
                content = whole;
            }
        }
        let is_seven_bit = content.is_ascii();
        let envelope = Envelope {
            reverse_path: ReversePath::Null,
            mail_parameters: MailParameters {
                body: (!is_seven_bit).then_some(BodyType::EightBitMime),
                smtputf8: !is_ascii,
                ..MailParameters::default()
            },
            received_from: format!("{}, as a report on {}", self.hostname, self.delivery.id),
            eight_bit: !is_seven_bit,
            needs_smtputf8: !is_ascii,
            is_report: true,
            sender_verified: false,
            recipients: vec![Recipient {
                forward_path: to,
                // RFC 3461 §6.2: nobody is told of what becomes of a report.
                parameters: RcptParameters {
                    notify: Some(Notify::Never),
                    orcpt: None,
                },
                domain: self.delivery.domain.clone(),
            }],
        };
        Report {
            envelope,
            content,
            about: self.recipients.iter().map(|told| told.index).collect(),
        }
    }

    /// Always the puller's own domain for the postmaster; for a sender too the report travels inside first.
    fn to(&self) -> ForwardPath {
        match (self.addressee, &self.delivery.reverse_path) {
            (Addressee::Sender, ReversePath::Mailbox(mailbox)) => {
                ForwardPath::Mailbox(mailbox.clone())
            }
            _ => {
                let postmaster = format!("postmaster@{}", self.delivery.domain);
                // A domain that leaves no room for a local-part has a postmaster all the same.
                ForwardPath::from_address(&postmaster).unwrap_or(ForwardPath::Postmaster)
            }
        }
    }

    fn write(&self, to: &ForwardPath, returned: Option<Returned>) -> Vec<u8> {
        let (status, told) = fields::delivery_status(self);
        let mut text = words::text(self);
        if told < self.recipients.len() {
            text += "Not all recipients are in the details for programs that follow.\r\n";
        }
        let mut parts = vec![
            MimePart::new("text/plain", BodyPart::Text(text.into()))
                .header("Content-Description", Raw::new("Notification")),
            MimePart::new(
                "message/delivery-status",
                BodyPart::Binary(status.into_bytes().into()),
            )
            .header("Content-Description", Raw::new("Delivery report"))
            .transfer_encoding("7bit"),
        ];
        let is_seven_bit = returned.as_ref().is_none_or(|part| part.is_seven_bit);
        parts.extend(returned.map(|returned| returned.part));
        let sender = format!("MAILER-DAEMON@{}", self.hostname);
        let mut message = MessageBuilder::new()
            .date(Date::new(self.now.as_second()))
            .from(Address::new_address(Some("Mail Delivery System"), sender))
            .to(Address::new_address(None::<&str>, to.to_string()))
            .subject(words::subject(self))
            .message_id(self.message_id())
            // RFC 3834 §5: so that no other program answers.
            .header("Auto-Submitted", Raw::new("auto-replied"));
        if let Some(id) = self.original.message_id() {
            message = message
                .in_reply_to(MessageId::new(id.to_owned()))
                .references(MessageId::new(id.to_owned()));
        }
        let report = ContentType::new("multipart/report")
            .attribute("report-type", "delivery-status")
            .attribute("boundary", self.boundary());
        let mut content = Vec::new();
        let mut body = MimePart::new(report, BodyPart::Multipart(parts));
        if !is_seven_bit {
            // RFC 2045 §6.4: what holds an 8-bit part is 8-bit itself.
            body = body.transfer_encoding("8bit");
        }
        message.body(body).serialize(&mut content);
        content
    }

    fn message_id(&self) -> String {
        format!("{}@{}", self.name(), self.hostname)
    }

    fn name(&self) -> String {
        format!("{}.{:016x}", self.delivery.id.queue_id(), self.number)
    }

    /// Nothing that the message holds may end a part of the report.
    fn boundary(&self) -> String {
        let mut boundary = format!("=_{}", self.name());
        while memmem::find(&self.original.octets, boundary.as_bytes()).is_some() {
            boundary.push('_');
        }
        boundary
    }

    /// What of the message goes back, in at most so many octets: all of it where the sender asked for that (RFC 3461
    /// §4.3), else its header section.
    fn returned(&self, room: usize) -> Option<Returned> {
        let room = room.checked_sub(PART_HEADER_OCTETS)?;
        let octets = &self.original.octets;
        let is_whole = self.original.is_whole && octets.len() <= room;
        let asked = self.delivery.mail_parameters.ret == Some(Ret::Full);
        if asked && is_whole && has_plain_lines(octets) && self.may_return(octets) {
            return Some(Returned::whole(octets));
        }
        Returned::header(self.original.header(), room)
    }

    /// What was refused because it is not 7-bit is not sent the same way once more (RFC 3463: X.6.1, X.6.3).
    fn may_return(&self, octets: &[u8]) -> bool {
        let mut codes = self
            .recipients
            .iter()
            .filter_map(|told| told.reply?.enhanced());
        octets.is_ascii() || !codes.any(|code| code.subject == 6 && matches!(code.detail, 1 | 3))
    }
}

/// Octets for the header of the last part, and the boundary behind it.
const PART_HEADER_OCTETS: usize = 512;

/// The last part of a report.
struct Returned {
    part: MimePart<'static>,
    is_seven_bit: bool,
}

impl Returned {
    fn whole(octets: &[u8]) -> Self {
        let is_seven_bit = octets.is_ascii();
        let encoding = if is_seven_bit { "7bit" } else { "8bit" };
        let part = MimePart::new("message/rfc822", BodyPart::Binary(octets.to_vec().into()));
        Self {
            part: part
                .header("Content-Description", Raw::new("Undelivered message"))
                .transfer_encoding(encoding),
            is_seven_bit,
        }
    }

    fn header(header: &[u8], room: usize) -> Option<Self> {
        let is_plain = header.is_ascii() && has_plain_lines(header);
        // Quoted-printable is at most three times as long; where it would be, base64 is chosen.
        let room = if is_plain { room } else { room / 3 * 2 };
        let header = &header[..cut(header, room)];
        if header.is_empty() {
            return None;
        }
        let part = MimePart::new(
            ContentType::new("text/rfc822-headers"),
            BodyPart::Binary(header.to_vec().into()),
        )
        .header(
            "Content-Description",
            Raw::new("Header of the undelivered message"),
        );
        Some(Self {
            part: if is_plain {
                part.transfer_encoding("7bit")
            } else {
                part
            },
            is_seven_bit: true,
        })
    }
}

/// No NUL, and no line that is too long: what 7bit and 8bit demand.
fn has_plain_lines(octets: &[u8]) -> bool {
    let mut lines = octets.split(|octet| *octet == b'\n');
    lines.all(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.len() <= LINE_OCTETS_MAX && !line.contains(&0)
    })
}
