//! Wall clocks that jump by twenty years, forth and back, under the running programs: nothing expires, what waits
//! goes on waiting for as long as it should, mail flows, and no id is given twice.

use std::time::Duration;

use atrn_puller::journal::Journal;
use atrn_tests::faults::{Ledger, WallClock};
use atrn_tests::inside::{Inside, Step};
use atrn_tests::message::{Message, stuffed};
use atrn_tests::process::wait_until;
use atrn_tests::sender::Sender;
use atrn_tests::software::Software;
use atrn_tests::world::{ACCOUNT, World};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// How the clock jumps, and how far that is from the right time (its years have 365 days).
const JUMPS: [(&str, i64); 2] = [("+20y", 20 * 365 * 86_400), ("-20y", -20 * 365 * 86_400)];
/// Its mail is given up after two seconds: when a message of it is, the clock's work was done.
const SHORT: &str = "short.example";
const A_MINUTE: Duration = Duration::from_secs(60);
const HOLD_FOR: i64 = 5 * 86_400;

/// A relay whose wall clock is in our hands.
struct Stage {
    world: World,
    inside: Inside,
    clock: WallClock,
    ledger: Ledger,
    ids: Vec<String>,
    witnesses: usize,
}

// covers: OWN-7
#[test]
fn a_relay_whose_clock_jumps_goes_on() {
    if Software::Faketime.find().is_none() {
        return;
    }
    let mut stage = Stage::new();
    for (jump, away) in JUMPS {
        let mut sender = stage.connect();
        stage.send(&mut sender, "later");
        let later = stage.inside.on(Step::Rcpt).with("later@").once();
        later.reply("451 4.3.0 Later");
        let _ = stage.world.puller.pull().expect_code(0);
        stage.send(&mut sender, "ann");
        let waiting = ["later@example.org deferred 1", "ann@example.org queued 0"];
        assert_eq!(stage.lines(), waiting);
        let rest = stage.begin(&mut sender);

        stage.clock.jump(jump);
        stage.wait_for_expiry();
        assert_eq!(stage.lines(), waiting, "{jump}");
        let now = Timestamp::now() + SignedDuration::from_secs(away);
        let year = format!("\n{}-", now.to_zoned(TimeZone::UTC).year());
        assert!(
            stage.world.relay.log().contains(&year),
            "its clock is there"
        );
        let [later, ann] = &stage.items()[..] else {
            panic!("two deliveries");
        };
        assert!(
            moment(later, "next_attempt")
                .duration_since(now)
                .unsigned_abs()
                < A_MINUTE
        );
        for item in [later, ann] {
            let left = moment(item, "expires_at").duration_since(now);
            let apart = left.as_secs().abs_diff(HOLD_FOR);
            assert!(apart < 60, "{jump}: expires in {left:#}");
        }
        stage.end(&mut sender, &rest);
        let _ = stage.world.puller.pull().expect_code(0);
        assert_eq!(stage.lines(), ["later@example.org deferred 1"]);

        // What passed while it did not run is not more than a day to it, whatever the wall clock says.
        stage.send(&mut sender, "ann");
        stage.world.relay.restart();
        stage.wait_for_expiry();
        assert_eq!(stage.lines(), waiting, "{jump}");
        stage.clock.jump("+0");
        stage.wait_for_expiry();
        assert_eq!(stage.lines(), waiting, "back from {jump}");
        let mut sender = stage.connect();
        stage.send(&mut sender, "ann");
        stage.world.relay.retry_all();
        let _ = stage.world.puller.pull().expect_code(0);
        assert_eq!(stage.lines(), [""; 0]);
    }
    assert!(
        stage.ids.is_sorted_by(|one, next| one < next),
        "{:?}",
        stage.ids
    );
    let arrived = stage.inside.messages();
    stage
        .ledger
        .settle(arrived.iter().map(|message| &message.content[..]));
}

// covers: R-DUP
#[test]
fn a_puller_whose_clock_jumps_goes_on() {
    if Software::Faketime.find().is_none() {
        return;
    }
    let inside = Inside::smtp();
    let mut world = World::setup()
        .puller("relay.every", "1s")
        .puller("relay.jitter", "0s")
        .target(&inside.target())
        .start();
    let clock = WallClock::right(world.puller.folder());
    world.puller.set_environment(clock.environment());
    world.puller.start();
    let mut sent = 0;
    let mut ledger = Ledger::default();
    let mut arrives = |world: &World| {
        let message = ledger.message("clock", 100);
        world.send(std::slice::from_ref(&message));
        ledger.note(&message, "250 ");
        sent += 1;
        inside.wait_for_messages(sent);
        world.relay.wait_for_queue(&[]);
    };
    for (jump, _) in JUMPS {
        arrives(&world);
        clock.jump(jump);
        arrives(&world);
        assert_eq!(world.puller.stop(), 0);
        world.puller.start();
        arrives(&world);
        clock.jump("+0");
        arrives(&world);
    }
    assert_eq!(world.puller.stop(), 0);
    let journal = Journal::examine(&world.puller.folder().join("data"));
    let entries = journal.expect("the journal").expect("a journal").entries;
    assert_eq!(entries, sent as u64, "nothing is too old");
    let arrived = inside.messages();
    ledger.settle(arrived.iter().map(|message| &message.content[..]));
}

impl Stage {
    fn new() -> Self {
        let inside = Inside::smtp();
        let mut world = World::setup()
            .domain("example.org")
            .domain(SHORT)
            .account(ACCOUNT, &["example.org"])
            .target(&inside.target())
            .start();
        let clock = WallClock::right(world.relay.folder());
        world.relay.configure_domain(SHORT, "hold_for", "2s");
        world.relay.configure_domain(SHORT, "reports", "none");
        world.relay.set_environment(clock.environment());
        world.relay.restart();
        Self {
            world,
            inside,
            clock,
            ledger: Ledger::default(),
            ids: Vec::new(),
            witnesses: 0,
        }
    }

    fn connect(&self) -> Sender {
        Sender::connect(self.world.relay.smtp_address())
    }

    /// Sends a message to a user of `example.org`.
    #[track_caller]
    fn send(&mut self, sender: &mut Sender, user: &str) {
        let mut message = self.ledger.message("clock", 100);
        message.forward_paths = vec![format!("{user}@example.org")];
        let reply = sender.send(&message);
        self.ledger.note(&message, &reply);
        self.ids.push(id(&reply));
    }

    /// The first half of a message; the other half.
    #[track_caller]
    fn begin(&mut self, sender: &mut Sender) -> (Vec<u8>, Message) {
        let message = self.ledger.message("clock", 100);
        let peer = sender.peer();
        peer.ask("MAIL FROM:<sender@source.example>", "250 ");
        peer.ask("RCPT TO:<user@example.org>", "250 ");
        peer.ask("DATA", "354");
        let octets = stuffed(&message.content);
        let (first, rest) = octets.split_at(octets.len() / 2);
        peer.send_octets(first);
        (rest.to_vec(), message)
    }

    #[track_caller]
    fn end(&mut self, sender: &mut Sender, rest: &(Vec<u8>, Message)) {
        sender.peer().send_octets(&rest.0);
        let reply = sender.peer().expect("250 ");
        self.ledger.note(&rest.1, &reply);
    }

    /// Mail whose time is over is given up: the look at the queue is not stuck, and all else has been looked at.
    #[track_caller]
    fn wait_for_expiry(&mut self) {
        let mut sender = self.connect();
        let user = format!("user@{SHORT}");
        let message = Message::new(&user, "Subject: witness\r\n\r\n");
        self.ids.push(id(&sender.send(&message)));
        self.witnesses += 1;
        let filters = ["--state", "expired", "--domain", SHORT];
        wait_until("the witness expires", || {
            self.world.relay.queue_list(&filters).len() == self.witnesses
        });
    }

    /// What waits for `example.org`.
    fn items(&self) -> Vec<Value> {
        self.world.relay.queue_list(&["--domain", "example.org"])
    }

    fn lines(&self) -> Vec<String> {
        let lines = self.world.relay.queue_lines().into_iter();
        lines.filter(|line| !line.contains(SHORT)).collect()
    }
}

/// `250 2.0.0 ID`
fn id(reply: &str) -> String {
    reply.rsplit(' ').next().expect("an id").to_owned()
}

#[track_caller]
fn moment(item: &Value, key: &str) -> Timestamp {
    let text = item[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key}: {item}"));
    text.parse().expect("a time")
}
