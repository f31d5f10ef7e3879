//! Reversed sessions against a puller that is played step by step, on a real queue.

use std::fmt::Write as _;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::*;
use crate::activity::Activity;
use crate::closing::tests::{Mail, World};
use crate::transaction_log::TransactionLog;

const ACCOUNT: &str = "corp";
const PATIENCE: Duration = Duration::from_secs(30);
/// What our puller offers, and what others do.
const ALL: &str = "250-p\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 XDELIVERYID\r\n";
const UNNAMED: &str = "250-p\r\n250-PIPELINING\r\n250 CHUNKING\r\n";
const NO_CHUNKING: &str = "250-p\r\n250-PIPELINING\r\n250 XDELIVERYID\r\n";
const NOTHING: &str = "250 p\r\n";

fn world() -> World {
    let pin = "A".repeat(43);
    World::new(&format!(
        "reports = \"none\"\n[[account]]\nname = \"{ACCOUNT}\"\ncertificate_pins = [\"sha256/{pin}=\"]\n\
         domains = [\"example.com\"]"
    ))
}

/// Messages for `1@example.com` and so on; the content is the number.
async fn send(world: &World, numbers: std::ops::RangeInclusive<usize>) {
    for number in numbers {
        send_to(world, &[&number.to_string()], &number.to_string()).await;
    }
}

async fn send_to(world: &World, recipients: &[&str], content: &str) {
    let recipients: Vec<_> = recipients
        .iter()
        .map(|name| format!("{name}@example.com"))
        .collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    let mail = Mail {
        recipients: &recipients,
        content: content.as_bytes(),
        ..Mail::default()
    };
    world.accept(&mail).await;
}

/// What is left of the queue: recipient and state, in the order in which it came.
async fn left(world: &World) -> String {
    let items = world.all().await;
    let told = items.iter().map(|item| {
        let recipients = item.recipients.join("+").replace("@example.com", "");
        format!("{recipients} {}", item.state.name())
    });
    told.collect::<Vec<_>>().join(", ")
}

/// The puller's end of a reversed session.
struct Played {
    stream: UnixStream,
    heard: Vec<u8>,
    /// The next is the content of DATA.
    in_data: bool,
    shutdown: CancellationToken,
    drain: JoinHandle<()>,
}

impl Played {
    /// Turns a session, which is greeted and said hello to by what is offered.
    async fn turn(world: &World, offer: &str, wait: Option<Duration>) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let shutdown = CancellationToken::new();
        let drain = tokio::spawn(drain(world, theirs, wait, shutdown.clone()));
        let mut played = Self {
            stream: ours,
            heard: Vec::new(),
            in_data: false,
            shutdown,
            drain,
        };
        played.say("220 p\r\n").await;
        played.hears("EHLO").await;
        played.say(offer).await;
        played
    }

    async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Replies of one line, by their codes.
    async fn says(&mut self, codes: &str) {
        let mut text = String::new();
        for code in codes.split_whitespace() {
            let _ = write!(text, "{code} {code}\r\n");
            self.in_data |= code == "354";
        }
        self.say(&text).await;
    }

    /// Reads until it heard all of this, in this order, and then nothing more is there: verbs, with the recipient
    /// of RCPT and the content of BDAT, and `.` for the content of DATA.
    #[track_caller]
    fn hears<'p>(&'p mut self, expected: &'p str) -> impl Future<Output = ()> + 'p {
        let caller = std::panic::Location::caller();
        async move {
            let mut seen: Vec<String> = Vec::new();
            let count = expected.split_whitespace().count();
            while seen.len() < count {
                match self.word() {
                    Some(word) => seen.push(word),
                    None => {
                        let read = self.stream.read_buf(&mut self.heard);
                        let read = tokio::time::timeout(PATIENCE, read).await;
                        let octets = read.unwrap_or_else(|_| {
                            panic!("{caller}: only {seen:?} came of {expected}")
                        });
                        assert_ne!(octets.unwrap(), 0, "{caller}: closed behind {seen:?}");
                    }
                }
            }
            assert_eq!(seen.join(" "), expected, "{caller}");
            let more = String::from_utf8_lossy(&self.heard);
            assert_eq!(more, "", "{caller}: more than {expected}");
        }
    }

    fn word(&mut self) -> Option<String> {
        let heard = String::from_utf8(self.heard.clone()).unwrap();
        if self.in_data {
            let end = heard.find("\r\n.\r\n")?;
            self.heard.drain(..end + 5);
            self.in_data = false;
            return Some(format!(".:{}", &heard[..end]));
        }
        let end = heard.find("\r\n")? + 2;
        let mut words = heard[..end].split_whitespace();
        let (verb, argument) = (words.next()?, words.next());
        let mut octets = 0;
        let word = match (verb, argument) {
            ("BDAT", Some(count)) => {
                octets = count.parse().unwrap();
                let content = heard.get(end..end + octets)?;
                format!("BDAT:{}", &content[..octets.min(9)])
            }
            ("RCPT", Some(path)) => {
                let path = path.strip_prefix("TO:<").unwrap();
                format!("RCPT:{}", path.split('@').next().unwrap())
            }
            _ => verb.to_owned(),
        };
        self.heard.drain(..end + octets);
        Some(word)
    }

    /// Closes without a word.
    async fn breaks(self) {
        drop(self.stream);
        self.drain.await.unwrap();
    }

    async fn ends(mut self) {
        self.hears("QUIT").await;
        self.says("221").await;
        self.drain.await.unwrap();
    }
}

/// A session of the world's account on one end of a stream.
fn drain(
    world: &World,
    stream: UnixStream,
    wait: Option<Duration>,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let (store, closing) = (world.store.clone(), world.closing.clone());
    let (settings, activity) = (world.settings.clone(), world.activity.clone());
    async move {
        let peer: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let domains = [Domain::parse("example.com").unwrap()];
        let pull = activity.pull(ACCOUNT, peer.ip());
        let drain = Drain {
            store: &store,
            closing: &closing,
            settings: &settings,
            breakers: &Breakers::default(),
            session: SessionId(7),
            peer,
            account: ACCOUNT,
            hostname: "mx1.example.net",
            domains: &domains,
            wait,
            shutdown: &shutdown,
        };
        let mut trail = TransactionLog::off().relay();
        drain.run(Wire::unix(stream), pull, None, &mut trail).await;
    }
}

fn last_result(activity: &Activity) -> PullResult {
    activity.account(ACCOUNT).last_pull.unwrap().result
}

async fn until_it_waits(world: &World) {
    let waits = async {
        while last_result(&world.activity) != PullResult::Waiting {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.unwrap();
}

/// So many flights of one recipient each, from this number on; those behind another with RSET in front.
fn flights(numbers: std::ops::RangeInclusive<usize>) -> String {
    let flight = |number| format!("MAIL RCPT:{number} BDAT:{number}");
    numbers.map(flight).collect::<Vec<_>>().join(" RSET ")
}

// covers: R2920-2, OWN-6, OWN-9
#[tokio::test]
async fn as_many_are_under_way_as_the_window_holds() {
    // One goes and one comes; with delivery ids the window opens by two more.
    for (offer, first, more) in [(ALL, 16, 3), (UNNAMED, 8, 1)] {
        let world = world();
        let all = first + more;
        send(&world, 1..=all + 1).await;
        let mut puller = Played::turn(&world, offer, None).await;
        puller.hears(&flights(1..=first)).await;
        puller.says("250 250 250").await;
        puller
            .hears(&format!("RSET {}", flights(first + 1..=all)))
            .await;
        puller.shutdown.cancel();
        puller.says(&"250 250 250 250 ".repeat(all - 1)).await;
        puller.ends().await;
        assert_eq!(left(&world).await, format!("{} queued", all + 1));
        assert_eq!(last_result(&world.activity), PullResult::Complete);
    }
}

// covers: OWN-7, OWN-8, R-DUP, R3030-1
#[tokio::test]
async fn a_refusal_in_the_middle_concerns_its_own_message() {
    for (replies, expected) in [
        // MAIL refused.
        ("450 503 503", "2 deferred"),
        // The only recipient refused: the content finds nobody.
        ("250 450 503", "2 deferred"),
        ("250 550 554", "2 failed"),
        // The content refused.
        ("250 250 552", "2 failed"),
        ("250 250 451", "2 deferred"),
        // It has it, and so has the recipient.
        ("258 503 503", ""),
        ("250 258 503", ""),
    ] {
        let world = world();
        send(&world, 1..=3).await;
        let mut puller = Played::turn(&world, ALL, None).await;
        puller.hears(&flights(1..=3)).await;
        let around = "250 250 250 250";
        puller
            .says(&format!("250 250 250 250 {replies} {around}"))
            .await;
        puller.ends().await;
        assert_eq!(left(&world).await, expected, "{replies}");
    }
}

/// Behind the last of them nothing is pending, so nothing is said but QUIT.
// covers: R3030-1
#[tokio::test]
async fn what_follows_a_refusal_begins_with_rset() {
    let world = world();
    send(&world, 1..=1).await;
    send_to(&world, &["2", "3"], "2").await;
    let mut puller = Played::turn(&world, UNNAMED, None).await;
    puller
        .hears("MAIL RCPT:1 BDAT:1 RSET MAIL RCPT:2 RCPT:3 BDAT:2")
        .await;
    // One recipient at a time: the other follows at once.
    puller.says("250 250 250 250 250 250 452 250").await;
    puller.hears("MAIL RCPT:3 BDAT:2").await;
    send(&world, 4..=4).await;
    puller.says("250 450 503").await;
    puller.hears("RSET MAIL RCPT:4 BDAT:4").await;
    puller.says("250 250 550 503").await;
    puller.ends().await;
    assert_eq!(left(&world).await, "3 deferred, 4 failed");
}

// covers: OWN-7a, OWN-2, R5321-26
#[tokio::test]
async fn a_link_that_breaks_frees_what_is_not_answered() {
    for (last, result) in [("", "3 queued, 4 queued"), ("421", "3 queued, 4 queued")] {
        let world = world();
        send(&world, 1..=4).await;
        let mut puller = Played::turn(&world, ALL, None).await;
        puller.hears(&flights(1..=4)).await;
        puller.says("250 250 250 250 250 450 503 250 250").await;
        puller.says(last).await;
        puller.breaks().await;
        assert_eq!(left(&world).await, format!("2 deferred, {result}"));
        let items = world.all().await;
        let attempts: Vec<_> = items.iter().map(|item| item.attempts).collect();
        assert_eq!(attempts, [1, 0, 0]);
    }
}

/// RFC 2920 §3.1: DATA ends a group, and the content begins the next.
// covers: R2920-2, R2920-3
#[tokio::test]
async fn without_chunking_the_next_envelope_goes_with_the_content() {
    let world = world();
    send(&world, 1..=5).await;
    let mut puller = Played::turn(&world, NO_CHUNKING, None).await;
    puller.hears("MAIL RCPT:1 DATA").await;
    puller.says("250 250 354").await;
    puller.hears(".:1 RSET MAIL RCPT:2 DATA").await;
    // Nobody wants it, and the lone dot ends what the 354 began.
    puller.says("250 250 250 450").await;
    puller.say("354 go\r\n").await;
    let mut dot = [0; 3];
    puller.stream.read_exact(&mut dot).await.unwrap();
    assert_eq!(&dot, b".\r\n");
    puller.says("554").await;
    puller.hears("RSET MAIL RCPT:3 DATA").await;
    puller.says("250 250 250 451").await;
    puller.hears("RSET MAIL RCPT:4 DATA").await;
    puller.says("250 250 250 354").await;
    puller.hears(".:4 RSET MAIL RCPT:5 DATA").await;
    puller.says("451 250 258 503 503").await;
    puller.ends().await;
    assert_eq!(left(&world).await, "2 deferred, 3 deferred, 4 deferred");
}

// covers: R2920-2
#[tokio::test]
async fn without_pipelining_one_thing_is_said_at_a_time() {
    for (offer, content) in [(NOTHING, "DATA"), ("250-p\r\n250 CHUNKING\r\n", "BDAT:1")] {
        let world = world();
        send(&world, 1..=2).await;
        let mut puller = Played::turn(&world, offer, None).await;
        for word in ["MAIL", "RCPT:1"] {
            puller.hears(word).await;
            puller.says("250").await;
        }
        puller.hears(content).await;
        if content == "DATA" {
            puller.says("354").await;
            puller.hears(".:1").await;
        }
        puller.says("451").await;
        for (word, code) in [("RSET", "250"), ("MAIL", "250"), ("RCPT:2", "450")] {
            puller.hears(word).await;
            puller.says(code).await;
        }
        puller.ends().await;
        assert_eq!(left(&world).await, "1 deferred, 2 deferred");
    }
}

/// Its envelope goes behind the others, and it flows when that was accepted.
// covers: OWN-9, R3030-1
#[tokio::test]
async fn a_large_message_waits_for_its_recipients_and_not_for_its_turn() {
    let large = format!("large:{}", "x".repeat(300_000));
    let world = world();
    send(&world, 1..=2).await;
    send_to(&world, &["3"], &large).await;
    send(&world, 4..=5).await;
    send_to(&world, &["6"], &large).await;
    send(&world, 7..=7).await;
    let mut puller = Played::turn(&world, ALL, None).await;
    puller
        .hears(&format!("{} RSET MAIL RCPT:3", flights(1..=2)))
        .await;
    puller.says("250 250 250 250 250 250 250 250 250 250").await;
    puller
        .hears(&format!(
            "BDAT:large:xxx RSET {} RSET MAIL RCPT:6",
            flights(4..=5)
        ))
        .await;
    puller.says("250").await;
    puller.says("250 250 250 250 250 250 250 250").await;
    // Nobody wants that one: not an octet of it is sent.
    puller.says("250 250 550").await;
    puller.hears(&format!("RSET {}", flights(7..=7))).await;
    puller.says("250 250 250 250").await;
    puller.ends().await;
    assert_eq!(left(&world).await, "6 failed");
}

// covers: OWN-8
#[tokio::test]
async fn when_the_breaker_trips_nothing_more_is_begun() {
    let world = world();
    send(&world, 1..=30).await;
    let mut puller = Played::turn(&world, ALL, None).await;
    puller.hears(&flights(1..=16)).await;
    // Most of the first ten; the others are under way.
    puller.says(&"250 550 503 250 ".repeat(15)).await;
    puller.says("250 550 503").await;
    puller.ends().await;
    let left = left(&world).await;
    let count = |state: &str| left.matches(state).count();
    assert_eq!((count("deferred"), count("queued")), (16, 14), "{left}");
    let account = world.activity.account(ACCOUNT);
    assert_eq!((account.stops, account.alarm.unwrap().refused), (1, 10));
    assert_eq!(last_result(&world.activity), PullResult::Stopped);
}

// covers: R5321-22, OWN-6
#[tokio::test]
async fn at_a_shutdown_what_is_under_way_has_its_verdict() {
    let world = world();
    send(&world, 1..=12).await;
    let mut puller = Played::turn(&world, UNNAMED, None).await;
    puller.hears(&flights(1..=8)).await;
    puller.shutdown.cancel();
    puller.says(&"250 250 250 250 ".repeat(7)).await;
    puller.says("250 250 250").await;
    puller.ends().await;
    let queued = (9..=12).map(|number| format!("{number} queued"));
    let expected: Vec<_> = queued.collect();
    assert_eq!(left(&world).await, expected.join(", "));
}

#[tokio::test]
async fn mail_that_comes_meanwhile_goes_behind_what_is_under_way() {
    let world = world();
    send(&world, 1..=1).await;
    let mut puller = Played::turn(&world, ALL, None).await;
    puller.hears("MAIL RCPT:1 BDAT:1").await;
    send(&world, 2..=2).await;
    puller.hears("RSET MAIL RCPT:2 BDAT:2").await;
    puller.says("250 250 250 250 250 250 250").await;
    puller.ends().await;
    assert_eq!(left(&world).await, "");
}

/// The clock goes on by so much at once, and whoever waited as long has noticed.
async fn pass(world: &World, time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
    // The runtime looks at its clock while the queue answers.
    left(world).await;
}

/// It took what it was sent and says nothing, and its connection lives.
// covers: OWN-9
#[tokio::test]
async fn a_puller_that_is_stalled_keeps_no_mail_from_another_session() {
    let world = world();
    send(&world, 1..=20).await;
    let mut stalled = Played::turn(&world, ALL, None).await;
    stalled.hears(&flights(1..=16)).await;
    pass(&world, SILENCE_MAX).await;
    let free = async { while left(&world).await.matches("queued").count() < 4 {} };
    tokio::time::timeout(PATIENCE, free).await.unwrap();
    let mut puller = Played::turn(&world, ALL, None).await;
    puller.hears(&flights(17..=20)).await;
    puller.says(&"250 250 250 250 ".repeat(3)).await;
    puller.says("250 250 250").await;
    puller.ends().await;
    // It may go on when it speaks again.
    send(&world, 21..=21).await;
    stalled.says("250 250 250").await;
    stalled.hears(&format!("RSET {}", flights(21..=21))).await;
    stalled.says(&"250 250 250 250 ".repeat(16)).await;
    stalled.ends().await;
    assert_eq!(left(&world).await, "");
}

// covers: OWN-9
#[tokio::test]
async fn news_is_not_for_a_puller_that_is_stalled() {
    for wait in [None, LONG] {
        let world = world();
        send(&world, 1..=1).await;
        let mut stalled = Played::turn(&world, ALL, wait).await;
        stalled.hears("MAIL RCPT:1 BDAT:1").await;
        pass(&world, SILENCE_MAX).await;
        send(&world, 2..=2).await;
        let mut puller = Played::turn(&world, ALL, None).await;
        puller.hears("MAIL RCPT:2 BDAT:2").await;
        send(&world, 3..=3).await;
        puller.hears("RSET MAIL RCPT:3 BDAT:3").await;
        puller.says("250 250 250 250 250 250 250").await;
        puller.ends().await;
        // What came meanwhile is not forgotten.
        send(&world, 4..=4).await;
        stalled.says("250 250 250").await;
        stalled.hears("MAIL RCPT:4 BDAT:4").await;
        stalled.says("250 250 250").await;
        stalled.shutdown.cancel();
        stalled.ends().await;
        assert_eq!(left(&world).await, "");
    }
}

/// Neither mail that comes meanwhile nor a part of a reply gives it more time.
// covers: R5321-41
#[tokio::test]
async fn the_time_for_a_reply_is_counted_once() {
    let world = world();
    send(&world, 1..=1).await;
    let mut puller = Played::turn(&world, ALL, LONG).await;
    puller.hears("MAIL RCPT:1 BDAT:1").await;
    pass(&world, SILENCE_MAX / 2).await;
    send(&world, 2..=2).await;
    puller.hears("RSET MAIL RCPT:2 BDAT:2").await;
    puller.say("2").await;
    left(&world).await;
    pass(&world, ClientTimeouts::default().mail - SILENCE_MAX / 2).await;
    let mut rest = Vec::new();
    let closed = puller.stream.read_to_end(&mut rest);
    let closed = tokio::time::timeout(PATIENCE, closed).await;
    closed.expect("it waits no longer").unwrap();
    puller.drain.await.unwrap();
    assert_eq!(left(&world).await, "1 queued, 2 queued");
}

/// What the puller says to what it was sent counts also when no more can be claimed.
// covers: OWN-6
#[tokio::test]
async fn a_queue_that_fails_throws_no_verdict_away() {
    let large = "x".repeat(300_000);
    let world = world();
    send_to(&world, &["1"], &large).await;
    let mut puller = Played::turn(&world, UNNAMED, None).await;
    puller.hears("MAIL RCPT:1").await;
    send(&world, 2..=2).await;
    world.alter("ALTER TABLE message RENAME COLUMN reverse_path TO lost");
    puller.says("250 250").await;
    puller.hears("BDAT:xxxxxxxxx").await;
    puller.says("250").await;
    let mut rest = Vec::new();
    puller.stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&rest), "");
    puller.drain.await.unwrap();
    world.alter("ALTER TABLE message RENAME COLUMN lost TO reverse_path");
    assert_eq!(left(&world).await, "2 queued");
}

/// What is not a line is neither a word nor a reason to let mail wait.
// covers: R5321-25
#[tokio::test]
async fn the_beginning_of_a_line_holds_up_no_mail() {
    let world = world();
    let mut puller = Played::turn(&world, ALL, LONG).await;
    until_it_waits(&world).await;
    puller.say("2").await;
    // It is read before the mail is there.
    left(&world).await;
    send(&world, 1..=1).await;
    puller.hears("MAIL RCPT:1 BDAT:1").await;
    puller.say("50 late\r\n").await;
    puller.says("250 250").await;
    puller.shutdown.cancel();
    puller.ends().await;
    assert_eq!(left(&world).await, "");
}

const LONG: Option<Duration> = Some(Duration::from_secs(3600));

#[tokio::test]
async fn a_session_that_waits_sends_what_comes() {
    let world = world();
    send(&world, 1..=1).await;
    let mut puller = Played::turn(&world, ALL, LONG).await;
    puller.hears("MAIL RCPT:1 BDAT:1").await;
    puller.says("250 250 250").await;
    for number in 2..=4 {
        until_it_waits(&world).await;
        send(&world, number..=number).await;
        puller
            .hears(&format!("MAIL RCPT:{number} BDAT:{number}"))
            .await;
        puller.says("250 250 250").await;
    }
    // Whatever a refusal left is cleared before the long silence.
    until_it_waits(&world).await;
    send(&world, 5..=5).await;
    puller.hears("MAIL RCPT:5 BDAT:5").await;
    puller.says("250 450 503").await;
    puller.hears("RSET").await;
    puller.says("250").await;
    puller.shutdown.cancel();
    puller.ends().await;
    assert_eq!(left(&world).await, "5 deferred");
}

#[tokio::test]
async fn a_silence_is_broken_with_noop() {
    let world = world();
    let mut puller = Played::turn(&world, ALL, Some(Duration::from_millis(5))).await;
    for _ in 0..3 {
        puller.hears("NOOP").await;
        puller.says("250").await;
    }
    puller.breaks().await;
    assert_eq!(last_result(&world.activity), PullResult::Complete);
}

// covers: R5321-25
#[tokio::test]
async fn who_speaks_while_nothing_is_due_is_left() {
    for words in ["250 what", "421 going", "garbage"] {
        let world = world();
        let mut puller = Played::turn(&world, ALL, LONG).await;
        until_it_waits(&world).await;
        puller.say(&format!("{words}\r\n")).await;
        let mut rest = Vec::new();
        puller.stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "", "{words}");
        puller.drain.await.unwrap();
    }
}

#[tokio::test]
async fn an_account_that_may_no_longer_pull_does_not_wait_either() {
    let world = world();
    let puller = Played::turn(&world, ALL, LONG).await;
    until_it_waits(&world).await;
    world.settings.store(World::new("").read_settings());
    puller.ends().await;
    assert_eq!(last_result(&world.activity), PullResult::Refused);
}

/// One message after the other is no pull after the other: what comes next may show that the server is broken.
// covers: OWN-8
#[tokio::test]
async fn a_refusal_is_not_believed_while_more_may_come() {
    let world = world();
    let mut puller = Played::turn(&world, ALL, LONG).await;
    for number in 1..=10 {
        send(&world, number..=number).await;
        puller
            .hears(&format!("MAIL RCPT:{number} BDAT:{number}"))
            .await;
        puller.says("250 550 503").await;
        if number < 10 {
            puller.hears("RSET").await;
            puller.says("250").await;
            let leased = left(&world).await;
            assert_eq!(leased.matches("leased").count(), number, "{leased}");
        }
    }
    puller.ends().await;
    let left = left(&world).await;
    assert_eq!(left.matches("deferred").count(), 10, "{left}");
    assert_eq!(last_result(&world.activity), PullResult::Stopped);
}

// covers: OWN-8
#[tokio::test]
async fn at_its_end_a_session_that_waited_believes_what_it_was_told() {
    let world = world();
    send(&world, 1..=2).await;
    let mut puller = Played::turn(&world, ALL, LONG).await;
    puller.hears(&flights(1..=2)).await;
    puller.says("250 550 503 250 250 250 250").await;
    let settled = async { while left(&world).await != "1 leased" {} };
    tokio::time::timeout(PATIENCE, settled).await.unwrap();
    puller.shutdown.cancel();
    puller.ends().await;
    assert_eq!(left(&world).await, "1 failed");
}
