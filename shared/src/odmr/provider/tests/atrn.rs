//! ATRN and the turn.

use super::*;

// covers: R2645-4
#[test]
fn atrn_needs_authentication_before_anything_else() {
    for mode in [
        TlsMode::Implicit,
        TlsMode::StartTls,
        TlsMode::Optional,
        TlsMode::Off,
    ] {
        let mut desk = Desk::new(config(mode));
        for line in ["ATRN", "ATRN corp.example", "ATRN not valid"] {
            assert_eq!(
                desk.say(line),
                "530 5.7.0 Authentication required\r\n",
                "{mode:?} {line:?}"
            );
        }
        desk.say("EHLO a.b");
        assert_eq!(desk.code("ATRN corp.example"), 530, "{mode:?}");
        assert_eq!(desk.asked, []);
    }
}

// covers: R2920-3, R3207-2, R2645-13
#[test]
fn nothing_may_stand_behind_a_command_that_must_be_the_last() {
    let refusal = "554 5.5.1 Octets behind a command that must be the last, closing\r\n";
    let table = [
        (Desk::secure(), "EHLO a.b\r\nNOOP\r\n"),
        (Desk::secure(), "EHLO a.b\r\nN"),
        (
            Desk::new(config(TlsMode::StartTls)),
            "STARTTLS\r\nEHLO a.b\r\n",
        ),
        (
            Desk::new(config(TlsMode::Optional)),
            "STARTTLS\r\n\x16\x03\x01",
        ),
        (Desk::secure(), "AUTH EXTERNAL =\r\nATRN\r\n"),
        (Desk::secure(), "AUTH LOGIN\r\nNOOP\r\n"),
        (Desk::authenticated(), "ATRN\r\nNOOP\r\n"),
        (
            Desk::authenticated(),
            "ATRN corp.example\r\n220 puller.example\r\n",
        ),
        (Desk::authenticated(), "ATRN\r\n\n"),
    ];
    for (mut desk, octets) in table {
        assert_eq!(desk.hear(octets.as_bytes()), refusal, "{octets:?}");
        assert_eq!(
            (desk.end, desk.asked.len()),
            (Some("closed"), 0),
            "{octets:?}"
        );
    }
    let mut desk = Desk::secure();
    desk.say("EHLO a.b");
    desk.say("AUTH PLAIN");
    let octets = format!("{}\r\nATRN\r\n", plain("corp", "pencil"));
    assert_eq!(desk.hear(octets.as_bytes()), refusal);
    assert_eq!((desk.end, desk.provider.account()), (Some("closed"), None));
}

// covers: R2645-13
#[test]
fn who_speaks_while_mail_is_looked_for_is_not_turned() {
    let mut desk = Desk::authenticated();
    desk.input.push(b"ATRN\r\n");
    assert!(matches!(
        desk.provider.next(&mut desk.input),
        Event::Atrn(_)
    ));
    // The driver waits for its own answer: nothing else happens meanwhile.
    assert!(matches!(
        desk.provider.next(&mut desk.input),
        Event::NeedInput
    ));
    desk.input.push(b"220 early\r\n");
    desk.provider.answer(Verdict::Turn);
    assert_eq!(
        desk.hear(b""),
        "554 5.5.1 Octets behind a command that must be the last, closing\r\n"
    );
    assert_eq!(desk.end, Some("closed"));
}

// covers: R2645-7, R2645-8
#[test]
fn atrn_asks_for_the_domains_that_it_names() {
    let mut desk = Desk::authenticated();
    desk.verdict = Verdict::NoMail;
    assert_eq!(desk.code("ATRN"), 453);
    assert_eq!(desk.code("atrn Corp.Example,corp.test"), 453);
    let names: Vec<_> = desk.asked.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["ATRN", "ATRN corp.example,corp.test"]);
    for line in [
        "ATRN corp",
        "ATRN a.b, c.d",
        "ATRN  a.b",
        "ATRN a.b.",
        // Not offered here.
        "ATRN a.b XWAIT=60",
        "ATRN XWAIT=60",
        "ATRN [192.0.2.1]",
    ] {
        assert_eq!(
            desk.say(line),
            "501 5.5.4 Syntax: ATRN [domain[,domain]...]\r\n",
            "{line:?}"
        );
    }
    assert_eq!((desk.asked.len(), desk.code("ATRN corp.example")), (2, 453));
}

/// A desk where ATRN may wait, and somebody who asked for 600 s of it.
fn waiting() -> Desk {
    let mut desk = Desk::new(Config {
        wait: Some(Duration::from_secs(240)),
        ..config(TlsMode::Implicit)
    });
    assert!(
        desk.say("EHLO puller.example")
            .contains("250-XWAIT 240\r\n")
    );
    assert_eq!(desk.code("AUTH EXTERNAL ="), 235);
    desk.input.push(b"ATRN corp.example XWAIT=600\r\n");
    let event = desk.provider.next(&mut desk.input);
    // No longer than was offered.
    assert!(
        matches!(&event, Event::Atrn(atrn) if atrn.to_string() == "ATRN corp.example XWAIT=240"),
        "{event:?}"
    );
    desk
}

// covers: R2645-7, R2645-11, R2645-13
#[test]
fn an_atrn_that_waits_is_answered_when_the_driver_says_so() {
    let mut desk = waiting();
    assert_eq!(desk.hear(b""), "");
    desk.provider.answer(Verdict::NoMail);
    assert_eq!(desk.hear(b""), "453 4.7.0 You have no mail\r\n");
    // The session is as it was: the next one may wait, or not, or be none at all.
    desk.verdict = Verdict::NoMail;
    assert_eq!(desk.code("ATRN corp.example XWAIT=1"), 453);
    assert_eq!(desk.code("ATRN corp.example"), 453);
    assert_eq!(
        desk.say("ATRN corp.example XWAIT=0"),
        "501 5.5.4 Syntax: ATRN [domain[,domain]...] [XWAIT=seconds]\r\n"
    );
    desk.verdict = Verdict::Turn;
    assert_eq!(desk.code("ATRN XWAIT=60"), 250);
    assert_eq!(desk.end, Some("turned"));
    let waits: Vec<_> = desk.asked.iter().map(|atrn| atrn.wait).collect();
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(waits, [seconds(1), None, seconds(60)]);
}

// covers: R2645-13
#[test]
fn who_speaks_while_its_atrn_waits_is_closed_upon() {
    for octets in ["QUIT\r\n", "N", "\r\n", "ATRN XWAIT=1\r\n"] {
        let mut desk = waiting();
        assert_eq!(
            desk.hear(octets.as_bytes()),
            "554 5.5.1 Octets behind a command that must be the last, closing\r\n",
            "{octets:?}"
        );
        assert_eq!(desk.end, Some("closed"), "{octets:?}");
        // The driver's answer comes too late, and is none.
        desk.provider.answer(Verdict::Turn);
        assert_eq!(desk.hear(b""), "");
    }
    let mut desk = waiting();
    desk.provider
        .close(Reply::new(421, "4.3.2", "Shutting down"));
    assert_eq!(desk.hear(b""), "421 4.3.2 Shutting down\r\n");
    assert_eq!(desk.end, Some("closed"));
}

// covers: R2645-4, R2645-7
#[test]
fn a_wait_is_offered_with_atrn_and_to_nobody_else() {
    for (mode, tls_first) in [(TlsMode::StartTls, true), (TlsMode::Optional, false)] {
        let mut desk = Desk::new(Config {
            wait: Some(Duration::from_secs(240)),
            ..config(mode)
        });
        assert_eq!(
            desk.say("EHLO a.b").contains("XWAIT"),
            !tls_first,
            "{mode:?}"
        );
        assert_eq!(desk.code("ATRN XWAIT=60"), 530, "{mode:?}");
        assert_eq!(desk.code("STARTTLS"), 220, "{mode:?}");
        assert!(desk.say("EHLO a.b").contains("XWAIT 240"), "{mode:?}");
        assert_eq!(desk.code("ATRN XWAIT=60"), 530, "{mode:?}");
        assert_eq!(desk.asked, []);
    }
}

// covers: R2645-9, R2645-10, R2645-11, R2645-12
#[test]
fn a_refused_atrn_leaves_the_session_as_it_was() {
    let table = [
        (Verdict::NoMail, "453 4.7.0 You have no mail\r\n"),
        (Verdict::NotPermitted, "450 4.7.1 ATRN request refused\r\n"),
        (
            Verdict::TooOften,
            "450 4.7.0 Too often, try again later\r\n",
        ),
        (
            Verdict::Unavailable,
            "451 4.3.0 Unable to process ATRN request now\r\n",
        ),
    ];
    let mut desk = Desk::authenticated();
    for (verdict, reply) in table {
        desk.verdict = verdict;
        assert_eq!(desk.say("ATRN corp.example"), reply);
        assert_eq!((desk.end, desk.provider.account()), (None, Some("corp")));
    }
    desk.verdict = Verdict::Turn;
    assert_eq!(desk.code("ATRN corp.example"), 250);
}

// covers: R2645-13
#[test]
fn after_the_turn_the_provider_is_silent() {
    let mut desk = Desk::authenticated();
    assert_eq!(
        desk.say("ATRN"),
        "250 2.0.0 OK now reversing the connection\r\n"
    );
    assert_eq!(desk.end, Some("turned"));
    // What comes now belongs to the reversed session: it is not touched.
    assert_eq!(desk.say("220 puller.example ESMTP"), "");
    assert_eq!(desk.input.bytes(), b"220 puller.example ESMTP\r\n");
    desk.provider
        .close(Reply::new(421, "4.3.2", "Shutting down"));
    assert_eq!(desk.hear(b""), "");
}
