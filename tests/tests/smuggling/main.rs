//! One message in, one message out, whatever ends of lines and of data are in it: no second transaction comes of content.
//!
//! Each variant stands in front of a whole transaction, and comes in one segment, cut in two at every place, octet by
//! octet, and in chunks. What the relay takes is pulled into three servers that undo their framing in ways of their own,
//! and counted there.

mod lines;
mod pipelining;
mod serialised;
mod variants;

use std::collections::BTreeMap;

use atrn_shared::smtp::extension::Extensions;
use atrn_shared::smtp::line::Input;
use atrn_shared::smtp::reply::Reply;
use atrn_shared::smtp::server::{Config, Event, Server, Tls};
use atrn_tests::inside::{Inside, Offer};
use atrn_tests::message::without_trace;
use atrn_tests::peer::{Pace, Peer, shown};
use atrn_tests::software::{Dovecot, Postfix};
use atrn_tests::world::World;

use variants::{Fate, TRUE_ENDS, VARIANTS};

const OURS: &str = "example.org";
const POSTFIX: &str = "postfix.example";
const DOVECOT: &str = "dovecot.example";
/// What is to be smuggled: by BDAT, which may come in one flight with its envelope. The line behind it is the true end of
/// what it stands in.
const SMUGGLED: &str = "MAIL FROM:<evil@foreign.example>\r\nRCPT TO:<user@example.org>\r\nBDAT 31 LAST\r\n\
                        Subject: smuggled\r\n\r\nsmuggled\r\n.\r\n";

/// The machine itself, without a network between: every variant in every split, and all that is asked is one message.
// covers: R5321-13, R5321-14
#[test]
fn no_split_makes_two_of_one() {
    for (variant, fate) in VARIANTS {
        let octets = dialogue(variant);
        for cut in 0..octets.len() {
            let (one, other) = octets.split_at(cut);
            assert_eq!(
                messages(&[one, other]),
                expected(*fate),
                "{} at {cut}",
                shown(variant)
            );
        }
        let single: Vec<&[u8]> = octets.chunks(1).collect();
        assert_eq!(messages(&single), expected(*fate), "{}", shown(variant));
    }
    // The test can fail: behind a true end, there are two.
    assert_eq!(messages(&[&dialogue(b"\r\n.\r\n")]), 2);
}

/// The real relay, real segments, real servers behind the puller.
// covers: R5321-13, R5321-14, R5321-29, R3030-1
#[test]
fn exactly_one_message_comes_out_or_none() {
    let (postfix, dovecot) = (Postfix::start(POSTFIX), Dovecot::start());
    let mut battery = Battery::new();
    for (variant, fate) in VARIANTS {
        battery.by_data(variant, *fate);
        battery.by_chunks(variant, *fate);
    }
    let Battery { world, sent, .. } = battery;
    assert!(
        VARIANTS.len() >= 60 && sent.len() > 500,
        "{} of {}",
        sent.len(),
        VARIANTS.len()
    );
    eprintln!(
        "{} variants; {} messages taken, and each is to arrive once",
        VARIANTS.len(),
        sent.len()
    );
    let inside = Inside::offering(Offer::keywords(&["8BITMIME", "SIZE 1000000"]));
    pull(&world, "first", OURS, &inside.target());
    let arrived: Vec<Vec<u8>> = inside
        .messages()
        .into_iter()
        .map(|message| message.content)
        .collect();
    assert_each_once(&sent, &arrived);
    for content in &arrived {
        // This one is exact: it has framing undone and nothing else.
        let kept = &sent[&number(content)];
        let came = without_trace(content);
        let came = came
            .strip_suffix(b"\r\n")
            .filter(|_| !kept.ends_with(b"\r\n"))
            .unwrap_or(came);
        assert_eq!(shown(came), shown(kept));
    }
    let commands = inside.commands();
    assert!(
        !commands.iter().any(|command| command.contains("evil")),
        "{commands:#?}"
    );
    if let Some(postfix) = postfix {
        pull(&world, "second", POSTFIX, &postfix.target());
        let delivered = postfix.wait_for_messages(sent.len());
        assert_each_once(&sent, &delivered);
        assert!(
            !postfix.log().contains("from=<evil@foreign.example>"),
            "{}",
            postfix.log()
        );
    }
    if let Some(dovecot) = dovecot {
        pull(&world, "third", DOVECOT, &dovecot.target());
        assert_each_once(&sent, &dovecot.delivered("user"));
    }
    assert!(world.queue_list().is_empty());
}

/// Where a true end of the data is in it, the content ends there, whatever stands before: that is refused, and what
/// follows is what it says it is. Who sends the two octets too few or too many has one message out of it, not two.
// covers: R5321-13, R5321-14
#[test]
fn behind_a_true_end_is_another_transaction() {
    let world = world();
    let mut peer = session(&world);
    for variant in TRUE_ENDS {
        ask(&mut peer, &["user@example.org"]);
        peer.ask("DATA", "354");
        peer.send_octets(&dialogue(variant));
        for reply in [
            "550 5.6.0",
            "250 2.1.0",
            "250 2.1.5",
            "250 2.0.0",
            "500 5.5.2",
        ] {
            let line = peer.reply().pop().unwrap_or_default();
            assert!(line.starts_with(reply), "{}: {line}", shown(variant));
        }
    }
    assert_eq!(world.queue_list().len(), TRUE_ENDS.len());
    for variant in TRUE_ENDS {
        let octets = dialogue(variant);
        for cut in 0..octets.len() {
            let (one, other) = octets.split_at(cut);
            assert_eq!(messages(&[one, other]), 1, "{} at {cut}", shown(variant));
        }
    }
}

/// The header section is content like any other.
// covers: R5321-14
#[test]
fn the_header_section_ends_no_data_either() {
    let world = world();
    let mut peer = session(&world);
    for (variant, fate) in VARIANTS {
        // Inside a field's name, its value, a folded line, and in place of the empty line.
        for (before, after) in [
            (&b"Sub"[..], &b"ject: x\r\n\r\nx\r\n.\r\n"[..]),
            (b"Subject: x", b"\r\n\r\nx\r\n.\r\n"),
            (b"Subject: x\r\n\t", b"\r\n\r\nx\r\n.\r\n"),
            (b"Subject: x\r\n", b"x\r\n.\r\n"),
            (b"", b"Subject: x\r\n\r\nx\r\n.\r\n"),
        ] {
            ask(&mut peer, &["user@example.org"]);
            peer.ask("DATA", "354");
            peer.send_octets(&[before, variant, after].concat());
            expect(&mut peer, *fate, variant);
        }
    }
}

/// Real transactions by the number of their message.
struct Battery {
    world: World,
    peer: Peer,
    octet_peer: Peer,
    /// Content as it was meant, of what was taken.
    sent: BTreeMap<usize, Vec<u8>>,
    count: usize,
}

impl Battery {
    fn new() -> Self {
        let world = world();
        let peer = session(&world);
        let octet_peer = session(&world).paced(Pace::Octets);
        Self {
            world,
            peer,
            octet_peer,
            sent: BTreeMap::new(),
            count: 0,
        }
    }

    /// In one segment, cut at every place of the variant, and octet by octet.
    fn by_data(&mut self, variant: &[u8], fate: Fate) {
        let cuts = std::iter::once(None).chain((0..=variant.len() + 1).map(Some));
        for cut in cuts {
            let (head, framed) = self.next(variant);
            let at = cut.map_or(0, |cut| head - 1 + cut);
            let (one, other) = framed.split_at(at);
            begin(&mut self.peer);
            if !one.is_empty() {
                self.peer.send_octets(one);
            }
            self.peer.send_octets(other);
            expect(&mut self.peer, fate, variant);
            self.keep(fate, undone(&framed));
        }
        let (_, framed) = self.next(variant);
        begin(&mut self.octet_peer);
        self.octet_peer.send_octets(&framed);
        expect(&mut self.octet_peer, fate, variant);
        self.keep(fate, undone(&framed));
    }

    /// As one chunk, and as two with the edge at every place of the variant. Here a dot is a dot, also where it would end
    /// the data.
    fn by_chunks(&mut self, variant: &[u8], fate: Fate) {
        let edges = std::iter::once(None).chain((0..=variant.len()).map(Some));
        for edge in edges {
            let (head, content) = self.next(variant);
            let at = edge.map_or(0, |edge| head + edge);
            let (one, other) = content.split_at(at);
            ask(&mut self.peer, &RECIPIENTS);
            let mut flight = Vec::new();
            if !one.is_empty() {
                flight.extend_from_slice(format!("BDAT {}\r\n", one.len()).as_bytes());
                flight.extend_from_slice(one);
                self.peer.send_octets(&flight);
                // A bare line end may be found here already; then what follows belongs to no transaction.
                if self.peer.reply()[0].starts_with("550 5.6.0") {
                    assert_eq!(fate, Fate::Refused, "{}", shown(variant));
                    self.peer.ask("NOOP", "250 2.0.0");
                    continue;
                }
                flight.clear();
            }
            flight.extend_from_slice(format!("BDAT {} LAST\r\n", other.len()).as_bytes());
            flight.extend_from_slice(other);
            self.peer.send_octets(&flight);
            expect(&mut self.peer, fate, variant);
            self.keep(fate, content);
        }
    }

    /// The next message, up to the end of what is to be smuggled, and where the variant begins in it.
    fn next(&mut self, variant: &[u8]) -> (usize, Vec<u8>) {
        self.count += 1;
        let head = format!(
            "X-Number: {}\r\nSubject: the first\r\n\r\nthe first",
            self.count
        );
        (
            head.len(),
            [head.as_bytes(), variant, SMUGGLED.as_bytes()].concat(),
        )
    }

    fn keep(&mut self, fate: Fate, content: Vec<u8>) {
        if fate == Fate::Content {
            self.sent.insert(self.count, content);
        }
    }
}

const RECIPIENTS: [&str; 3] = [
    "user@example.org",
    "user@postfix.example",
    "user@dovecot.example",
];

fn world() -> World {
    World::setup()
        .domain(OURS)
        .domain(POSTFIX)
        .domain(DOVECOT)
        .account("first", &[OURS])
        .account("second", &[POSTFIX])
        .account("third", &[DOVECOT])
        .relay("smtp.max_errors", 1000)
        .relay("smtp.max_connections_per_ip", 100)
        .start()
}

fn session(world: &World) -> Peer {
    let mut peer = world.relay.smtp();
    peer.ehlo("client.source.example");
    peer
}

/// MAIL and RCPT in one flight.
#[track_caller]
fn ask(peer: &mut Peer, recipients: &[&str]) {
    let recipients: String = recipients
        .iter()
        .map(|path| format!("RCPT TO:<{path}>\r\n"))
        .collect();
    peer.send_octets(
        format!("MAIL FROM:<sender@source.example> BODY=8BITMIME\r\n{recipients}").as_bytes(),
    );
    for _ in 0..=recipients.lines().count() {
        peer.expect("250");
    }
}

#[track_caller]
fn begin(peer: &mut Peer) {
    ask(peer, &RECIPIENTS);
    peer.ask("DATA", "354");
}

/// One reply for the content, and then the answer to the next command.
#[track_caller]
fn expect(peer: &mut Peer, fate: Fate, variant: &[u8]) {
    let reply = match fate {
        Fate::Refused => "550 5.6.0",
        Fate::Content => "250 2.0.0",
    };
    peer.send("VRFY next");
    let first = peer.reply().pop().unwrap_or_default();
    assert!(first.starts_with(reply), "{}: {first}", shown(variant));
    let next = peer.reply().pop().unwrap_or_default();
    assert!(next.starts_with("252 "), "{}: {next}", shown(variant));
}

/// The framing of DATA undone, by the letter of RFC 5321 §4.5.2: for content in which every line end is CRLF.
fn undone(framed: &[u8]) -> Vec<u8> {
    let content = framed.strip_suffix(b".\r\n").unwrap_or(framed);
    let mut undone = Vec::new();
    let mut rest = content;
    while !rest.is_empty() {
        let end = rest
            .windows(2)
            .position(|pair| pair == b"\r\n")
            .map_or(rest.len(), |at| at + 2);
        let (line, after) = rest.split_at(end);
        undone.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        rest = after;
    }
    undone
}

#[track_caller]
fn pull(world: &World, account: &str, domain: &str, target: &str) {
    let puller = world.another_puller(account, &[domain], target);
    let _ = puller.pull().expect_code(0);
}

/// The number that a message bears in its own header section.
#[track_caller]
fn number(content: &[u8]) -> usize {
    let text = String::from_utf8_lossy(content);
    let header = text.split("\r\n\r\n").next().unwrap_or_default();
    let found = header
        .lines()
        .find_map(|line| line.strip_prefix("X-Number: "));
    let number = found.and_then(|number| number.trim().parse().ok());
    number.unwrap_or_else(|| panic!("a message that nobody sent: {}", shown(content)))
}

#[track_caller]
fn assert_each_once(sent: &BTreeMap<usize, Vec<u8>>, arrived: &[Vec<u8>]) {
    let mut numbers: Vec<usize> = arrived.iter().map(|content| number(content)).collect();
    numbers.sort_unstable();
    let expected: Vec<usize> = sent.keys().copied().collect();
    assert_eq!(numbers, expected);
}

fn dialogue(variant: &[u8]) -> Vec<u8> {
    [b"Subject: first\r\n\r\nfirst", variant, SMUGGLED.as_bytes()].concat()
}

fn expected(fate: Fate) -> usize {
    usize::from(fate == Fate::Content)
}

/// How many messages the machine makes of what comes behind its 354, in these pieces.
fn messages(pieces: &[&[u8]]) -> usize {
    let offer = Extensions {
        chunking: true,
        eight_bit_mime: true,
        ..Extensions::default()
    };
    let mut server = Server::new(Config::new("mx.example", offer).into(), Tls::Unavailable);
    let mut input = Input::new();
    let mut count = 0;
    let begin: [&[u8]; 4] = [
        b"EHLO client.example\r\n",
        b"MAIL FROM:<>\r\n",
        b"RCPT TO:<user@example.org>\r\n",
        b"DATA\r\n",
    ];
    for piece in begin.iter().chain(pieces) {
        input.push(piece);
        loop {
            match server.next(&mut input) {
                Event::NeedInput | Event::Closed | Event::StartTls => break,
                Event::Mail(..) | Event::Recipient(..) => {
                    server.answer(Reply::new(250, "2.0.0", "Ok"))
                }
                Event::Content(_) => server.answer(Reply::bare(354, "Go ahead")),
                Event::EndOfMessage(_) => {
                    count += 1;
                    server.answer(Reply::new(250, "2.0.0", "Ok"));
                }
                Event::Body(_) | Event::Abandoned(_) => {}
            }
        }
    }
    count
}
