//! What `Received` says about the names of a client: the classic words, for each case.

use std::time::Duration;

use atrn_tests::dns::{Answer, Dns, Transport, reverse_name};
use atrn_tests::world::World;

use super::{ADDRESS, CLIENT, balanced, hello, hello_from, received_from};

/// An address of the clients of this file, its number and the address as text.
fn address(number: u8) -> String {
    format!("192.0.1.{number}")
}

/// A client of its own for each case, with its names as `name` says: in one world, because what was asked once is known.
struct Cases {
    world: World,
    dns: Dns,
}

impl Cases {
    fn start() -> Self {
        let dns = Dns::start();
        let world = balanced()
            .relay("dns", {
                let mut settings = dns.settings();
                settings.insert("timeout".to_owned(), "500ms".into());
                settings
            })
            .start();
        Self { world, dns }
    }

    #[track_caller]
    fn expect(&self, number: u8, hello: &str, expected: &str) {
        let address = address(number);
        let mut peer = hello_from(&self.world, &address, hello);
        let received = received_from(&self.world, &mut peer);
        let expected = format!("Received: from {hello} ({expected})");
        assert_eq!(received, expected.replace('@', &format!("[{address}]")));
    }
}

// covers: R5321-16
#[test]
fn the_trace_field_says_what_the_names_of_a_client_say() {
    let cases = Cases::start();
    let dns = &cases.dns;
    let named = |number: u8, name: &str| {
        dns.ptr(&address(number), name);
        dns.a(name, &address(number));
    };

    // Its name leads back to it, and it calls itself so.
    named(1, "one.example");
    cases.expect(1, "one.example", "one.example @");
    cases.expect(1, "ONE.example", "one.example @");
    // It calls itself by another name, which leads to it as well.
    dns.a("other.example", &address(1));
    cases.expect(1, "other.example", "one.example @");
    // Or by its address.
    cases.expect(1, "[192.0.1.1]", "one.example @");
    cases.expect(1, "[192.0.1.2]", "one.example @ unverified");

    // It calls itself by a name that leads elsewhere, to nowhere, or is in trouble.
    dns.a("elsewhere.example", "192.0.2.1");
    dns.answers("trouble.example", Answer::ServFail);
    for name in ["elsewhere.example", "nowhere.example", "trouble.example"] {
        cases.expect(1, name, "one.example @ unverified");
    }

    // Its name does not lead back to it: anybody can claim any name.
    dns.ptr(&address(2), "bank.example");
    dns.a("bank.example", "192.0.2.2");
    cases.expect(2, "bank.example", "@ unverified");
    dns.ptr(&address(3), "gone.example");
    cases.expect(3, "gone.example", "@ unverified");
    // A name that no host can have.
    dns.ptr(&address(4), "a_b(c).example");
    dns.a("a_b(c).example", &address(4));
    cases.expect(4, "one.example", "@ unverified");
    // Of several names those count that lead back.
    dns.ptr(&address(5), "gone.example");
    named(5, "five.example");
    named(5, "cinq.example");
    cases.expect(5, "cinq.example", "cinq.example @");
    cases.expect(5, "six.example", "five.example @ unverified");

    // A chain of aliases, as where a net is given in parts (RFC 2317).
    dns.cname(&reverse_name(address(6).parse().unwrap()), "6.part.example");
    dns.ptr_of("6.part.example", "sept.example");
    dns.cname("sept.example", "host.sept.example");
    dns.a("host.sept.example", &address(6));
    cases.expect(6, "sept.example", "sept.example @");
}

// covers: R5321-16
#[test]
fn a_look_up_that_fails_is_said_to_have_failed() {
    let cases = Cases::start();
    let dns = &cases.dns;
    // No such name; the client calling itself by a name that leads to it changes nothing.
    dns.a("one.example", &address(1));
    cases.expect(1, "one.example", "@ RDNS failed");
    for (number, answer) in [
        (2, Answer::ServFail),
        (3, Answer::Refused),
        (4, Answer::Garbage),
        (5, Answer::Stranger),
        (6, Answer::HangUp),
        (7, Answer::Silence),
    ] {
        let address = address(number);
        dns.ptr(&address, "one.example");
        dns.answers(&reverse_name(address.parse().unwrap()), answer);
        cases.expect(number, "one.example", "@ RDNS failed");
    }
    // The name is there, and whether it leads back nobody can say.
    dns.ptr(&address(8), "broken.example");
    dns.answers("broken.example", Answer::ServFail);
    cases.expect(8, "broken.example", "@ RDNS failed");
    // What comes too late is nothing.
    let slow = reverse_name(address(9).parse().unwrap());
    dns.ptr(&address(9), "one.example");
    dns.delay_of(&slow, Duration::from_secs(60));
    cases.expect(9, "one.example", "@ RDNS failed");
    // And names work all the while.
    dns.ptr(&address(10), "ten.example");
    dns.a("ten.example", &address(10));
    cases.expect(10, "ten.example", "ten.example @");
}

#[test]
fn look_ups_can_be_switched_off() {
    let dns = Dns::start();
    dns.ptr(ADDRESS, CLIENT);
    let plain = "Received: from client.source.example ([192.0.2.1])";

    let mut world = balanced().start();
    assert_eq!(received_from(&world, &mut hello(&world, CLIENT)), plain);

    // Those of clients alone, without a restart.
    world.relay.stop();
    world.relay.configure(|settings| {
        settings
            .set("dns", dns.settings())
            .set("dns.reverse", false);
    });
    world.relay.start();
    assert_eq!(received_from(&world, &mut hello(&world, CLIENT)), plain);
    assert_eq!(dns.asked(&reverse_name(ADDRESS.parse().unwrap())), 0);
    assert_eq!(dns.asked(CLIENT), 0);
    world.relay.configure(|settings| {
        settings.set("dns.reverse", true);
    });
    atrn_tests::process::wait_until("the reload", || {
        world.relay.log().contains("configuration reloaded")
    });
    let received = received_from(&world, &mut hello(&world, CLIENT));
    assert_eq!(received, plain.replace("])", "] unverified)"));
}

#[test]
fn questions_go_over_tcp_unless_udp_is_asked_for() {
    for (word, expected) in [("tcp", Transport::Tcp), ("udp", Transport::Udp)] {
        let dns = Dns::start();
        dns.ptr(ADDRESS, CLIENT);
        dns.a(CLIENT, ADDRESS);
        let mut settings = dns.settings();
        settings.insert("transport".to_owned(), word.into());
        let world = balanced().relay("dns", settings).start();
        let received = received_from(&world, &mut hello(&world, CLIENT));
        assert!(
            received.ends_with(" (client.source.example [192.0.2.1])"),
            "{received}"
        );
        let queries = dns.queries();
        assert!(
            queries.iter().all(|query| query.over == expected),
            "{queries:?}"
        );
    }
}
