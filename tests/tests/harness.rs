//! The harness tested against itself and against other people's software, so that a failure
//! of an end-to-end test is a failure of the product.

use atrn_tests::certs::{Certificate, trusting_client};
use atrn_tests::inside::{Inside, Offer, Step};
use atrn_tests::message::{self, Message, assert_same_content};
use atrn_tests::peer::Peer;
use atrn_tests::sender::{Framing, Sender, send};
use atrn_tests::software::{Dovecot, Load, Postfix, SmtpSink, assert_order_of_sessions};

#[test]
fn the_corporate_server_records_content_octet_for_octet() {
    let inside = Inside::smtp();
    let mut sender = Sender::connect(inside.address());
    for (_, content) in message::kinds() {
        sender.send(&Message::new("user@example.org", content.clone()));
        sender.send_framed(
            &Message::new("user@example.org", content),
            Framing::Bdat(1000),
        );
    }
    sender.quit();
    let arrived = inside.messages();
    let mut arrived = arrived.iter();
    for (name, content) in message::kinds() {
        for _ in 0..2 {
            assert_same_content(name, &content, &arrived.next().unwrap().content);
        }
    }
    assert!(arrived.next().is_none());
}

#[test]
fn the_corporate_server_misbehaves_on_order() {
    let inside = Inside::smtp();
    inside.on(Step::Rcpt).with("bob@").reply("550 5.1.1 no bob");
    inside.on(Step::Mail).once().reply("451 4.3.0 later");
    inside.on(Step::EndOfData).after(1).hang_up();
    let mut sender = Sender::connect(inside.address());
    let peer = sender.peer();
    peer.ask("MAIL FROM:<a@source.example>", "451");
    peer.ask("MAIL FROM:<a@source.example>", "250");
    peer.ask("RCPT TO:<bob@example.org>", "550");
    peer.ask("RCPT TO:<eve@example.org>", "250");
    peer.ask("DATA", "354");
    peer.ask(".", "250");
    peer.ask("MAIL FROM:<a@source.example>", "250");
    peer.ask("RCPT TO:<eve@example.org>", "250");
    peer.ask("DATA", "354");
    peer.send(".");
    peer.expect_close();
    assert_eq!(inside.messages().len(), 1);
}

#[test]
fn a_stalled_session_goes_on_when_released() {
    let inside = Inside::smtp();
    inside.on(Step::Mail).stall();
    let mut sender = Sender::connect(inside.address());
    sender.peer().send("MAIL FROM:<a@source.example>");
    inside.wait_until("the session stalls", |record| record.stalled == 1);
    inside.release();
    sender.peer().expect("250");
}

#[test]
fn the_corporate_server_speaks_lmtp_and_tls_and_wants_auth() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::for_name("inside.example");
    let account = Some(("puller".to_owned(), "secret".to_owned()));
    let offer = Offer {
        certificate: Some(certificate),
        account,
        ..Offer::default()
    };
    let inside = Inside::offering(offer);
    let mut peer = Peer::connect(inside.address());
    peer.expect("220");
    assert!(peer.ehlo("x.example").contains(&"STARTTLS".to_owned()));
    peer.ask("STARTTLS", "220");
    peer.start_tls_client(&trusting_client());
    assert!(!peer.ehlo("x.example").contains(&"STARTTLS".to_owned()));
    peer.ask("MAIL FROM:<a@source.example>", "530");
    peer.auth_plain("puller", "secret");
    peer.ask("MAIL FROM:<a@source.example>", "250");

    let offer = Offer {
        lmtp: true,
        ..Offer::default()
    };
    let inside = Inside::unix(&folder.path().join("lmtp"), offer);
    inside
        .on(Step::EndOfData)
        .with("bob@")
        .reply("452 4.2.2 full");
    let stream = std::os::unix::net::UnixStream::connect(folder.path().join("lmtp")).unwrap();
    let mut peer = Peer::over(atrn_tests::stream::Stream::Unix(stream));
    peer.expect("220");
    peer.ask("LHLO x.example", "250");
    peer.ask("MAIL FROM:<a@source.example>", "250");
    peer.ask("RCPT TO:<bob@example.org>", "250");
    peer.ask("RCPT TO:<eve@example.org>", "250");
    peer.ask("DATA", "354");
    peer.ask(".", "452");
    peer.expect("250");
    assert_eq!(inside.messages()[0].recipients, ["<eve@example.org>"]);
}

#[test]
fn smtp_sink_dumps_what_smtp_source_sends() {
    let Some(mut sink) = SmtpSink::start(&[]) else {
        return;
    };
    let load = Load {
        messages: 50,
        sessions: 5,
        octets: 4096,
    };
    if !load.send(sink.address(), "user@example.org") {
        return;
    }
    let messages = sink.wait_for_messages(50);
    for message in &messages {
        assert!(message.mail.starts_with("<sender@source.example>"));
        assert_eq!(message.recipients, ["<user@example.org>"]);
    }
    let contents: Vec<Vec<u8>> = messages
        .into_iter()
        .map(|message| message.content)
        .collect();
    load.assert_arrived(&contents, "user@example.org");
    assert_order_of_sessions(&contents);
    let changes: [fn(&mut Vec<Vec<u8>>); 3] = [
        |contents| contents[7] = contents[8].clone(),
        |contents| contents[9].truncate(4000),
        |contents| contents.truncate(49),
    ];
    for change in changes {
        let mut wrong = contents.clone();
        change(&mut wrong);
        let seen = std::panic::catch_unwind(|| load.assert_arrived(&wrong, "user@example.org"));
        assert!(seen.is_err(), "a change that nobody noticed");
    }
    let reversed: Vec<Vec<u8>> = contents.into_iter().rev().collect();
    assert!(std::panic::catch_unwind(|| assert_order_of_sessions(&reversed)).is_err());
    let sent = [message::plain(1), message::dots()];
    send(
        sink.address(),
        &sent
            .clone()
            .map(|content| Message::new("user@example.org", content)),
    );
    let messages = sink.wait_for_messages(52);
    for (content, message) in sent.iter().zip(&messages[50..]) {
        assert_same_content("smtp-sink", content, &message.content);
    }
}

#[test]
fn a_private_postfix_delivers_what_it_takes() {
    let Some(postfix) = Postfix::start("example.org") else {
        return;
    };
    let contents = [message::plain(1), message::eight_bit(), message::dots()];
    for content in &contents {
        send(
            postfix.address(),
            &[Message::new("user@example.org", content.clone())],
        );
    }
    let delivered = postfix.wait_for_messages(contents.len());
    for content in &contents {
        assert!(
            delivered
                .iter()
                .any(|arrived| message::without_trace(arrived) == content),
            "{}",
            String::from_utf8_lossy(&delivered.concat())
        );
    }
}

#[test]
fn a_private_dovecot_takes_mail_over_lmtp() {
    let Some(dovecot) = Dovecot::start() else {
        return;
    };
    let address = dovecot
        .target()
        .trim_start_matches("lmtp://")
        .parse()
        .unwrap();
    let mut peer = Peer::connect(address);
    peer.expect("220");
    peer.ask("LHLO x.example", "250");
    peer.ask("MAIL FROM:<a@source.example>", "250");
    peer.ask("RCPT TO:<user@example.org>", "250");
    peer.ask("DATA", "354");
    peer.send_octets(&message::stuffed(&message::plain(7)));
    peer.expect("250");
    let delivered = dovecot.delivered("user");
    assert_eq!(delivered.len(), 1, "{}", dovecot.log());
    assert_same_content("Dovecot", &message::plain(7), &delivered[0]);
}
