//! What was said and what was answered, in pairs, for a driver that keeps a record of its connection.
//!
//! The machines keep them only if they are asked to. Nothing secret and no content gets as far: of AUTH the name of a
//! known mechanism is kept, of a line that is no command its length, of content nothing.

use std::borrow::Cow;
use std::collections::VecDeque;

use super::command::{self, Verb};
use super::reply::{EnhancedCode, Reply};
use crate::sasl::Mechanism;

/// Octets of an argument, or of the words of a refusal, that are kept. No command that is taken is longer, but with
/// many parameters.
pub const TEXT_OCTETS_MAX: usize = 512;
/// The same for the arguments of commands that nothing comes of: anybody may repeat them with as many octets as a
/// line has.
pub const IDLE_TEXT_OCTETS_MAX: usize = 64;

/// What a reply answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum What {
    /// A response in an AUTH exchange.
    AuthResponse,
    /// A command.
    Command(Verb),
    /// The end of the content of DATA.
    Content,
    /// A line that is no command.
    Garbage,
    /// Nothing that was said: a 421 at a time-out or a shutdown.
    Nothing,
}

/// What one side said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Said {
    /// What it is.
    pub what: What,
    /// The argument of a command, cut at [`TEXT_OCTETS_MAX`], or at [`IDLE_TEXT_OCTETS_MAX`] where it tells nothing of mail.
    pub argument: String,
    /// Octets of the line, with its end.
    pub octets: usize,
}

/// What the other side answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The code.
    pub code: u16,
    /// The enhanced code.
    pub enhanced: Option<EnhancedCode>,
    /// The words of a refusal, cut at [`TEXT_OCTETS_MAX`]; those of a yes are kept only where a peer says it to content, as
    /// they tell what became of it.
    pub text: Cow<'static, str>,
    /// Octets of the reply, about: its first line.
    pub octets: usize,
}

/// One pair. There is no answer where the connection ended before.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exchange {
    /// What was said.
    pub said: Said,
    /// What was answered.
    pub answer: Option<Answer>,
}

impl Said {
    fn new(what: What, octets: usize) -> Self {
        Self {
            what,
            argument: String::new(),
            octets,
        }
    }

    /// A line without its end.
    fn line(line: &[u8]) -> Self {
        let octets = line.len() + 2;
        match command::split(line) {
            Some((verb, argument)) => Self::command(verb, argument, octets),
            None => Self::new(What::Garbage, octets),
        }
    }

    fn command(verb: Verb, argument: &str, octets: usize) -> Self {
        let argument = match verb {
            // Whatever else stands behind AUTH may be a secret, also where a mechanism belongs.
            Verb::Auth => mechanism(argument),
            // Who speaks, who sends, to whom, and which mail is asked for.
            Verb::Atrn | Verb::Ehlo | Verb::Helo | Verb::Lhlo | Verb::Mail | Verb::Rcpt => {
                cut(argument, TEXT_OCTETS_MAX)
            }
            _ => cut(argument, IDLE_TEXT_OCTETS_MAX),
        };
        Self {
            what: What::Command(verb),
            argument: argument.to_owned(),
            octets,
        }
    }
}

fn mechanism(argument: &str) -> &'static str {
    let name = argument.split(' ').next().unwrap_or_default();
    Mechanism::from_name(name).map_or("", Mechanism::name)
}

impl Answer {
    fn of(reply: &Reply, words: Words) -> Self {
        let is_refusal = reply.is_transient() || reply.is_permanent();
        let text = match reply.lines() {
            _ if words == Words::OfRefusals && !is_refusal => Cow::Borrowed(""),
            [Cow::Borrowed(only)] => Cow::Borrowed(cut(only, TEXT_OCTETS_MAX)),
            [Cow::Owned(only)] => Cow::Owned(cut(only, TEXT_OCTETS_MAX).to_owned()),
            _ => Cow::Owned(cut(&reply.text(), TEXT_OCTETS_MAX).to_owned()),
        };
        let words = reply.lines().first().map_or(0, |line| line.len());
        let codes = if reply.enhanced().is_some() { 10 } else { 4 };
        Self {
            code: reply.code(),
            enhanced: reply.enhanced(),
            text,
            octets: codes + words + 2,
        }
    }
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// Which words are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Words {
    /// Also those of a yes.
    All,
    OfRefusals,
}

/// The pairs of one machine, in the order of what was said.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    are_kept: bool,
    /// Said, and no reply is due for it yet.
    current: Option<Said>,
    /// For each reply that is due, what it answers.
    open: VecDeque<Said>,
    done: Vec<Exchange>,
}

impl Exchanges {
    /// From now on.
    pub(crate) fn keep(&mut self) {
        self.are_kept = true;
    }

    /// A line came, or goes out; without its end.
    pub(crate) fn line(&mut self, line: &[u8]) {
        if self.are_kept {
            self.current = Some(Said::line(line));
        }
    }

    /// The same for one that is taken apart already; `octets` with its end.
    pub(crate) fn command(&mut self, verb: Verb, argument: &str, octets: usize) {
        if self.are_kept {
            self.current = Some(Said::command(verb, argument, octets));
        }
    }

    /// Something else was said, of so many octets.
    pub(crate) fn said(&mut self, what: What, octets: usize) {
        if self.are_kept {
            self.current = Some(Said::new(what, octets));
        }
    }

    /// The content ends; where a command still waits for its reply, as BDAT does, it is that which is answered.
    pub(crate) fn content_ends(&mut self) {
        if self.are_kept && self.current.is_none() {
            self.current = Some(Said::new(What::Content, 0));
        }
    }

    /// A reply is due, behind the others, to what was said last.
    pub(crate) fn opened(&mut self) {
        if self.are_kept {
            let said = self.current.take();
            self.open
                .push_back(said.unwrap_or_else(|| Said::new(What::Nothing, 0)));
        }
    }

    /// That reply is not due yet after all: what was said goes on.
    pub(crate) fn withdrawn(&mut self, position: usize) {
        if self.are_kept {
            self.current = self.open.remove(position);
        }
    }

    /// The oldest reply that is due was given.
    pub(crate) fn answered(&mut self, reply: &Reply) {
        self.answered_with(reply, Words::OfRefusals);
    }

    /// The same, with these words of it.
    pub(crate) fn answered_with(&mut self, reply: &Reply, words: Words) {
        if self.are_kept
            && let Some(said) = self.open.pop_front()
        {
            let answer = Some(Answer::of(reply, words));
            self.done.push(Exchange { said, answer });
        }
    }

    /// A reply goes out that was never due.
    pub(crate) fn answered_at_once(&mut self, reply: &Reply) {
        self.opened();
        self.answered(reply);
    }

    /// What is open will never be answered.
    pub(crate) fn given_up(&mut self) {
        let open = self.open.drain(..);
        self.done
            .extend(open.map(|said| Exchange { said, answer: None }));
        self.current = None;
    }

    /// What was answered since it was last asked for.
    pub(crate) fn take(&mut self) -> Vec<Exchange> {
        std::mem::take(&mut self.done)
    }

    /// Gives back what a burst needed.
    pub(crate) fn release(&mut self) {
        if self.open.is_empty() {
            self.open = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_kept() {
        for (line, what, argument) in [
            (
                &b"AUTH PLAIN AGNvcnAAc2VjcmV0"[..],
                What::Command(Verb::Auth),
                "PLAIN",
            ),
            (b"auth plain", What::Command(Verb::Auth), "PLAIN"),
            (b"AUTH hunter2", What::Command(Verb::Auth), ""),
            (b"AUTH", What::Command(Verb::Auth), ""),
            (b"AGNvcnAAc2VjcmV0", What::Garbage, ""),
            (b"\xff\xfe", What::Garbage, ""),
            (
                b"MAIL FROM:<a@b.example>",
                What::Command(Verb::Mail),
                "FROM:<a@b.example>",
            ),
        ] {
            let said = Said::line(line);
            assert_eq!((said.what, said.argument.as_str()), (what, argument));
            assert_eq!(said.octets, line.len() + 2);
        }
    }

    #[test]
    fn what_is_kept_is_cut_between_two_characters() {
        let line = format!("MAIL {}", "ü".repeat(TEXT_OCTETS_MAX));
        let said = Said::line(line.as_bytes());
        assert_eq!(said.argument.len(), TEXT_OCTETS_MAX);
        for verb in ["NOOP", "HELP", "VRFY", "EXPN", "BDAT"] {
            let said = Said::line(format!("{verb} x{}", "ü".repeat(200)).as_bytes());
            assert_eq!(said.argument.len(), IDLE_TEXT_OCTETS_MAX - 1, "{verb}");
        }
        let reply = Reply::bare(550, "x".repeat(TEXT_OCTETS_MAX + 1));
        let of = |reply: &Reply, words| Answer::of(reply, words).text;
        assert_eq!(of(&reply, Words::OfRefusals).len(), TEXT_OCTETS_MAX);
        let yes = Reply::bare(250, "yes");
        assert_eq!(of(&yes, Words::OfRefusals), "");
        assert_eq!(of(&yes, Words::All), "yes");
    }

    #[test]
    fn nothing_is_kept_unasked() {
        let mut exchanges = Exchanges::default();
        exchanges.line(b"NOOP");
        exchanges.answered_at_once(&Reply::bare(250, "Ok"));
        exchanges.given_up();
        assert!(exchanges.take().is_empty());
    }
}
