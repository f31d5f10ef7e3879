//! Content that is read ahead of the answers to its envelope: whoever is asked late says the same, in the same order.

use super::*;

/// A machine past its hello, with nothing in the output.
fn greeted() -> (Server, Input) {
    let patient = Config {
        errors_max: u32::MAX,
        ..(*config()).clone()
    };
    let mut server = Server::new(Arc::new(patient), Tls::Unavailable);
    let mut input = Input::new();
    input.push(b"EHLO c.example\r\n");
    assert_eq!(server.next(&mut input), Event::NeedInput);
    server.output.clear();
    (server, input)
}

fn said(server: &Server) -> Vec<String> {
    let replies = String::from_utf8(server.output.clone()).unwrap();
    codes(&replies).into_iter().map(str::to_owned).collect()
}

// covers: R2920-1, R3030-1, R5321-28
#[test]
fn messages_are_read_before_any_of_them_is_answered() {
    let (mut server, mut input) = greeted();
    let message = "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 3 LAST\r\nx\r\n";
    input.push(format!("{message}RSET\r\n{message}").as_bytes());
    for _ in 0..2 {
        assert!(matches!(server.next(&mut input), Event::Mail(..)));
        assert!(matches!(server.next(&mut input), Event::Recipient(..)));
        assert!(matches!(server.next(&mut input), Event::Content(_)));
        assert!(server.needs_answers());
        server.read_ahead();
        assert!(!server.needs_answers() && server.is_asking());
        assert_eq!(server.next(&mut input), Event::Body(b"x\r\n"));
        assert!(matches!(server.next(&mut input), Event::EndOfMessage(_)));
    }
    assert_eq!(server.next(&mut input), Event::NeedInput);
    assert!(server.output.is_empty() && !server.needs_answers());
    assert_eq!(server.replies_due(), 7);
    for (code, enhanced) in [
        (250, "2.1.0"),
        (550, "5.1.1"),
        (250, "2.0.0"),
        (550, "5.7.1"),
        (250, "2.1.5"),
        (250, "2.0.0"),
    ] {
        server.answer(Reply::new(code, enhanced, "so"));
    }
    // The first had no recipient, and RSET stands where it stood. The second was refused, and nothing follows from that.
    assert_eq!(
        said(&server),
        ["250", "550", "554", "250", "550", "503", "503"]
    );
}

// covers: R5321-22
#[test]
fn nothing_that_was_known_overtakes_a_question_that_stays_open() {
    let (mut server, mut input) = greeted();
    let message = "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 3 LAST\r\nx\r\n";
    input.push(format!("{message}RSET\r\nNOOP\r\n{message}").as_bytes());
    loop {
        match server.next(&mut input) {
            Event::NeedInput => break,
            Event::Content(_) => server.read_ahead(),
            _ => {}
        }
    }
    server.answer(Reply::new(250, "2.1.0", "Ok"));
    server.close(Reply::new(421, "4.3.2", "Shutting down"));
    assert_eq!(server.next(&mut input), Event::Closed);
    // Else the 250 to RSET would be the verdict on the first message.
    assert_eq!(said(&server), ["250", "421"]);
}

/// What a driver makes of a dialogue.
#[derive(Debug, Default, Eq, PartialEq)]
struct Outcome {
    codes: Vec<String>,
    taken: Vec<String>,
    closed: bool,
}

/// A driver that answers when it likes.
struct Late<'d> {
    server: Server,
    input: Input,
    decisions: std::iter::Cycle<std::iter::Copied<std::slice::Iter<'d, bool>>>,
    /// Questions that were asked, as the one at their end would answer them.
    open: VecDeque<Question>,
    content: String,
    outcome: Outcome,
}

enum Question {
    Mail { reply: Reply, named: bool },
    Recipient(Reply),
    Content,
    End(String),
}

impl<'d> Late<'d> {
    /// `decisions`: whether to answer, and whether to read ahead, in turn; none: always at once, never ahead.
    fn run(dialogue: &str, pieces: usize, decisions: &'d [bool]) -> Outcome {
        let may_be_late = !decisions.is_empty();
        let (server, input) = greeted();
        let mut driver = Self {
            server,
            input,
            decisions: decisions.iter().copied().cycle(),
            open: VecDeque::new(),
            content: String::new(),
            outcome: Outcome::default(),
        };
        let mut pieces = dialogue.as_bytes().chunks(pieces);
        let mut envelope = Envelope::default();
        loop {
            while !driver.open.is_empty() && (!may_be_late || driver.decides()) {
                driver.answer(&mut envelope);
            }
            let needs_input = driver.event(may_be_late);
            if !needs_input {
                if driver.outcome.closed {
                    break;
                }
                continue;
            }
            if driver.server.needs_answers() {
                driver.answer_all(&mut envelope);
                continue;
            }
            match pieces.next() {
                Some(piece) => driver.input.push(piece),
                None => break,
            }
        }
        driver.answer_all(&mut envelope);
        // Behind a refused sender, what for a later command is refused depends on whether that is known yet.
        let refused = |code: String| match code.starts_with('5') {
            true => "5yz".to_owned(),
            false => code,
        };
        driver.outcome.codes = said(&driver.server).into_iter().map(refused).collect();
        driver.outcome
    }

    fn decides(&mut self) -> bool {
        self.decisions.next().unwrap_or(false)
    }

    /// Takes an event; whether it was that more is needed.
    fn event(&mut self, may_be_late: bool) -> bool {
        let question = match self.server.next(&mut self.input) {
            Event::NeedInput => return true,
            Event::Closed => {
                self.outcome.closed = true;
                return false;
            }
            Event::Body(part) => {
                self.content += &String::from_utf8_lossy(part);
                return false;
            }
            Event::Abandoned(_) | Event::StartTls => return false,
            Event::Mail(path, parameters) => Question::Mail {
                reply: verdict(&path.to_string()),
                named: parameters.delivery_id.is_some(),
            },
            Event::Recipient(path, _) => Question::Recipient(verdict(&path.to_string())),
            Event::Content(framing) => {
                self.content.clear();
                let is_whole = matches!(framing, Framing::Bdat { octets: Some(_) });
                if may_be_late && is_whole && self.decides() {
                    self.server.read_ahead();
                    return false;
                }
                Question::Content
            }
            Event::EndOfMessage(_) => Question::End(std::mem::take(&mut self.content)),
        };
        self.open.push_back(question);
        false
    }

    fn answer_all(&mut self, envelope: &mut Envelope) {
        while !self.open.is_empty() {
            self.answer(envelope);
        }
    }

    fn answer(&mut self, envelope: &mut Envelope) {
        let Some(question) = self.open.pop_front() else {
            return;
        };
        let reply = match question {
            Question::Mail { reply, named } => {
                let is_open = reply.is_positive() && !(named && reply.is_already_delivered());
                *envelope = Envelope {
                    named,
                    is_open,
                    accepted: 0,
                };
                reply
            }
            Question::Recipient(reply) => {
                let is_new = !(envelope.named && reply.is_already_delivered());
                envelope.accepted += usize::from(reply.is_positive() && is_new);
                reply
            }
            Question::Content => Reply::bare(354, "Go ahead"),
            Question::End(content) => {
                if envelope.is_open && envelope.accepted > 0 {
                    self.outcome.taken.push(content);
                }
                Reply::new(250, "2.0.0", "Taken")
            }
        };
        self.server.answer(reply);
    }
}

/// What a driver knows of the envelope that it answers just now.
#[derive(Default)]
struct Envelope {
    named: bool,
    is_open: bool,
    accepted: usize,
}

prop_compose! {
    /// A transaction as a client pipelines it, and what it does behind it.
    fn transaction()(
        mail in prop_oneof![
            4 => Just("MAIL FROM:<a@b.example>\r\n"), 2 => Just("MAIL FROM:<a@b.example> XDELIVERYID=a\r\n"),
            1 => Just("MAIL FROM:<refused@b.example>\r\n"), 1 => Just("MAIL FROM:<taken@b.example> XDELIVERYID=b\r\n"),
            1 => Just("MAIL FROM:<\u{e4}@b.example>\r\n"),
        ],
        recipients in proptest::collection::vec(prop_oneof![
            4 => Just("RCPT TO:<c@d.example>\r\n"), 2 => Just("RCPT TO:<refused@d.example>\r\n"),
            1 => Just("RCPT TO:<taken@d.example>\r\n"), 1 => Just("RCPT TO:<a%b@d.example>\r\n"),
            1 => Just("NOOP\r\n"), 1 => Just("WHAT\r\n"),
        ], 0..4),
        content in prop_oneof![
            4 => Just("BDAT 9 LAST\r\nContent\r\n"), 1 => Just("BDAT 4 LAST\r\na\nb\r"), 1 => Just("BDAT 5 LAST\r\na\rb\r\n"),
            1 => Just("BDAT 0 LAST\r\n"), 1 => Just("BDAT 4\r\nsomeBDAT 3 LAST\r\nx\r\n"), 1 => Just(""),
        ],
        behind in prop_oneof![1 => Just("RSET\r\n"), 1 => Just("RSET\r\nNOOP\r\n"), 1 => Just("RSET\r\nBDAT 6 LAST\r\nQUIT\r\n")],
        resets in any::<bool>(),
    ) -> String {
        // Without the end of a message only RSET makes room for the next one.
        let behind = if resets || content.is_empty() { behind } else { "" };
        [mail, &recipients.concat(), content, behind].concat()
    }
}

proptest! {
    // covers: R2920-1, R3030-1, R5321-28, R-DUP
    #[test]
    fn late_answers_are_those_of_lock_step(
        transactions in proptest::collection::vec(transaction(), 1..8),
        piece in 1_usize..400,
        decisions in proptest::collection::vec(any::<bool>(), 1..60),
    ) {
        let dialogue = transactions.concat();
        let in_step = Late::run(&dialogue, dialogue.len(), &[]);
        let late = Late::run(&dialogue, piece, &decisions);
        prop_assert_eq!(in_step, late, "{}", dialogue);
    }
}

/// A machine that was asked for a sender, a recipient and content, and that is at its last error.
fn at_its_last_error() -> (Server, Input) {
    let strict = Config {
        errors_max: 0,
        ..(*config()).clone()
    };
    let mut server = Server::new(Arc::new(strict), Tls::Unavailable);
    let mut input = Input::new();
    input.push(b"EHLO c.example\r\n");
    assert_eq!(server.next(&mut input), Event::NeedInput);
    server.output.clear();
    input.push(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 3 LAST\r\nx\r\nNOOP\r\n");
    assert!(matches!(server.next(&mut input), Event::Mail(..)));
    assert!(matches!(server.next(&mut input), Event::Recipient(..)));
    assert!(matches!(server.next(&mut input), Event::Content(_)));
    (server, input)
}

// covers: R5321-22
#[test]
fn a_session_that_is_over_does_not_go_on_with_a_late_answer() {
    let (mut server, mut input) = at_its_last_error();
    server.answer(Reply::new(250, "2.1.0", "Ok"));
    server.answer(Reply::new(550, "5.1.1", "No"));
    server.count_error();
    assert!(server.needs_answers());
    server.answer(Reply::bare(354, "Go on"));
    assert_eq!(server.next(&mut input), Event::Closed);
    assert_eq!(said(&server), ["250", "550", "421", "421"]);
}

// covers: R5321-22
#[test]
fn a_session_that_ends_over_open_questions_can_be_closed_without_their_answers() {
    let (mut server, mut input) = at_its_last_error();
    server.answer(Reply::new(550, "5.7.1", "No"));
    server.count_error();
    assert!(server.needs_answers());
    server.close(Reply::new(421, "4.3.2", "Shutting down"));
    assert_eq!(server.next(&mut input), Event::Closed);
    assert_eq!(said(&server), ["550", "421"]);
}

// covers: R3030-1
#[test]
fn a_chunk_whose_size_cannot_be_read_ends_the_session() {
    for size in [&b"5 \xff"[..], b"\xff", b"x", b"5 LAST \xff"] {
        let (mut server, mut input) = greeted();
        input.push(&[b"BDAT ", size, b"\r\nQUIT\r\n"].concat());
        assert_eq!(server.next(&mut input), Event::Closed);
        assert_eq!(said(&server), ["501"], "{size:?}");
    }
}
