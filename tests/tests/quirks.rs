//! What customers in the field do, played by scripts, so that it is tested where their programs are not installed:
//! Exim and fetchmail close where they like, offer what they like, and read as they can.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use atrn_tests::certs::trusting_client;
use atrn_tests::message::{self, Message, without_trace};
use atrn_tests::peer::{DEADLINE, Peer, plain};
use atrn_tests::world::{ACCOUNT, DOMAIN, Tls, World};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

const NONE: [&str; 0] = [];

fn send(world: &World, count: usize) {
    let messages: Vec<_> = (1..=count)
        .map(|number| Message::new("user@example.org", message::plain(number)))
        .collect();
    world.send(&messages);
}

/// Nothing that somebody should know of. Settings are warned of at the start: not of them.
#[track_caller]
fn assert_no_warning(world: &World) {
    let log = world.relay.log();
    let warnings: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "))
        .filter(|line| !line.contains("relay.toml:"))
        .collect();
    assert!(warnings.is_empty(), "{warnings:#?}");
}

/// fetchmail closes in place of its greeting when its own server is down; Exim closes without QUIT after 453; and
/// any of them may be gone behind a 250. TLS is cut off, too: there is no close_notify.
// covers: OWN-1, OWN-7a, R2645-25, R5321-26
#[test]
fn a_customer_that_just_closes_alarms_nobody_and_costs_no_mail() {
    for tls in [Tls::Implicit, Tls::Optional] {
        let world = World::setup().tls(tls).start();
        let log_in = || {
            let mut peer = world.relay.odmr();
            peer.ehlo("cust.example");
            peer.auth_cram_md5(ACCOUNT, world.relay.secret(ACCOUNT));
            peer
        };
        let mut peer = log_in();
        peer.ask("ATRN", "453 ");
        drop(peer);

        send(&world, 3);
        let mut peer = log_in();
        peer.ask("ATRN example.org", "250 ");
        drop(peer);
        world
            .relay
            .wait_for_queue(&["user@example.org queued 0"; 3]);

        let mut peer = log_in();
        peer.ask("ATRN example.org", "250 ");
        peer.send("220 cust.example ESMTP");
        peer.expect_command("EHLO ");
        peer.send("250 cust.example");
        take_by_data(&mut peer);
        drop(peer);
        // One message was answered, so one is gone.
        world
            .relay
            .wait_for_queue(&["user@example.org queued 0"; 2]);
        assert_no_warning(&world);
    }
}

/// A transaction, one command at a time; returns the content.
#[track_caller]
fn take_by_data(peer: &mut Peer) -> Vec<u8> {
    peer.expect_command("MAIL FROM:");
    peer.send("250 OK");
    peer.expect_command("RCPT TO:");
    peer.send("250 Accepted");
    peer.expect_command("DATA");
    peer.send("354 Enter message, ending with \".\" on a line by itself");
    let content = peer.content();
    peer.send("250 OK id=1abc");
    content
}

/// Exim as customer over TLS: its EHLO reply lists what it has, AUTH and PIPECONNECT included, and CHUNKING.
// covers: R2645-19, R2645-20, R2645-21, R3030-1
#[test]
fn an_exim_that_offers_chunking_gets_chunks() {
    let world = World::setup().tls(Tls::StartTls).start();
    send(&world, 2);
    let mut peer = world.relay.odmr();
    assert!(peer.ehlo("cust.example").contains(&"STARTTLS".to_owned()));
    peer.ask("STARTTLS", "220 ");
    peer.start_tls_client(&trusting_client());
    peer.ehlo("cust.example");
    peer.ask(
        &format!("AUTH PLAIN {}", plain(ACCOUNT, world.relay.secret(ACCOUNT))),
        "235 ",
    );
    peer.ask("ATRN example.org", "250 ");
    peer.send("220 cust.example ESMTP Exim 4.96 Thu, 01 Jan 2026 12:00:00 +0000");
    assert_eq!(peer.expect_command("EHLO "), "EHLO relay.example.net");
    for line in [
        "250-cust.example Hello root at localhost [127.0.0.1]",
        "250-SIZE 52428800",
        "250-LIMITS MAILMAX=1000 RCPTMAX=50000",
        "250-8BITMIME",
        "250-PIPELINING",
        "250-PIPECONNECT",
        "250-AUTH PLAIN CRAM-MD5",
        "250-CHUNKING",
        "250 HELP",
    ] {
        peer.send(line);
    }
    for number in 1..=2 {
        if number == 2 {
            // The second message was on its way before the first was answered.
            peer.expect_command("RSET");
            peer.send("250 Reset OK");
        }
        let mail = peer.expect_command("MAIL FROM:<sender@source.example> SIZE=");
        let rcpt = peer.expect_command("RCPT TO:<user@example.org>");
        let bdat = peer.expect_command("BDAT ");
        let octets = bdat.strip_suffix(" LAST").expect("one chunk")[5..]
            .parse()
            .unwrap();
        let content = peer.octets(octets);
        assert_eq!(without_trace(&content), message::plain(number));
        assert_eq!(
            mail,
            format!("MAIL FROM:<sender@source.example> SIZE={octets}")
        );
        assert_eq!(rcpt, "RCPT TO:<user@example.org>");
        for reply in [
            "250 OK",
            "250 Accepted",
            "250- 300 byte chunk, total 300\r\n250 OK id=1abc",
        ] {
            peer.send(reply);
        }
    }
    peer.expect_command("QUIT");
    peer.send("221 cust.example closing connection");
    peer.expect_close();
    world.relay.wait_for_queue(&NONE);
    assert_no_warning(&world);
}

/// fetchmail reads one line out of a TLS record and then waits for the next record, for ever. An account can be told
/// to have each line in a record of its own; others get records as full as they come.
// covers: R2645-20
#[test]
fn line_records_are_for_the_account_that_needs_them() {
    for (account, option) in [("fetchmail", Some("--line-records")), ("other", None)] {
        let world = World::start();
        let mut add = vec!["account", "add", account, "--domain", DOMAIN, "--json"];
        add.extend(option);
        let added = world.relay.cli(&add).expect_code(0).json();
        send(&world, 1);
        let mut peer = Records::connect(&world);
        peer.read_until("ready\r\n");
        for (line, reply) in [
            ("EHLO fetchmail.example".to_owned(), "250 "),
            (
                format!(
                    "AUTH PLAIN {}",
                    plain(account, added["secret"].as_str().unwrap())
                ),
                "235 ",
            ),
            ("ATRN example.org".to_owned(), "250 "),
        ] {
            peer.send(&line);
            peer.read_until(reply);
        }
        peer.send("220 sink.example ESMTP");
        let mut records = peer.read_until("EHLO relay.example.net\r\n");
        for (reply, next) in [
            ("250-sink.example\r\n250 PIPELINING", "DATA\r\n"),
            ("250 ok\r\n250 ok\r\n354 go", "\r\n.\r\n"),
            ("250 taken", "QUIT\r\n"),
        ] {
            peer.send(reply);
            records.extend(peer.read_until(next));
        }
        peer.send("221 bye");
        let lines = |record: &String| record.matches("\r\n").count();
        let most = records.iter().map(lines).max();
        if option.is_some() {
            assert_eq!(most, Some(1), "{records:#?}");
            assert!(
                records.iter().all(|record| record.ends_with("\r\n")),
                "{records:#?}"
            );
        } else {
            assert!(most > Some(1), "{records:#?}");
        }
    }
}

/// A TLS client that sees its records one by one.
struct Records {
    session: ClientConnection,
    socket: TcpStream,
}

impl Records {
    fn connect(world: &World) -> Self {
        let socket = TcpStream::connect(world.relay.odmr_address()).expect("a listener");
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let name = ServerName::try_from("localhost").expect("a name");
        let session =
            ClientConnection::new(Arc::clone(&trusting_client()), name).expect("a TLS client");
        let mut records = Self { session, socket };
        records.flush();
        records
    }

    fn send(&mut self, text: &str) {
        self.session
            .writer()
            .write_all(format!("{text}\r\n").as_bytes())
            .expect("TLS");
        self.flush();
    }

    /// The text of each record, to the one with which the whole ends so, or whose last line begins so.
    #[track_caller]
    fn read_until(&mut self, end: &str) -> Vec<String> {
        let mut records = Vec::new();
        let mut text = String::new();
        loop {
            let record = self.record();
            text.push_str(&record);
            records.push(record);
            let last_line = text.trim_end().rsplit("\r\n").next().unwrap_or_default();
            if text.ends_with(end) || (text.ends_with("\r\n") && last_line.starts_with(end)) {
                records.retain(|record| !record.is_empty());
                return records;
            }
        }
    }

    /// One record; empty when it is part of the handshake.
    #[track_caller]
    fn record(&mut self) -> String {
        // RFC 8446 §5.1: type, version, length.
        let mut record = vec![0; 5];
        self.socket.read_exact(&mut record).expect("TLS");
        let length = u16::from_be_bytes([record[3], record[4]]);
        record.resize(5 + usize::from(length), 0);
        self.socket.read_exact(&mut record[5..]).expect("TLS");
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            self.session.read_tls(&mut rest).expect("TLS");
            self.session.process_new_packets().expect("TLS");
        }
        self.flush();
        let mut text = vec![0; 20_000];
        match self.session.reader().read(&mut text) {
            Ok(count) => String::from_utf8_lossy(&text[..count]).into_owned(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => String::new(),
            Err(error) => panic!("{error}"),
        }
    }

    fn flush(&mut self) {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket).expect("TLS");
        }
    }
}
