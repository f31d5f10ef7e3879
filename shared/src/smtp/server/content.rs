//! Content of the receiving side: framing undone, looked at, passed on or dropped.

use super::{Event, Server, Slot, State, Step, Summary};
use crate::smtp::bdat::Chunk;
use crate::smtp::content::{Fault, Inspector};
use crate::smtp::data::{self, Framed};
use crate::smtp::line::Input;
use crate::smtp::reply::Reply;

/// Content under way.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) framing: Decoder,
    pub(super) inspector: Inspector,
    /// Octets dropped since the content was refused.
    pub(super) swallowed: u64,
}

impl Body {
    pub(super) fn new(framing: Decoder, inspector: Inspector) -> Self {
        Self {
            framing,
            inspector,
            swallowed: 0,
        }
    }
}

#[derive(Debug)]
pub(super) enum Decoder {
    Bdat(Chunk),
    Data(data::Decoder),
}

impl Decoder {
    fn next(&mut self, input: &mut Input) -> Framed {
        match self {
            Self::Bdat(chunk) => chunk.next(input),
            Self::Data(decoder) => decoder.next(input),
        }
    }

    /// Whether its end is the end of the message too.
    fn is_last(&self) -> bool {
        match self {
            Self::Bdat(chunk) => chunk.last,
            Self::Data(_) => true,
        }
    }
}

impl Server {
    /// Reads on inside the content.
    pub(super) fn next_content(&mut self, input: &mut Input) -> Step {
        match &mut self.state {
            State::Content(body) => match body.framing.next(input) {
                Framed::NeedInput => Step::Event(Event::NeedInput),
                Framed::End => self.end_of_content().into(),
                Framed::Content(count) => match body.inspector.look(&input.bytes()[..count]) {
                    Ok(()) => Step::Body(count),
                    Err(fault) => {
                        input.take(count);
                        self.refuse_content(fault).into()
                    }
                },
            },
            State::Swallow(body, _) => match body.framing.next(input) {
                Framed::NeedInput => Step::Event(Event::NeedInput),
                Framed::End => self.end_of_swallowed().into(),
                Framed::Content(count) => {
                    input.take(count);
                    body.swallowed += count as u64;
                    self.bound_swallowing();
                    Step::Again
                }
            },
            _ => Step::Again,
        }
    }

    /// The content has a fault: refused at once, or when it is known whether anybody would have had it.
    fn refuse_content(&mut self, fault: Fault) -> Option<Event<'static>> {
        if !self.is_ahead() {
            return self.swallow(fault.reply());
        }
        if let State::Content(body) = std::mem::replace(&mut self.state, State::Command) {
            self.state = State::Faulty(body, fault);
        }
        None
    }

    /// All that was asked in front of the faulty content is answered: on as if it had come only now.
    pub(super) fn faulty(&mut self) -> Option<Event<'static>> {
        let State::Faulty(body, fault) = std::mem::replace(&mut self.state, State::Command) else {
            return None;
        };
        if let Err(reply) = self.may_send_content() {
            self.state = State::Swallow(body, reply);
            return None;
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.is_ahead = false;
        }
        self.state = State::Content(body);
        self.swallow(fault.reply())
    }

    fn is_ahead(&self) -> bool {
        let transaction = self.transaction.as_ref();
        transaction.is_some_and(|transaction| transaction.is_ahead)
    }

    /// The content is refused, and dropped up to its true end: only there does the peer hear it.
    fn swallow(&mut self, reply: Reply) -> Option<Event<'static>> {
        if let State::Content(mut body) = std::mem::replace(&mut self.state, State::Command) {
            body.swallowed = body.inspector.octets();
            self.state = State::Swallow(body, reply.clone());
            self.errors += 1;
            self.bound_swallowing();
        }
        self.abandon(Some(reply))
    }

    /// A client that sends more than twice the limit will not listen either (R5321-21).
    fn bound_swallowing(&mut self) {
        let octets_max = self.message_octets_max();
        if let State::Swallow(body, reply) = &self.state
            && body.swallowed > octets_max.saturating_mul(2)
        {
            let reply = reply.clone();
            self.exchanges.content_ends();
            self.refuse_and_close(reply);
        }
    }

    fn end_of_content(&mut self) -> Option<Event<'static>> {
        let State::Content(body) = std::mem::replace(&mut self.state, State::Command) else {
            return None;
        };
        if !body.framing.is_last() {
            self.say(Reply::new(250, "2.0.0", "Chunk taken"));
            self.between_chunks = Some(body.inspector);
            return None;
        }
        self.exchanges.content_ends();
        if let Err(fault) = body.inspector.end() {
            if self.is_ahead() {
                self.state = State::Faulty(body, fault);
                return None;
            }
            self.refuse(fault.reply());
            return self.abandon(Some(fault.reply()));
        }
        self.lines_at_message = self.lines_read;
        let transaction = self.transaction.take();
        let number = transaction.as_ref().map_or(0, |open| open.number);
        self.ahead.extend(transaction.filter(|open| open.is_ahead));
        self.due(Slot::EndOfMessage(number));
        Some(Event::EndOfMessage(Summary {
            octets: body.inspector.octets(),
            eight_bit: body.inspector.eight_bit(),
        }))
    }

    fn end_of_swallowed(&mut self) -> Option<Event<'static>> {
        let State::Swallow(body, reply) = std::mem::replace(&mut self.state, State::Command) else {
            return None;
        };
        self.exchanges.content_ends();
        self.say(reply);
        self.check_errors();
        if self.transaction.is_some() && !self.is_open() && !body.framing.is_last() {
            // The other chunks of what was not wanted are on their way, and no more the client's fault than this one.
            return None;
        }
        self.abandon(None)
    }
}
