//! The sending side: any server, any pieces; and replies themselves.

use atrn_shared::smtp::address::{ForwardPath, ReversePath};
use atrn_shared::smtp::client::{Awaited, Client, Dialect, Fault};
use atrn_shared::smtp::extension::Extensions;
use atrn_shared::smtp::limits::REPLY_LINE_OCTETS;
use atrn_shared::smtp::line::Input;
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};
use atrn_shared::smtp::reply::{Reply, parse_reply};

use crate::case::{Case, Cuts, pieces};

/// Octets are a reply, the beginning of one, or none; what was read is printed as one that reads the same.
pub fn replies(data: &[u8]) {
    let Some(case) = Case::read(data) else {
        return;
    };
    let whole = parse_reply(case.octets);
    if !case.octets.is_empty() {
        let cut = case.choices(0).usize(..case.octets.len());
        let part = parse_reply(&case.octets[..cut]);
        assert!(
            part == Ok(None) || part == whole,
            "{part:?}, later {whole:?}"
        );
    }
    let Ok(Some((reply, taken))) = whole else {
        return;
    };
    assert_eq!(case.octets[taken - 1], b'\n');
    for reply in [reply.clone(), reply.as_verdict()] {
        let mut printed = Vec::new();
        reply.write(&mut printed);
        let again = read_replies(&printed);
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].code(), reply.code());
        let is_cut = printed
            .split(|octet| *octet == b'\n')
            .any(|line| line.len() + 1 == REPLY_LINE_OCTETS);
        // An enhanced code may stand in the text of a reply that has none: then it has one when it is read again.
        assert!(is_cut || again[0].enhanced() == reply.enhanced() || reply.enhanced().is_none());
        let offer = Extensions::parse(&reply);
        let mut offered = Vec::new();
        offer.reply("relay.example").write(&mut offered);
        let understood = Extensions::parse(&read_replies(&offered)[0]);
        assert!(
            understood == offer
                || offer.auth.join(" ").len() > REPLY_LINE_OCTETS - 20
                || offer.auth.is_empty()
        );
    }
}

/// What a server says, read to its last octet: each line printable, ended by CRLF, and no longer than a line may be.
pub(crate) fn read_replies(mut output: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    while !output.is_empty() {
        let (reply, taken) = parse_reply(output)
            .expect("what we say is a reply")
            .expect("what we say is whole");
        for line in output[..taken].split_inclusive(|octet| *octet == b'\n') {
            // A challenge has no limit but that of the exchange.
            assert!(line.len() <= REPLY_LINE_OCTETS || line.starts_with(b"334 "));
            let text = line.strip_suffix(b"\r\n").expect("a line ends with CRLF");
            assert!(text.iter().all(|octet| (b' '..=b'~').contains(octet)));
        }
        replies.push(reply);
        output = &output[taken..];
    }
    replies
}

/// What a flight begins with: the client's next steps.
const STEPS: usize = 12;

/// A reply belongs to what it answers; one that nothing waits for is a fault; and the pieces change nothing.
pub fn smtp_client(data: &[u8]) {
    let Some(case) = Case::read(data) else {
        return;
    };
    let whole = talk(case, Cuts::None);
    assert_eq!(
        talk(case, Cuts::Anywhere),
        whole,
        "the pieces made a difference"
    );
}

fn talk(case: Case<'_>, cuts: Cuts) -> Vec<Result<(Awaited, Reply), Fault>> {
    let dialect = if case.option(0) {
        Dialect::Lmtp
    } else {
        Dialect::Smtp
    };
    let mut client = Client::new(dialect);
    let mut input = Input::new();
    let mut seen = Vec::new();
    let mut cut = case.choices(0);
    let mut answers_due = 1_usize;
    for flight in case.flights() {
        let Some((step, octets)) = flight.split_first() else {
            continue;
        };
        answers_due += take_step(&mut client, *step);
        check_commands(&client.output);
        client.output.clear();
        for piece in pieces(octets, cuts, cut.fork()) {
            input.push(piece);
            loop {
                match client.next(&mut input) {
                    Ok(None) => break,
                    Ok(Some(reply)) => {
                        answers_due = answers_due.checked_sub(1).expect("a reply to nothing");
                        seen.push(Ok(reply));
                    }
                    Err(fault) => {
                        seen.push(Err(fault));
                        return seen;
                    }
                }
            }
        }
        assert_eq!(client.awaits().is_some(), answers_due > 0);
    }
    seen
}

/// Begins something, and tells how many replies are due for it.
fn take_step(client: &mut Client, step: u8) -> usize {
    let lmtp = usize::from(client.dialect() == Dialect::Lmtp);
    match usize::from(step) % STEPS {
        0 => client.hello("mx.example"),
        1 => client.start_tls(),
        2 => client.auth("SCRAM-SHA-256", Some("=")),
        3 => client.auth_response("*"),
        4 => client.mail(&ReversePath::Null, &parameters()),
        5 => {
            client.recipient(&ForwardPath::Postmaster, &RcptParameters::default());
            client.recipient(&ForwardPath::Postmaster, &RcptParameters::default());
            return 2;
        }
        6 => client.data(),
        7 => {
            client.data();
            client.content(b".\r\nQUIT");
            client.end_of_data(2);
            return 2 + lmtp;
        }
        8 => {
            client.bdat(3, false);
            client.content(b"a\r\n");
            client.bdat(0, true);
            return 2;
        }
        9 => client.reset(),
        10 => client.quit(),
        _ => return 0,
    }
    1
}

fn parameters() -> MailParameters {
    MailParameters::parse("SIZE=5 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x XDELIVERYID=y")
        .expect("parameters that we print")
}

fn check_commands(output: &[u8]) {
    assert!(output.is_empty() || output.ends_with(b"\r\n"));
}
