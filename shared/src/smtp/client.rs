//! The sending side of SMTP and LMTP: commands out, replies in, each matched to what it answers.
//!
//! The machine writes commands into its output and knows which replies are due. A reply that is not due, as what it
//! answers has not gone out yet, or that is of a kind that its command can not have, is a fault of the link and never
//! a verdict (R5321-24, R5321-25). What a verdict means for the mail is decided by whoever drives it.

use std::collections::VecDeque;

use super::address::{ForwardPath, ReversePath};
use super::bdat;
use super::data::Encoder;
use super::exchange::{Exchange, Exchanges, Words};
use super::extension::Extensions;
use super::line::Input;
use super::parameter::{MailParameters, RcptParameters};
use super::reply::{Reply, ReplyError, parse_reply};

/// SMTP, or its sibling that answers for each recipient after the content (RFC 2033).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialect {
    /// LMTP: LHLO, and a reply for each accepted recipient.
    Lmtp,
    /// SMTP
    Smtp,
}

/// What a reply answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Awaited {
    /// AUTH, or a response in its exchange
    Auth,
    /// The octets of a BDAT that was not the last.
    Chunk,
    /// DATA
    Data,
    /// The end of the content; in LMTP one for each accepted recipient.
    EndOfData,
    /// The connection.
    Greeting,
    /// EHLO, HELO or LHLO
    Hello,
    /// MAIL
    Mail,
    /// NOOP
    Noop,
    /// QUIT
    Quit,
    /// RCPT
    Recipient,
    /// RSET
    Reset,
    /// STARTTLS
    StartTls,
}

/// The peer broke the protocol, so nothing that it says can be believed any more.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// No reply at all.
    #[error("the peer sent {0}")]
    Malformed(#[from] ReplyError),
    /// A reply to nothing. A 421 is one too: the peer closes.
    #[error("the peer sent a reply that was not due: {0}")]
    NotDue(Reply),
    /// A reply that this command can not have.
    #[error("the peer answered {0:?} with {1}")]
    Unexpected(Awaited, Reply),
}

/// What a message asks of the servers on its way.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Needs {
    /// Octets of content.
    pub octets: u64,
    /// Declared or found to be 8-bit.
    pub eight_bit: bool,
    /// A path or the header needs SMTPUTF8.
    pub smtputf8: bool,
}

/// The sending side of one connection.
#[derive(Debug)]
pub struct Client {
    dialect: Dialect,
    due: VecDeque<Due>,
    exchanges: Exchanges,
    extensions: Extensions,
    content: Option<Content>,
    /// Octets that ever went into the output.
    written: u64,
    /// Commands and content to be sent. Whoever sends them takes them off its front.
    pub output: Vec<u8>,
}

/// A reply that is to come.
#[derive(Clone, Copy, Debug)]
struct Due {
    awaited: Awaited,
    /// So many octets have to be sent before it can be an answer.
    behind: u64,
}

#[derive(Debug)]
enum Content {
    Bdat { left: u64, last: bool },
    Data(Encoder),
}

impl Client {
    /// A client that waits for the greeting.
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            due: VecDeque::from([Due {
                awaited: Awaited::Greeting,
                behind: 0,
            }]),
            exchanges: Exchanges::default(),
            extensions: Extensions::default(),
            content: None,
            written: 0,
            output: Vec::new(),
        }
    }

    /// What the peer offered in its last EHLO reply.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// SMTP or LMTP.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The reply that is due next.
    #[must_use]
    pub fn awaits(&self) -> Option<Awaited> {
        self.due.front().map(|due| due.awaited)
    }

    /// Gives the memory back that a burst of mail needed, where nothing waits in it.
    pub fn release(&mut self) {
        if self.output.is_empty() && self.due.is_empty() {
            self.output = Vec::new();
            self.due = VecDeque::new();
            self.exchanges.release();
        }
    }

    /// From now on keeps what is said and answered, for [`Client::take_exchanges`].
    pub fn keep_exchanges(&mut self) {
        self.exchanges.keep();
        // The greeting, and whatever else is due already, answers nothing that was kept.
        self.due.iter().for_each(|_| self.exchanges.opened());
    }

    /// What was answered since it was last asked for, in order.
    pub fn take_exchanges(&mut self) -> Vec<Exchange> {
        self.exchanges.take()
    }

    /// Takes the next reply off the input; `None` when more is needed.
    ///
    /// # Errors
    /// [`Fault`]: close the connection, and keep every message that has no verdict.
    pub fn next(&mut self, input: &mut Input) -> Result<Option<(Awaited, Reply)>, Fault> {
        let Some((reply, octets)) = parse_reply(input.bytes())? else {
            return Ok(None);
        };
        input.take(octets);
        let sent = self.written.saturating_sub(self.output.len() as u64);
        let Some(Due { awaited, .. }) = self.due.pop_front_if(|due| due.behind <= sent) else {
            return Err(Fault::NotDue(reply));
        };
        let words = match awaited {
            Awaited::EndOfData => Words::All,
            _ => Words::OfRefusals,
        };
        self.exchanges.answered_with(&reply, words);
        if !is_possible(awaited, &reply) {
            return Err(Fault::Unexpected(awaited, reply));
        }
        if awaited == Awaited::Hello && reply.is_positive() {
            self.extensions = Extensions::parse(&reply);
        }
        Ok(Some((awaited, reply)))
    }

    /// EHLO, or LHLO.
    pub fn hello(&mut self, name: &str) {
        let verb = match self.dialect {
            Dialect::Lmtp => "LHLO",
            Dialect::Smtp => "EHLO",
        };
        self.command(Awaited::Hello, format_args!("{verb} {name}"));
    }

    /// HELO, for a server that refused EHLO (R2645-19). It offers nothing.
    pub fn old_hello(&mut self, name: &str) {
        self.command(Awaited::Hello, format_args!("HELO {name}"));
    }

    /// STARTTLS. After the handshake the offer is forgotten: say hello again (RFC 3207 §4.2).
    pub fn start_tls(&mut self) {
        self.extensions = Extensions::default();
        self.command(Awaited::StartTls, format_args!("STARTTLS"));
    }

    /// AUTH with an initial response, already in base64; `=` is the empty one.
    pub fn auth(&mut self, mechanism: &str, initial: Option<&str>) {
        match initial {
            Some(initial) => {
                self.command(Awaited::Auth, format_args!("AUTH {mechanism} {initial}"))
            }
            None => self.command(Awaited::Auth, format_args!("AUTH {mechanism}")),
        }
    }

    /// A response in an AUTH exchange, already in base64; `*` cancels.
    pub fn auth_response(&mut self, response: &str) {
        self.command(Awaited::Auth, format_args!("{response}"));
    }

    /// MAIL, with those of the parameters that the peer offered to take.
    pub fn mail(&mut self, path: &ReversePath, parameters: &MailParameters) {
        let offered = &self.extensions;
        let parameters = MailParameters {
            size: parameters.size.filter(|_| offered.size.is_some()),
            body: parameters.body.filter(|_| offered.eight_bit_mime),
            smtputf8: parameters.smtputf8 && offered.smtputf8,
            ret: parameters.ret.filter(|_| offered.dsn),
            envid: parameters.envid.clone().filter(|_| offered.dsn),
            delivery_id: parameters
                .delivery_id
                .clone()
                .filter(|_| offered.delivery_id),
        };
        self.command(
            Awaited::Mail,
            format_args!("MAIL FROM:<{path}>{parameters}"),
        );
    }

    /// RCPT, with its parameters where the peer offered DSN.
    pub fn recipient(&mut self, path: &ForwardPath, parameters: &RcptParameters) {
        if self.extensions.dsn {
            self.command(
                Awaited::Recipient,
                format_args!("RCPT TO:<{path}>{parameters}"),
            );
        } else {
            self.command(Awaited::Recipient, format_args!("RCPT TO:<{path}>"));
        }
    }

    /// DATA; the content may follow its 354 only.
    pub fn data(&mut self) {
        self.command(Awaited::Data, format_args!("DATA"));
        self.content = Some(Content::Data(Encoder::default()));
    }

    /// BDAT; exactly `octets` of content follow at once.
    pub fn bdat(&mut self, octets: u64, last: bool) {
        let before = self.output.len();
        bdat::write_command(octets, last, &mut self.output);
        self.count_from(before);
        self.note_line(before);
        self.content = Some(Content::Bdat { left: octets, last });
        self.end_of_chunk();
    }

    /// The next octets of the content.
    pub fn content(&mut self, part: &[u8]) {
        let before = self.output.len();
        match &mut self.content {
            Some(Content::Data(encoder)) => encoder.content(part, &mut self.output),
            Some(Content::Bdat { left, .. }) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(part.len());
                debug_assert_eq!(
                    count,
                    part.len(),
                    "more content than the chunk was said to have"
                );
                self.output.extend_from_slice(&part[..count]);
                *left -= count as u64;
            }
            None => debug_assert!(false, "content outside DATA and BDAT"),
        }
        self.count_from(before);
        self.end_of_chunk();
    }

    /// The end of the content of DATA. In LMTP a reply for each of the `accepted` recipients is due.
    pub fn end_of_data(&mut self, accepted: usize) {
        if let Some(Content::Data(encoder)) = self.content.take() {
            let before = self.output.len();
            encoder.end(&mut self.output);
            self.count_from(before);
            self.await_verdicts(accepted);
        }
    }

    /// DATA was refused: there is no content.
    pub fn no_content(&mut self) {
        self.content = None;
    }

    /// RSET
    pub fn reset(&mut self) {
        self.command(Awaited::Reset, format_args!("RSET"));
    }

    /// NOOP
    pub fn noop(&mut self) {
        self.command(Awaited::Noop, format_args!("NOOP"));
    }

    /// QUIT
    pub fn quit(&mut self) {
        self.command(Awaited::Quit, format_args!("QUIT"));
    }

    /// Whether the peer can take a message with these needs.
    ///
    /// # Errors
    /// The permanent refusal that stands for the peer's, which is not asked (R1870-3, R6152-2, R6531-2).
    pub fn can_carry(&self, needs: &Needs) -> Result<(), Reply> {
        let offered = &self.extensions;
        if needs.smtputf8 && !offered.smtputf8 {
            return Err(Reply::new(
                550,
                "5.6.7",
                "The next server does not take internationalised addresses",
            ));
        }
        if needs.eight_bit && !offered.eight_bit_mime {
            return Err(Reply::new(
                554,
                "5.6.3",
                "The next server does not take 8-bit content",
            ));
        }
        match offered.size {
            Some(limit) if limit > 0 && needs.octets > limit => Err(Reply::new(
                552,
                "5.3.4",
                "The next server does not take messages of this size",
            )),
            _ => Ok(()),
        }
    }

    fn command(&mut self, awaited: Awaited, line: std::fmt::Arguments<'_>) {
        use std::io::Write as _;

        let before = self.output.len();
        // Writing into memory can not fail.
        let _ = write!(self.output, "{line}\r\n");
        self.count_from(before);
        self.note_line(before);
        self.is_due(awaited);
    }

    /// The line that the output has gained.
    fn note_line(&mut self, before: usize) {
        let line = &self.output[before..];
        self.exchanges
            .line(line.strip_suffix(b"\r\n").unwrap_or(line));
    }

    /// What the output has gained.
    fn count_from(&mut self, before: usize) {
        self.written += (self.output.len() - before) as u64;
    }

    /// The reply to what was written last.
    fn is_due(&mut self, awaited: Awaited) {
        if awaited == Awaited::EndOfData {
            self.exchanges.content_ends();
        }
        self.exchanges.opened();
        self.due.push_back(Due {
            awaited,
            behind: self.written,
        });
    }

    /// The verdict is due once the last octet is written, and not before.
    fn end_of_chunk(&mut self) {
        match self.content {
            Some(Content::Bdat {
                left: 0,
                last: true,
            }) => self.is_due(Awaited::EndOfData),
            Some(Content::Bdat {
                left: 0,
                last: false,
            }) => self.is_due(Awaited::Chunk),
            _ => return,
        }
        self.content = None;
    }

    fn await_verdicts(&mut self, accepted: usize) {
        let count = match self.dialect {
            Dialect::Lmtp => accepted,
            Dialect::Smtp => 1,
        };
        for _ in 0..count {
            self.is_due(Awaited::EndOfData);
        }
    }
}

/// 354 only to DATA, 334 only to AUTH, 2yz to all but DATA; 4yz and 5yz to everything.
fn is_possible(awaited: Awaited, reply: &Reply) -> bool {
    match awaited {
        Awaited::Data => !reply.is_positive(),
        Awaited::Auth => true,
        _ => !reply.is_intermediate(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeted(hello: &str) -> (Client, Input) {
        let mut client = Client::new(Dialect::Smtp);
        let mut input = Input::new();
        client.hello("c.example");
        client.output.clear();
        input.push(b"220 s.example\r\n");
        input.push(hello.as_bytes());
        assert!(matches!(
            client.next(&mut input),
            Ok(Some((Awaited::Greeting, _)))
        ));
        assert!(matches!(
            client.next(&mut input),
            Ok(Some((Awaited::Hello, _)))
        ));
        (client, input)
    }

    fn text(client: &mut Client) -> String {
        String::from_utf8(std::mem::take(&mut client.output)).unwrap()
    }

    // covers: R1870-3, R3461-1, R5321-29, R-DUP
    #[test]
    fn parameters_go_only_where_they_are_offered() {
        let path = ReversePath::from_address("a@b.example").unwrap();
        let to = ForwardPath::from_address("c@d.example").unwrap();
        let mail = MailParameters::parse(
            " SIZE=5 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=x XDELIVERYID=d.1",
        )
        .unwrap();
        let rcpt = RcptParameters::parse(" NOTIFY=NEVER").unwrap();
        let (mut bare, _) = greeted("250 s.example\r\n");
        bare.mail(&path, &mail);
        bare.recipient(&to, &rcpt);
        assert_eq!(
            text(&mut bare),
            "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
        );
        let (mut full, _) = greeted(
            "250-s.example\r\n250-SIZE\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-XDELIVERYID\r\n250 DSN\r\n",
        );
        full.mail(&path, &mail);
        full.recipient(&to, &rcpt);
        let expected = "MAIL FROM:<a@b.example> SIZE=5 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=x XDELIVERYID=d.1\r\nRCPT TO:<c@d.example> NOTIFY=NEVER\r\n";
        assert_eq!(text(&mut full), expected);
    }

    // covers: R5321-10
    #[test]
    fn the_null_reverse_path_stays_null() {
        let (mut client, _) = greeted("250 s.example\r\n");
        client.mail(&ReversePath::Null, &MailParameters::default());
        assert_eq!(text(&mut client), "MAIL FROM:<>\r\n");
    }

    // covers: R5321-25
    #[test]
    fn replies_that_are_not_due_are_faults() {
        let (mut client, mut input) = greeted("250 s.example\r\n");
        input.push(b"250 what\r\n");
        assert!(matches!(client.next(&mut input), Err(Fault::NotDue(_))));

        let (mut client, mut input) = greeted("250-s.example\r\n250 CHUNKING\r\n");
        client.bdat(4, true);
        client.content(b"ab");
        input.push(b"250 too early\r\n");
        assert!(matches!(client.next(&mut input), Err(Fault::NotDue(_))));

        let (mut client, mut input) = greeted("250 s.example\r\n");
        client.data();
        client.content(b"ab");
        client.output.clear();
        input.push(b"354 go\r\n250 too early\r\n");
        assert!(matches!(
            client.next(&mut input),
            Ok(Some((Awaited::Data, _)))
        ));
        assert!(matches!(client.next(&mut input), Err(Fault::NotDue(_))));
    }

    // covers: R5321-25
    #[test]
    fn what_has_not_gone_out_cannot_have_been_answered() {
        let (mut client, mut input) = greeted("250-s.example\r\n250 CHUNKING\r\n");
        for content in [b"one", b"two"] {
            client.bdat(3, true);
            client.content(content);
        }
        // The first went out, and all of the second but its last octet.
        let left = client.output.len() - 1;
        client.output.drain(..left);
        input.push(b"250 first\r\n250 second\r\n");
        let first = client.next(&mut input);
        assert!(matches!(first, Ok(Some((Awaited::EndOfData, reply))) if reply.text() == "first"));
        assert!(matches!(client.next(&mut input), Err(Fault::NotDue(_))));
    }

    // covers: R5321-24
    #[test]
    fn replies_of_the_wrong_kind_are_faults() {
        for (command, reply) in [
            (Awaited::Data, "250 ok\r\n"),
            (Awaited::Noop, "354 go\r\n"),
            (Awaited::Quit, "334 go\r\n"),
        ] {
            let (mut client, mut input) = greeted("250 s.example\r\n");
            match command {
                Awaited::Data => client.data(),
                Awaited::Noop => client.noop(),
                _ => client.quit(),
            }
            client.output.clear();
            input.push(reply.as_bytes());
            assert!(
                matches!(client.next(&mut input), Err(Fault::Unexpected(..))),
                "{reply}"
            );
        }
        let (mut client, mut input) = greeted("250 s.example\r\n");
        client.noop();
        client.output.clear();
        input.push(b"250-a\r\n550 b\r\n");
        assert_eq!(
            client.next(&mut input),
            Err(Fault::Malformed(ReplyError::Mixed))
        );
    }

    // covers: R2033-1
    #[test]
    fn lmtp_answers_for_each_accepted_recipient() {
        let mut client = Client::new(Dialect::Lmtp);
        let mut input = Input::new();
        client.hello("c.example");
        assert_eq!(text(&mut client), "LHLO c.example\r\n");
        client.data();
        client.end_of_data(2);
        client.output.clear();
        input.push(b"220 s\r\n250 s\r\n354 go\r\n250 first\r\n450 second\r\n");
        let mut seen = Vec::new();
        while let Ok(Some((awaited, reply))) = client.next(&mut input) {
            seen.push((awaited, reply.code()));
        }
        assert_eq!(
            seen[3..],
            [(Awaited::EndOfData, 250), (Awaited::EndOfData, 450)]
        );
        assert_eq!(client.awaits(), None);
    }

    // covers: R5321-29
    #[test]
    fn content_is_stuffed_in_data_and_left_alone_in_bdat() {
        let (mut client, _) = greeted("250-s.example\r\n250 CHUNKING\r\n");
        client.data();
        client.content(b".a\r\n.b");
        client.end_of_data(1);
        client.bdat(5, false);
        client.content(b".a\r\n.");
        client.bdat(0, true);
        assert_eq!(
            text(&mut client),
            "DATA\r\n..a\r\n..b\r\n.\r\nBDAT 5\r\n.a\r\n.BDAT 0 LAST\r\n"
        );
    }

    // covers: R1870-3, R6152-2, R6531-2
    #[test]
    fn what_the_peer_can_not_take_is_not_sent() {
        let (client, _) = greeted("250-s.example\r\n250 SIZE 100\r\n");
        let needs = |octets, eight_bit, smtputf8| Needs {
            octets,
            eight_bit,
            smtputf8,
        };
        let enhanced = |needs| {
            client
                .can_carry(&needs)
                .unwrap_err()
                .enhanced()
                .unwrap()
                .to_string()
        };
        assert_eq!(client.can_carry(&needs(100, false, false)), Ok(()));
        assert_eq!(enhanced(needs(101, false, false)), "5.3.4");
        assert_eq!(enhanced(needs(1, true, false)), "5.6.3");
        assert_eq!(enhanced(needs(1, false, true)), "5.6.7");
    }
}
