//! What a monitor reads: figures, whether the relay lives, and whether it can take mail.

use std::net::{SocketAddr, TcpStream};

use atrn_tests::inside::{Inside, Step};
use atrn_tests::message::{self, Message};
use atrn_tests::peer::Peer;
use atrn_tests::ports::Port;
use atrn_tests::process::wait_until;
use atrn_tests::world::World;

/// An answer: its first line, its header section, its body.
struct Answer {
    status: String,
    header: Vec<String>,
    body: String,
}

fn ask(address: SocketAddr, request: &str) -> Answer {
    let mut peer = Peer::connect(address);
    peer.send_octets(format!("{request}\r\nHost: relay.example.net\r\n\r\n").as_bytes());
    let status = peer.line();
    let mut header = Vec::new();
    loop {
        let line = peer.line();
        if line.is_empty() {
            break;
        }
        header.push(line.to_ascii_lowercase());
    }
    let length = header
        .iter()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length = length.expect("a length").parse().expect("a number");
    let body = if request.starts_with("HEAD") {
        Vec::new()
    } else {
        peer.octets(length)
    };
    peer.expect_close();
    Answer {
        status,
        header,
        body: String::from_utf8(body).expect("UTF-8"),
    }
}

#[track_caller]
fn expect_line(address: SocketAddr, request: &str, status: &str, body: &str) {
    let answer = ask(address, request);
    let begins = answer.status.starts_with(&format!("HTTP/1.1 {status}"));
    assert!(begins, "{request}: {}", answer.status);
    assert_eq!(answer.body, body, "{request}");
}

#[track_caller]
fn expect_figures(address: SocketAddr, figures: &[&str]) {
    let answer = ask(address, "GET /metrics HTTP/1.1");
    assert!(
        answer.status.starts_with("HTTP/1.1 200"),
        "{}",
        answer.status
    );
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(
        answer.header.iter().any(|line| line == kind),
        "{:?}",
        answer.header
    );
    assert!(answer.body.ends_with("\n# EOF\n"), "{}", answer.body);
    for figure in figures {
        let is_there = answer.body.lines().any(|line| line == *figure);
        assert!(is_there, "{figure}: {}", answer.body);
    }
}

/// A relay with figures, and their address.
fn watched(inside: &Inside) -> (World, SocketAddr, Port) {
    let port = Port::reserve();
    let world = World::setup()
        .relay("metrics.listen", port.address().to_string())
        .target(&inside.target())
        .start();
    // The last of the sockets that are bound.
    wait_until("figures are served", || {
        TcpStream::connect(port.address()).is_ok()
    });
    (world, port.address(), port)
}

// covers: OWN-8
#[test]
fn mail_and_the_alarm_of_a_broken_server_are_in_the_figures() {
    let inside = Inside::smtp();
    inside
        .on(Step::Rcpt)
        .after(1)
        .reply("550 5.1.1 no such user");
    let (world, address, _port) = watched(&inside);
    expect_figures(
        address,
        &[
            "atrn_relay_account_alarm{account=\"corp\"} 0",
            "atrn_relay_deliveries{domain=\"example.org\",state=\"queued\"} 0",
            "atrn_relay_queue_octets_max{domain=\"example.org\"} 10000000000",
        ],
    );
    let to = |number| {
        let recipient = format!("user{number}@example.org");
        Message::new(&recipient, message::plain(number))
    };
    world.send(&(1..=12).map(to).collect::<Vec<_>>());
    expect_figures(
        address,
        &[
            "# TYPE atrn_relay_accepted_messages counter",
            "atrn_relay_accepted_messages_total 12",
            "atrn_relay_deliveries{domain=\"example.org\",state=\"queued\"} 12",
            "atrn_relay_leased_deliveries 0",
        ],
    );
    let _ = world.puller.pull().expect_code(0);
    let in_state = |state| world.relay.queue_list(&["--state", state]).len();
    let (queued, deferred) = (in_state("queued"), in_state("deferred"));
    assert!(
        deferred > 0 && queued + deferred == 11,
        "{queued} {deferred}"
    );
    let of_domain = |state: &str, count: usize| {
        format!("atrn_relay_deliveries{{domain=\"example.org\",state=\"{state}\"}} {count}")
    };
    expect_figures(
        address,
        &[
            "atrn_relay_account_alarm{account=\"corp\"} 1",
            "atrn_relay_account_stops_total{account=\"corp\"} 1",
            "atrn_relay_account_delivered_total{account=\"corp\"} 1",
            "atrn_relay_account_pulls_total{account=\"corp\"} 1",
            &of_domain("deferred", deferred),
            &of_domain("queued", queued),
            &of_domain("failed", 0),
        ],
    );

    inside.behave();
    world.relay.retry_all();
    let _ = world.puller.pull().expect_code(0);
    expect_figures(
        address,
        &[
            "atrn_relay_account_alarm{account=\"corp\"} 0",
            "atrn_relay_account_stops_total{account=\"corp\"} 1",
            "atrn_relay_account_delivered_total{account=\"corp\"} 12",
        ],
    );
}

#[test]
fn a_monitor_is_told_in_one_line() {
    let (mut world, address, _port) = watched(&Inside::smtp());
    expect_line(address, "GET /healthz HTTP/1.1", "200", "ok\n");
    let said = format!("serves figures address={address}");
    assert!(world.relay.log().contains(&said), "{}", world.relay.log());
    expect_line(address, "GET /readyz HTTP/1.1", "200", "ready\n");
    expect_line(address, "HEAD /healthz HTTP/1.1", "200", "");
    let paths = "there are /metrics, /healthz and /readyz\n";
    expect_line(address, "GET / HTTP/1.1", "404", paths);
    expect_line(address, "GET /metrics/ HTTP/1.1", "404", paths);
    let answer = ask(address, "POST /metrics HTTP/1.1");
    assert!(
        answer.status.starts_with("HTTP/1.1 405"),
        "{}",
        answer.status
    );
    assert!(answer.header.contains(&"allow: get, head".to_owned()));
    // Whoever says nothing, or no end of it, is in nobody's way, and not at the end either.
    let mut silent: Vec<_> = (0..12).map(|_| Peer::connect(address)).collect();
    let mut endless = silent.remove(0);
    let long = "x".repeat(100_000);
    let _ = endless.try_send_octets(format!("GET /{long} HTTP/1.1\r\n").as_bytes());
    expect_line(address, "GET /healthz HTTP/1.1", "200", "ok\n");
    assert_eq!(world.relay.stop(), 0, "{}", world.relay.log());
    for peer in &mut silent {
        peer.expect_close();
    }
}

#[test]
fn more_connections_than_there_may_be_are_closed() {
    let (_world, address, _port) = watched(&Inside::smtp());
    // Sixteen are held, whatever is left of the one that asked whether anybody is there.
    let held: Vec<_> = (0..32).map(|_| Peer::connect(address)).collect();
    let mut one_more = Peer::connect(address);
    let _ = one_more.try_send_octets(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(one_more.try_line(), None);
    drop(held);
}
