//! One connection of the corporate server: a plain, slow, correct SMTP or LMTP server that
//! asks the orders before each answer. It takes nothing from the product, so that it cannot
//! share a mistake with it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::rules::{Action, Step};
use super::{Arrived, Shared};
use crate::stream::Stream;

/// A session that nobody talks to any more ends by itself.
const IDLE: Duration = Duration::from_secs(120);

pub(super) struct Session<'a> {
    shared: &'a Arc<Shared>,
    number: usize,
    greeted: bool,
    authenticated: bool,
    tls: bool,
    mail: Option<String>,
    recipients: Vec<String>,
    chunks: Vec<u8>,
}

/// Where the session goes after a command.
enum Next {
    Go,
    StartTls,
    End,
}

impl<'a> Session<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, number: usize) -> Self {
        Self {
            shared,
            number,
            greeted: false,
            authenticated: false,
            tls: false,
            mail: None,
            recipients: Vec::new(),
            chunks: Vec::new(),
        }
    }

    /// Serves the connection to its end; a lost connection is an end like any other.
    pub(super) fn run(mut self, stream: Stream) {
        let outcome = self.serve(stream);
        if outcome.is_err() && !self.chunks.is_empty() {
            self.shared.torn(std::mem::take(&mut self.chunks));
        }
    }

    fn serve(&mut self, mut stream: Stream) -> io::Result<()> {
        stream.set_deadline(IDLE);
        if self.shared.offer.tls_first {
            stream = self.secure(stream)?;
        }
        let mut wire = Wire::new(stream);
        if self.answer(
            &mut wire,
            Step::Greeting,
            "",
            "220 inside.example ESMTP ready",
        )? {
            return Ok(());
        }
        loop {
            let Some(line) = wire.line()? else {
                return Ok(());
            };
            self.shared.command(self.number, &line);
            match self.command(&mut wire, &line)? {
                Next::Go => {}
                Next::End => return Ok(()),
                Next::StartTls => {
                    wire = Wire::new(self.secure(wire.into_stream())?);
                    self.greeted = false;
                }
            }
        }
    }

    fn secure(&mut self, stream: Stream) -> io::Result<Stream> {
        let config = self
            .shared
            .tls
            .as_ref()
            .ok_or_else(|| io::Error::other("no certificate"))?;
        self.tls = true;
        stream.into_tls_server(config)
    }

    fn command(&mut self, wire: &mut Wire, line: &str) -> io::Result<Next> {
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        let ended = match verb.to_ascii_uppercase().as_str() {
            "EHLO" | "LHLO" | "HELO" => self.ehlo(wire, verb, argument)?,
            "STARTTLS" if self.shared.tls.is_some() && !self.tls => {
                if self.answer(wire, Step::StartTls, "", "220 2.0.0 go ahead")? {
                    return Ok(Next::End);
                }
                return Ok(if wire.refused {
                    Next::Go
                } else {
                    Next::StartTls
                });
            }
            "AUTH" => self.auth(wire, argument)?,
            "MAIL" => self.mail(wire, argument)?,
            "RCPT" => self.rcpt(wire, argument)?,
            "DATA" => self.data(wire)?,
            "BDAT" => self.bdat(wire, argument)?,
            "RSET" => {
                self.clear();
                self.answer(wire, Step::Rset, "", "250 2.0.0 reset")?
            }
            "NOOP" => self.answer(wire, Step::Noop, "", "250 2.0.0 fine")?,
            "QUIT" => {
                self.answer(wire, Step::Quit, "", "221 2.0.0 goodbye")?;
                true
            }
            _ => wire.say("500 5.5.2 what?")?,
        };
        Ok(if ended { Next::End } else { Next::Go })
    }

    fn ehlo(&mut self, wire: &mut Wire, verb: &str, argument: &str) -> io::Result<bool> {
        self.clear();
        let offer = &self.shared.offer;
        let lmtp = verb.eq_ignore_ascii_case("LHLO");
        if lmtp != offer.lmtp {
            return wire.say("500 5.5.1 wrong protocol");
        }
        self.greeted = true;
        let mut lines = vec!["inside.example".to_owned()];
        if !verb.eq_ignore_ascii_case("HELO") {
            lines.extend(offer.keywords.iter().cloned());
            if offer.certificate.is_some() && !self.tls {
                lines.push("STARTTLS".to_owned());
            }
            if offer.account.is_some() {
                lines.push("AUTH PLAIN".to_owned());
            }
        }
        let last = lines.len() - 1;
        let mut reply = String::new();
        for (number, line) in lines.iter().enumerate() {
            reply.push_str(if number == last { "250 " } else { "250-" });
            reply.push_str(line);
            if number != last {
                reply.push_str("\r\n");
            }
        }
        self.answer(wire, Step::Ehlo, argument, &reply)
    }

    fn auth(&mut self, wire: &mut Wire, argument: &str) -> io::Result<bool> {
        let Some((user, secret)) = &self.shared.offer.account else {
            return wire.say("503 5.5.1 no AUTH here");
        };
        let mut words = argument.split(' ');
        if !words
            .next()
            .unwrap_or_default()
            .eq_ignore_ascii_case("PLAIN")
        {
            return wire.say("504 5.5.4 PLAIN only");
        }
        let response = match words.next() {
            Some(initial) => initial.to_owned(),
            None => {
                wire.say("334 ")?;
                wire.line()?.unwrap_or_default()
            }
        };
        let expected = BASE64.encode(format!("\0{user}\0{secret}"));
        if response != expected {
            return wire.say("535 5.7.8 wrong");
        }
        let ended = self.answer(wire, Step::Auth, argument, "235 2.7.0 welcome")?;
        self.authenticated = !wire.refused;
        Ok(ended)
    }

    fn mail(&mut self, wire: &mut Wire, argument: &str) -> io::Result<bool> {
        if !self.greeted || self.mail.is_some() {
            return wire.say("503 5.5.1 not now");
        }
        if self.shared.offer.account.is_some() && !self.authenticated {
            return wire.say("530 5.7.0 who are you?");
        }
        let ended = self.answer(wire, Step::Mail, argument, "250 2.1.0 sender ok")?;
        if !wire.refused {
            self.mail = Some(argument.get(5..).unwrap_or_default().to_owned());
        }
        Ok(ended)
    }

    fn rcpt(&mut self, wire: &mut Wire, argument: &str) -> io::Result<bool> {
        if self.mail.is_none() {
            return wire.say("503 5.5.1 MAIL first");
        }
        let ended = self.answer(wire, Step::Rcpt, argument, "250 2.1.5 recipient ok")?;
        if !wire.refused {
            self.recipients
                .push(argument.get(3..).unwrap_or_default().to_owned());
        }
        Ok(ended)
    }

    fn data(&mut self, wire: &mut Wire) -> io::Result<bool> {
        if self.recipients.is_empty() {
            return wire.say("554 5.5.1 no recipients");
        }
        if self.answer(wire, Step::Data, "", "354 go on")? {
            return Ok(true);
        }
        if wire.refused {
            return Ok(false);
        }
        loop {
            let mut line = Vec::new();
            if !wire.raw_line(&mut line)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line == b".\r\n" {
                return self.end(wire);
            }
            let line = line.strip_prefix(b".").unwrap_or(&line);
            self.chunks.extend_from_slice(line);
            if self.in_content(wire)? {
                return Ok(true);
            }
        }
    }

    fn bdat(&mut self, wire: &mut Wire, argument: &str) -> io::Result<bool> {
        let mut words = argument.split(' ');
        let size = words.next().unwrap_or_default().parse().unwrap_or(0);
        let last = words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        let mut chunk = vec![0; size];
        wire.input.read_exact(&mut chunk)?;
        if self.recipients.is_empty() {
            return wire.say("503 5.5.1 no recipients");
        }
        self.chunks.extend_from_slice(&chunk);
        if self.in_content(wire)? {
            return Ok(true);
        }
        if last {
            self.end(wire)
        } else {
            wire.say("250 2.0.0 chunk taken")
        }
    }

    /// Content has begun: a hang-up or a stall may be ordered here.
    fn in_content(&mut self, wire: &mut Wire) -> io::Result<bool> {
        match self.shared.order(Step::Content, "") {
            Some(Action::HangUp) => {
                self.shared.torn(std::mem::take(&mut self.chunks));
                wire.hang_up();
                Ok(true)
            }
            None => Ok(false),
            order @ Some(Action::Stall | Action::TakeTime(_)) => {
                self.ponder(order.as_ref());
                Ok(false)
            }
            order => wire.act(order, ""),
        }
    }

    /// The message is complete: one verdict, or with LMTP one for each recipient.
    fn end(&mut self, wire: &mut Wire) -> io::Result<bool> {
        let recipients = std::mem::take(&mut self.recipients);
        let content = std::mem::take(&mut self.chunks);
        let mail = self.mail.take().unwrap_or_default();
        let verdicts = if self.shared.offer.lmtp {
            recipients.len()
        } else {
            1
        };
        let mut actions = Vec::new();
        for recipient in recipients.iter().take(verdicts) {
            let action = self.shared.order(Step::EndOfData, recipient);
            self.ponder(action.as_ref());
            actions.push(action);
        }
        let taken: Vec<String> = if verdicts == recipients.len() {
            let pairs = recipients.into_iter().zip(&actions);
            pairs
                .filter(|(_, action)| takes(action.as_ref()))
                .map(|(path, _)| path)
                .collect()
        } else if takes(actions[0].as_ref()) {
            recipients
        } else {
            Vec::new()
        };
        // Recorded before the answer leaves: who has the answer may look.
        if !taken.is_empty() {
            let arrived = Arrived {
                session: self.number,
                mail,
                recipients: taken,
                content,
            };
            self.shared.arrived(arrived);
        }
        for action in actions {
            if wire.act(action, "250 2.0.0 taken")? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Answers as ordered, or else rightly; true when the connection is over.
    fn answer(&self, wire: &mut Wire, step: Step, text: &str, right: &str) -> io::Result<bool> {
        let action = self.shared.order(step, text);
        self.ponder(action.as_ref());
        wire.act(action, right)
    }

    fn ponder(&self, action: Option<&Action>) {
        match action {
            Some(Action::Stall) => self.shared.stall(),
            Some(Action::TakeTime(time)) => std::thread::sleep(*time),
            _ => {}
        }
    }

    fn clear(&mut self) {
        self.mail = None;
        self.recipients.clear();
        self.chunks.clear();
    }
}

/// Whether the message is taken under this order.
fn takes(action: Option<&Action>) -> bool {
    match action {
        None | Some(Action::Stall | Action::TakeAndHangUp | Action::TakeTime(_)) => true,
        Some(Action::HangUp | Action::Raw(_)) => false,
        Some(Action::Reply(reply)) => reply.starts_with('2'),
    }
}

/// The connection with its input buffer.
struct Wire {
    input: BufReader<Stream>,
    /// The last answer was neither 2yz nor 3yz.
    refused: bool,
}

impl Wire {
    fn new(stream: Stream) -> Self {
        Self {
            input: BufReader::with_capacity(64 * 1024, stream),
            refused: false,
        }
    }

    fn into_stream(self) -> Stream {
        self.input.into_inner()
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        if !self.raw_line(&mut line)? {
            return Ok(None);
        }
        let text = line.strip_suffix(b"\r\n").unwrap_or(&line);
        Ok(Some(String::from_utf8_lossy(text).into_owned()))
    }

    /// A line to its LF; false at the end of the stream.
    fn raw_line(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        self.input.read_until(b'\n', line)?;
        Ok(line.ends_with(b"\n"))
    }

    fn act(&mut self, action: Option<Action>, right: &str) -> io::Result<bool> {
        match action {
            None | Some(Action::Stall | Action::TakeTime(_)) => self.say(right),
            Some(Action::Reply(reply)) => self.say(&reply),
            Some(Action::Raw(octets)) => {
                self.refused = true;
                self.raw(&octets)
            }
            Some(Action::HangUp | Action::TakeAndHangUp) => {
                self.hang_up();
                Ok(true)
            }
        }
    }

    fn say(&mut self, reply: &str) -> io::Result<bool> {
        self.refused = !reply.starts_with(['2', '3']);
        self.raw(format!("{reply}\r\n").as_bytes())
    }

    fn raw(&mut self, octets: &[u8]) -> io::Result<bool> {
        let stream = self.input.get_mut();
        stream.write_all(octets)?;
        stream.flush()?;
        Ok(false)
    }

    fn hang_up(&mut self) {
        self.input.get_mut().switch().off();
    }
}
