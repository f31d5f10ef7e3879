//! Rooms of the relay that read what a load balancer, the resolver child or a sender wrote, and the log that shows it.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use atrn_relay::fuzzing::{self, Filtered};
use atrn_relay::names::protocol::{
    ANSWER_OCTETS_MAX, Frame, read_frame, read_question, write_frame, write_question,
};
use atrn_relay::transaction_log::{
    Event, Field, MessageId, Origin, Record, Service, Subject, json, ncsa, w3c,
};
use jiff::Timestamp;

use crate::case::{Case, Cuts, pieces};

/// The header of a load balancer: an address that can be a client's, and not one octet of what stands behind it.
pub fn proxy_header(octets: &[u8]) {
    let Some((client, header)) = fuzzing::proxy_header(octets) else {
        return;
    };
    assert!((12..=536).contains(&header) && header <= octets.len());
    assert!(octets.starts_with(b"PROXY ") || octets.starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
    if let Some(client) = client {
        let address = client.ip().to_canonical();
        assert!(!address.is_unspecified() && !address.is_multicast());
    }
    // What follows changes nothing.
    let more = [&octets[..header], b"EHLO a\r\n"].concat();
    assert_eq!(fuzzing::proxy_header(&more), Some((client, header)));
}

/// What the mail process and the resolver child say to each other: what reads is written as what reads the same.
pub fn resolver_frames(octets: &[u8]) {
    if let Some((id, question)) = read_question(octets) {
        let written = write_question(id, &question);
        assert_eq!(read_question(&written), Some((id, question)));
    }
    if let Some(frame) = read_frame(octets) {
        let written = write_frame(&frame);
        assert!(written.len() <= ANSWER_OCTETS_MAX);
        assert_eq!(read_frame(&written).as_ref(), Some(&frame));
        if let Frame::News(_) = frame {
            assert_eq!(octets[..8], [0; 8]);
        }
    }
}

/// The filter of a header section: the pieces change nothing, what it keeps stands in the original in this order, and no field
/// that claims to be ours is left.
pub fn forged_results(data: &[u8]) {
    let Some(case) = Case::read(data) else {
        return;
    };
    let whole = filter(case, Cuts::None);
    assert_eq!(
        filter(case, Cuts::Anywhere),
        whole,
        "the pieces made a difference"
    );
    let mut original = case.octets.iter();
    let kept = whole
        .octets
        .iter()
        .all(|octet| original.any(|other| other == octet));
    assert!(kept, "something that nobody sent");
    assert!(
        whole.removed > 0 || whole.octets == case.octets,
        "something is missing"
    );
    let again = fuzzing::without_forged_results([whole.octets.as_slice()].into_iter());
    assert_eq!(
        (again.removed, &again.octets),
        (0, &whole.octets),
        "one is left"
    );
}

fn filter(case: Case<'_>, cuts: Cuts) -> Filtered {
    fuzzing::without_forged_results(pieces(case.octets, cuts, case.choices(0)))
}

/// A record is one line of as many fields as there are, whatever a peer said; and a Message-ID is the same in any pieces.
pub fn log_records(data: &[u8]) {
    let Some(case) = Case::read(data) else {
        return;
    };
    let texts: Vec<String> = case
        .flights()
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .collect();
    let text = |index: usize| texts.get(index).cloned().unwrap_or_default();
    let origin = Origin {
        client: Some(SocketAddr::from(([192, 0, 2, 1], 25))),
        service: if case.option(0) {
            Service::Smtp
        } else {
            Service::Relay
        },
        hello: text(1),
        account: text(2),
        ..Origin::relay()
    };
    let argument = text(0);
    let event = Event {
        argument: &argument,
        text: text(3).into(),
        code: case.option(1).then_some(250),
        taken: Duration::from_millis(u64::from(case.options())),
        subject: Subject::None,
        ..Event::new("MAIL")
    };
    let record = Record {
        at: *NOW,
        hostname: "mx.example",
        origin: &origin,
        event: &event,
    };
    check_w3c(&record);
    check_ncsa(&record);
    check_json(&record);
    check_message_id(case);
}

static NOW: LazyLock<Timestamp> =
    LazyLock::new(|| "2026-01-02T03:04:05Z".parse().expect("a date that we know"));

static FIELDS: LazyLock<Vec<Field>> =
    LazyLock::new(|| Field::ALL.iter().map(|(field, ..)| *field).collect());

fn check_w3c(record: &Record<'_>) {
    let mut line = Vec::new();
    w3c::line(&FIELDS, record, &mut line);
    let line = one_line(&line);
    assert!(
        line.bytes()
            .all(|octet| octet.is_ascii_graphic() || octet == b' ')
    );
    assert!(!line.starts_with('#'), "a directive");
    let fields: Vec<&str> = line.split(' ').collect();
    assert_eq!(fields.len(), FIELDS.len(), "{line:?}");
    assert!(
        fields
            .iter()
            .all(|field| !field.is_empty() && !field.contains('"'))
    );
}

fn check_ncsa(record: &Record<'_>) {
    let mut line = Vec::new();
    ncsa::line(record, &mut line);
    let line = one_line(&line);
    assert!(
        line.bytes()
            .all(|octet| octet.is_ascii_graphic() || octet == b' ')
    );
    assert_eq!(line.matches('"').count(), 2, "{line:?}");
    // client, session, user, two of the time, three of the request, code and size
    assert_eq!(line.split(' ').count(), 10, "{line:?}");
}

fn check_json(record: &Record<'_>) {
    let mut line = Vec::new();
    json::line(&FIELDS, record, &mut line);
    let line = one_line(&line);
    assert!(!line.contains(char::is_control));
    let value: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
    let object = value.as_object().expect("a line is an object");
    assert!(object.len() <= FIELDS.len() && object.values().all(|value| !value.is_object()));
}

fn one_line(octets: &[u8]) -> &str {
    let line = octets
        .strip_suffix(b"\n")
        .expect("a record ends with its line");
    let line = std::str::from_utf8(line).expect("a record is UTF-8");
    assert!(!line.contains(['\r', '\n']), "two lines");
    line
}

fn check_message_id(case: Case<'_>) {
    let find = |cuts| {
        let mut finder = MessageId::default();
        for piece in pieces(case.octets, cuts, case.choices(1)) {
            finder.look(piece);
        }
        finder.found()
    };
    assert_eq!(
        find(Cuts::None),
        find(Cuts::Anywhere),
        "the pieces made a difference"
    );
}
