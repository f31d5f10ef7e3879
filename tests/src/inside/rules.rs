//! Orders to misbehave: at which step, for whom, how often, and how.

use std::time::Duration;

use super::Inside;

/// A place in the dialogue where the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The greeting.
    Greeting,
    /// EHLO, HELO or LHLO.
    Ehlo,
    /// STARTTLS.
    StartTls,
    /// AUTH.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, before its 354.
    Data,
    /// In the middle of content, when its first line has come.
    Content,
    /// After the lone dot or the last BDAT chunk.
    EndOfData,
    /// NOOP.
    Noop,
    /// RSET.
    Rset,
    /// QUIT.
    Quit,
}

/// What the server does in place of the right thing.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Reply(String),
    Raw(Vec<u8>),
    HangUp,
    Stall,
    TakeAndHangUp,
    TakeTime(Duration),
}

#[derive(Debug)]
pub(super) struct Rule {
    step: Step,
    text: String,
    skip: usize,
    left: usize,
    action: Action,
}

impl Rule {
    pub(super) fn apply(&mut self, step: Step, text: &str) -> Option<Action> {
        if self.step != step || self.left == 0 || !text.contains(&self.text) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.left -= 1;
        Some(self.action.clone())
    }
}

/// An order being given; it holds when its action is named.
#[derive(Debug)]
#[must_use]
pub struct Order<'a> {
    inside: &'a Inside,
    step: Step,
    text: String,
    skip: usize,
    left: usize,
}

impl<'a> Order<'a> {
    pub(super) fn new(inside: &'a Inside, step: Step) -> Self {
        Self {
            inside,
            step,
            text: String::new(),
            skip: 0,
            left: usize::MAX,
        }
    }

    /// Only where the argument contains this text.
    pub fn with(mut self, text: &str) -> Self {
        text.clone_into(&mut self.text);
        self
    }

    /// Only the first time.
    pub fn once(mut self) -> Self {
        self.left = 1;
        self
    }

    /// Not the first times.
    pub fn after(mut self, count: usize) -> Self {
        self.skip = count;
        self
    }

    /// Answers with this reply; CRLF is added.
    pub fn reply(self, reply: &str) {
        self.give(Action::Reply(reply.to_owned()));
    }

    /// Sends just these octets.
    pub fn raw(self, octets: &[u8]) {
        self.give(Action::Raw(octets.to_owned()));
    }

    /// Closes the connection.
    pub fn hang_up(self) {
        self.give(Action::HangUp);
    }

    /// Does the right thing, but closes the connection where the answer should be.
    pub fn take_and_hang_up(self) {
        self.give(Action::TakeAndHangUp);
    }

    /// Says nothing until [`Inside::release`], then does the right thing.
    pub fn stall(self) {
        self.give(Action::Stall);
    }

    /// Ponders for so long, then does the right thing.
    pub fn take_time(self, time: Duration) {
        self.give(Action::TakeTime(time));
    }

    fn give(self, action: Action) {
        let Self {
            inside,
            step,
            text,
            skip,
            left,
        } = self;
        inside.add(Rule {
            step,
            text,
            skip,
            left,
            action,
        });
    }
}
