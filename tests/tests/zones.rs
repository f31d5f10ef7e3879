//! The three zones as a network of hosts: mail goes all of its way, and nothing that is begun in the DMZ goes anywhere.
//! The packet filters are those of docs/examples.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use atrn_tests::inside::Inside;
use atrn_tests::message::{self, Message, without_trace};
use atrn_tests::process::wait_until;
use atrn_tests::sender;
use atrn_tests::world::{ACCOUNT, DOMAIN, Puller, PullerSetup, Relay, Tls};
use atrn_tests::zones::{Zone, Zones};
use tempfile::TempDir;

/// How long an attempt to connect may hang where a filter is silent.
const ATTEMPT: Duration = Duration::from_secs(2);

/// A company: relay in the DMZ, puller and mail server inside.
struct Company {
    // Programs end before their hosts do.
    puller: Puller,
    relay: Relay,
    /// `None` when all is over.
    inside: Option<Inside>,
    zones: Zones,
    _folder: TempDir,
}

impl Company {
    fn found(mode: &str) -> Option<Self> {
        let zones = Zones::build()?;
        let folder = tempfile::tempdir().expect("a folder");
        let mut relay = Relay::init(folder.path(), &[DOMAIN.to_owned()], Tls::Implicit);
        relay.configure(|settings| {
            // The harness looks on loopback whether it is up.
            let listen = |own: SocketAddr, port| {
                let public = SocketAddr::new(Zone::Dmz.address().into(), port);
                vec![own.to_string(), public.to_string()]
            };
            settings
                .set("dns", "off")
                .set("smtp.listen", listen(relay.smtp_address(), 25))
                .set("odmr.listen", listen(relay.odmr_address(), 366));
        });
        relay.add_account(ACCOUNT, &[DOMAIN.to_owned()]);
        let inside = zones.within(Zone::Inside, Inside::smtp);
        let odmr = format!("{}:366", Zone::Dmz.address());
        let puller = PullerSetup::new(ACCOUNT, &[DOMAIN], &inside.target())
            .setting("relay.mode", mode)
            .setting("relay.every", "1s")
            .install_for(
                folder.path(),
                &odmr,
                Tls::Implicit,
                Some(relay.pin()),
                relay.secret(ACCOUNT),
            );
        zones.within(Zone::Dmz, || relay.start());
        Some(Self {
            puller,
            relay,
            inside: Some(inside),
            zones,
            _folder: folder,
        })
    }

    fn send(&self, numbers: std::ops::Range<usize>) {
        let messages: Vec<_> = numbers
            .map(|number| Message::new("user@example.org", message::plain(number)))
            .collect();
        let relay = SocketAddr::new(Zone::Dmz.address().into(), 25);
        self.zones
            .within(Zone::Internet, || sender::send(relay, &messages));
    }

    fn arrived(&self) -> Vec<Vec<u8>> {
        let messages = self.inside.iter().flat_map(Inside::messages);
        messages
            .map(|message| without_trace(&message.content).to_vec())
            .collect()
    }

    /// Connections that the relay's host has begun, and what its own filter and the firewall saw of such.
    fn begun_in_the_dmz(&self) -> [u64; 3] {
        [
            self.zones.within(Zone::Dmz, active_opens),
            self.zones.packets(Zone::Dmz, "opened_here"),
            self.zones.packets(Zone::Firewall, "opened_in_dmz"),
        ]
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        // It ends itself by a connection, which is begun on its own host.
        let inside = self.inside.take();
        self.zones.within(Zone::Inside, move || drop(inside));
        if std::thread::panicking() {
            eprintln!("--- log of the relay\n{}", self.relay.log());
            eprintln!("--- log of the puller\n{}", self.puller.log());
        }
    }
}

/// TCP connections begun on this thread's host since it exists (`tcpActiveOpens`, RFC 4022).
fn active_opens() -> u64 {
    // Of the thread, as that is what was moved to another host.
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("the counters");
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut pairs = names.split(' ').zip(values.split(' '));
    let found = pairs.find(|(name, _)| *name == "ActiveOpens");
    found.and_then(|(_, value)| value.parse().ok()).expect("it")
}

/// By polls and in instant mode, with the puller away for a while, and with the relay restarted.
#[test]
fn mail_comes_in_and_nothing_begun_in_the_dmz_goes_anywhere() {
    for mode in ["instant", "poll"] {
        let Some(mut company) = Company::found(mode) else {
            return;
        };
        // What the harness itself did on loopback.
        let before = company.begun_in_the_dmz();
        company.send(0..50);
        company
            .zones
            .within(Zone::Inside, || company.puller.start());
        company.send(50..100);
        wait_until("all of it is inside", || company.arrived().len() == 100);
        // Puller away; who sends meets the relay alone.
        company.puller.kill();
        company.send(100..150);
        company
            .zones
            .within(Zone::Inside, || company.puller.start());
        wait_until("the rest is inside", || company.arrived().len() == 150);
        company.relay.wait_for_queue(&[]);

        assert_eq!(company.begun_in_the_dmz(), before, "{mode}");
        assert_eq!(before[1..], [0, 0], "{mode}");
        let came = |counter| company.zones.packets(Zone::Firewall, counter);
        assert_eq!(came("smtp_connections"), 3);
        assert!(came("puller_connections") >= 2);
        assert_eq!(came("refused"), 0);
        let mut arrived = company.arrived();
        arrived.sort();
        let mut expected: Vec<_> = (0..150).map(message::plain).collect();
        expected.sort();
        assert_eq!(arrived, expected, "each once, as it was sent");
    }
}

/// Both fences, one after the other, see an attempt; so the zeros of the other test mean something.
#[test]
fn the_filters_stop_and_count_what_a_captured_host_begins() {
    let Some(zones) = Zones::build() else {
        return;
    };
    let targets = [
        (Zone::Inside, 25),
        (Zone::Inside, 366),
        (Zone::Internet, 25),
        (Zone::Internet, 53),
    ];
    let attempt = || {
        for (zone, port) in targets {
            let address = SocketAddr::new(zone.address().into(), port);
            let connected = zones.within(Zone::Dmz, || {
                TcpStream::connect_timeout(&address, ATTEMPT).is_ok()
            });
            assert!(!connected, "{address}");
        }
    };
    let begun = zones.within(Zone::Dmz, active_opens);
    attempt();
    assert!(zones.within(Zone::Dmz, active_opens) > begun);
    assert_eq!(zones.packets(Zone::Dmz, "opened_here"), 4);
    assert_eq!(zones.packets(Zone::Firewall, "opened_in_dmz"), 0);
    // Root on the captured host takes its own filter away.
    zones.open(Zone::Dmz);
    attempt();
    assert_eq!(zones.packets(Zone::Firewall, "opened_in_dmz"), 4);
}
