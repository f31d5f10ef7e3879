//! The receiving side: any client, any pieces, any answers of the driver.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use atrn_shared::smtp::exchange::{Exchange, TEXT_OCTETS_MAX};
use atrn_shared::smtp::extension::Extensions;
use atrn_shared::smtp::limits::COMMAND_LINE_OCTETS;
use atrn_shared::smtp::line::Input;
use atrn_shared::smtp::reply::Reply;
use atrn_shared::smtp::server::{Config, Event, Framing, Server, Tls};

use crate::case::{Case, Cuts, pieces};
use crate::client::read_replies;
use crate::reference::{has_bare_line_end, walk};

/// Octets of a message at the server that has little room.
pub(crate) const SMALL_MESSAGE_OCTETS: u64 = 60;

/// A message as the driver saw it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Content {
    pub(crate) is_data: bool,
    /// Not compared where the message was abandoned: how much of it was seen before depends on its pieces.
    pub(crate) octets: Vec<u8>,
    /// The driver was asked whether it was taken.
    pub(crate) is_whole: bool,
}

/// All that a client and a driver can tell of a session.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Seen {
    pub(crate) replies: Vec<Reply>,
    /// What the log is told.
    exchanges: Vec<Exchange>,
    pub(crate) contents: Vec<Content>,
    pub(crate) closed: bool,
}

/// Every question is answered once and in order; content comes where it was let in, whole and as it was sent; replies are
/// replies; nothing grows; and the pieces in which a flight comes change nothing.
pub fn smtp_server(data: &[u8]) {
    let Some(case) = Case::read(data) else {
        return;
    };
    let whole = Session::run(case, Cuts::None);
    walk(case, &whole);
    if case.option(OPTION_LATE_ANSWERS) {
        // When an answer comes, it may matter whether a command was there already: only the framing is held to be the same.
        walk(case, &Session::run(case, Cuts::InsideLines));
        return;
    }
    // Some commands must be the last of what is there; where all were, no piece can make one that was not.
    let cuts = if whole.replies.iter().any(is_about_pipelining) {
        Cuts::InsideLines
    } else {
        Cuts::Anywhere
    };
    assert_eq!(
        Session::run(case, cuts),
        whole,
        "the pieces made a difference"
    );
}

fn is_about_pipelining(reply: &Reply) -> bool {
    let text = reply.text();
    text.starts_with("Nothing may be pipelined") || text.starts_with("Wait for 354")
}

const OPTION_SMALL: u8 = 0;
const OPTION_TLS: u8 = 1;
const OPTION_READ_AHEAD: u8 = 2;
const OPTION_LATE_ANSWERS: u8 = 3;
const OPTION_CLOSES: u8 = 4;
/// Of two bits: how many of the answers are refusals.
const OPTION_REFUSES: u8 = 6;

/// The one with room, and the one without.
static CONFIGS: LazyLock<[Arc<Config>; 2]> = LazyLock::new(|| {
    let extensions = Extensions {
        chunking: true,
        delivery_id: true,
        dsn: true,
        eight_bit_mime: true,
        enhanced_status_codes: true,
        pipelining: true,
        size: Some(10_000),
        smtputf8: true,
        ..Extensions::default()
    };
    let roomy = Config::new("mx.example", extensions.clone());
    let small = Config {
        recipients_max: 2,
        errors_max: 4,
        commands_max: 12,
        header_octets_max: 30,
        received_max: 1,
        ..Config::new(
            "mx.example",
            Extensions {
                size: Some(SMALL_MESSAGE_OCTETS),
                smtputf8: false,
                ..extensions
            },
        )
    };
    [Arc::new(roomy), Arc::new(small)]
});

/// What the driver was asked and has not answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Question {
    Mail,
    Recipient,
    Content,
    EndOfMessage,
}

struct Session<'d> {
    case: Case<'d>,
    server: Server,
    questions: VecDeque<Question>,
    answers: fastrand::Rng,
    delays: fastrand::Rng,
    /// Content flows.
    open: bool,
    seen: Seen,
}

impl<'d> Session<'d> {
    fn run(case: Case<'d>, cuts: Cuts) -> Seen {
        let config = &CONFIGS[usize::from(case.option(OPTION_SMALL))];
        let tls = if case.option(OPTION_TLS) {
            Tls::Offered
        } else {
            Tls::Unavailable
        };
        let mut session = Self {
            case,
            server: Server::new(config.clone(), tls),
            questions: VecDeque::new(),
            answers: case.choices(1),
            delays: case.choices(2),
            open: false,
            seen: Seen::default(),
        };
        session.server.keep_exchanges();
        let mut input = Input::new();
        let mut cut = case.choices(3);
        for flight in case.flights() {
            for piece in pieces(flight, cuts, cut.fork()) {
                input.push(piece);
                session.drive(&mut input);
            }
            session.settle(&mut input);
            if session.seen.closed {
                break;
            }
        }
        session.end()
    }

    /// Until the machine wants to read.
    fn drive(&mut self, input: &mut Input) {
        if self.seen.closed {
            return;
        }
        let mut steps = input.bytes().len() + 16;
        loop {
            steps = steps.checked_sub(1).expect("the machine makes progress");
            assert_eq!(self.server.is_asking(), !self.questions.is_empty());
            match self.server.next(input) {
                Event::NeedInput if self.server.needs_answers() => self.answer_one(),
                Event::NeedInput => break,
                Event::Closed => {
                    assert_eq!(self.server.next(input), Event::Closed);
                    self.seen.closed = true;
                    return;
                }
                Event::StartTls => {
                    assert!(input.is_empty(), "octets from before the handshake");
                    self.server.tls_started();
                }
                Event::Body(part) => {
                    assert!(self.open && !part.is_empty());
                    let content = self.seen.contents.last_mut().expect("content was opened");
                    content.octets.extend_from_slice(part);
                }
                Event::Abandoned(_) => {
                    if std::mem::take(&mut self.open)
                        && let Some(content) = self.seen.contents.last_mut()
                    {
                        content.octets.clear();
                    }
                }
                Event::Mail(..) => self.ask(Question::Mail),
                Event::Recipient(..) => self.ask(Question::Recipient),
                Event::Content(framing) => self.asked_for_content(framing),
                Event::EndOfMessage(summary) => {
                    assert!(std::mem::take(&mut self.open), "an end without content");
                    let content = self.seen.contents.last_mut().expect("content was opened");
                    content.is_whole = true;
                    assert_eq!(summary.octets, content.octets.len() as u64);
                    assert_eq!(summary.eight_bit, !content.octets.is_ascii());
                    assert!(!has_bare_line_end(&content.octets), "smuggled");
                    self.ask(Question::EndOfMessage);
                }
            }
        }
        let waiting = input.bytes().len();
        assert!(waiting <= COMMAND_LINE_OCTETS, "{waiting} octets wait");
    }

    fn ask(&mut self, question: Question) {
        self.questions.push_back(question);
        if !self.case.option(OPTION_LATE_ANSWERS) {
            self.answer_one();
        }
    }

    fn asked_for_content(&mut self, framing: Framing) {
        self.seen.contents.push(Content {
            is_data: framing == Framing::Data,
            octets: Vec::new(),
            is_whole: false,
        });
        if self.case.option(OPTION_READ_AHEAD)
            && matches!(framing, Framing::Bdat { octets: Some(_) })
        {
            self.server.read_ahead();
            self.open = true;
        } else {
            self.ask(Question::Content);
        }
    }

    fn answer_one(&mut self) {
        let question = self
            .questions
            .pop_front()
            .expect("somebody waits for an answer");
        if self.case.option(OPTION_CLOSES) && self.answers.u8(..16) == 0 {
            self.questions.push_front(question);
            return self.close();
        }
        let reply = self.choose(question);
        if question == Question::Content {
            self.open = reply.is_intermediate();
        }
        let is_refusal = !reply.is_positive() && !reply.is_intermediate();
        self.server.answer(reply);
        if is_refusal && self.answers.u8(..4) == 0 {
            self.server.count_error();
        }
    }

    /// Nobody hears the answers that are due, so the reference does not see what they were to.
    fn close(&mut self) {
        self.server
            .close(Reply::new(421, "4.3.0", "The driver has enough"));
        self.open = false;
        let ends = self
            .questions
            .drain(..)
            .filter(|question| *question == Question::EndOfMessage);
        let whole = self
            .seen
            .contents
            .iter_mut()
            .rev()
            .filter(|content| content.is_whole);
        for (content, _) in whole.zip(ends) {
            content.is_whole = false;
        }
    }

    fn choose(&mut self, question: Question) -> Reply {
        let refuses = [1, 4, 8, 12][usize::from(self.case.options() >> OPTION_REFUSES)];
        match (self.answers.u8(..16) < refuses, question) {
            (true, _) => match self.answers.u8(..4) {
                0 => Reply::new(550, "5.7.1", "No"),
                1 => Reply::new(451, "4.3.0", "Later"),
                2 if question == Question::Mail => Reply::new(258, "2.0.0", "Here already"),
                2 if question == Question::Recipient => Reply::new(258, "2.1.5", "Has it already"),
                _ => Reply::new(552, "5.3.4", "No\r\n250 2.0.0 Yes"),
            },
            (false, Question::Content) => Reply::bare(354, "Go on"),
            (false, _) => Reply::new(250, "2.0.0", "Yes"),
        }
    }

    /// What a client waits for between two flights.
    fn settle(&mut self, input: &mut Input) {
        while !self.questions.is_empty() && !self.seen.closed {
            self.answer_one();
            self.drive(input);
        }
        let refusals = self.server.take_refusals().len();
        assert!(refusals <= 32, "{refusals} refusals are kept");
        let output = std::mem::take(&mut self.server.output);
        self.seen.replies.extend(read_replies(&output));
        self.seen.exchanges.extend(self.server.take_exchanges());
        if self.delays.bool() {
            input.release();
        }
    }

    fn end(mut self) -> Seen {
        assert!(self.seen.closed || self.server.replies_due() == 0);
        self.check_exchanges();
        for content in &mut self.seen.contents {
            if !content.is_whole {
                content.octets.clear();
            }
        }
        self.seen
    }
    /// The log is told of each reply but the greeting, in their order, and of nothing longer than it says.
    fn check_exchanges(&self) {
        let answers = self
            .seen
            .exchanges
            .iter()
            .filter_map(|exchange| exchange.answer.as_ref());
        let replies = self.seen.replies.iter().skip(1);
        assert!(
            answers
                .map(|answer| answer.code)
                .eq(replies.map(Reply::code))
        );
        for exchange in &self.seen.exchanges {
            assert!(exchange.said.argument.len() <= TEXT_OCTETS_MAX);
        }
    }
}
