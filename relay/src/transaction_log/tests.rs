//! The formats against files that were looked at, and the writer on real directories with a clock of its own.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use atrn_shared::smtp::reply::Reply;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::config::Rotate;
use crate::queue::{DeliveryId, QueueId};

/// 2026-11-21 23:59:58.250 UTC
const EVENING: i64 = 1_795_305_598_250;
const DAY: i64 = 86_400_000;

fn queue_id() -> QueueId {
    "1JX2M40G0W5".parse().unwrap()
}

fn delivery_id() -> DeliveryId {
    "1JX2M40G0W5.1.A1B2C3".parse().unwrap()
}

fn origin() -> Origin {
    Origin {
        service: Service::Smtp,
        session: Some(SessionId(0x7f3a)),
        client: Some("192.0.2.1:4711".parse().unwrap()),
        server: Some("[2001:db8::25]:25".parse().unwrap()),
        hello: "mail.source.example".to_owned(),
        account: String::new(),
        transaction: 1,
    }
}

/// What a log shows of a message, and of those who mean harm.
fn events() -> Vec<(Origin, Event<'static>)> {
    let refusal = Box::leak(Box::new(Reply::new(550, "5.1.1", "No such user here")));
    let accepted = Box::leak(Box::new(Reply::new(250, "2.0.0", "1JX2M40G0W5")));
    let odmr = Origin {
        service: Service::Odmr,
        account: "corp".to_owned(),
        ..origin()
    };
    let evil = Origin {
        hello: "-".to_owned(),
        ..origin()
    };
    vec![
        (origin(), Event::new("connect")),
        (
            origin(),
            Event {
                argument: "FROM:<alice@source.example> SIZE=100",
                code: Some(250),
                received: 42,
                sent: 14,
                ..Event::new("MAIL")
            },
        ),
        (
            origin(),
            Event {
                argument: "TO:<nobody@example.org>",
                taken: Duration::from_millis(12),
                ..Event::new("RCPT").with_reply(refusal)
            },
        ),
        (
            origin(),
            Event {
                argument: "<a-b@source.example>",
                received: 100,
                subject: Subject::Message(queue_id()),
                ..Event::new("content").with_reply(accepted)
            },
        ),
        (
            odmr,
            Event {
                argument: "bob@example.org",
                subject: Subject::Delivery(delivery_id()),
                ..Event::new("deferred").with_reply(Box::leak(Box::new(Reply::new(
                    451,
                    "4.3.0",
                    "Later & \"never\" #1 100%",
                ))))
            },
        ),
        (
            evil,
            Event {
                argument: "x\r\n#Fields: c-ip\r\n\"} {\"event\":\"forged\",\u{202e}ünï\0\u{1b}[2J",
                text: "-".into(),
                ..Event::new("VRFY")
            },
        ),
        (
            Origin::relay(),
            Event {
                subject: Subject::Delivery(delivery_id()),
                ..Event::new("held")
            },
        ),
    ]
}

fn formatter(format: Format) -> Formatter {
    Formatter {
        format,
        fields: Field::DEFAULT.to_vec(),
    }
}

fn written(formatter: &Formatter) -> Vec<u8> {
    let mut output = formatter.header(Timestamp::from_millisecond(EVENING).unwrap());
    for (index, (origin, event)) in events().iter().enumerate() {
        let at = Timestamp::from_millisecond(EVENING + index as i64).unwrap();
        let record = Record {
            at,
            hostname: "mx1.example.net",
            origin,
            event,
        };
        formatter.line(&record, &mut output);
    }
    output
}

/// Made anew with `ATRN_UPDATE_GOLDEN=1`, to be looked at then.
#[test]
fn each_format_is_as_it_was() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/transaction_log/golden");
    let all = Formatter {
        format: Format::W3c,
        fields: Field::ALL.iter().map(|(field, ..)| *field).collect(),
    };
    for (name, formatter) in [
        ("default.w3c", formatter(Format::W3c)),
        ("all.w3c", all),
        ("default.ncsa", formatter(Format::Ncsa)),
        ("default.json", formatter(Format::Json)),
    ] {
        let found = String::from_utf8(written(&formatter)).unwrap();
        let version = concat!("atrn-relay ", env!("CARGO_PKG_VERSION"));
        let found = found.replace(version, "atrn-relay VERSION");
        let path = folder.join(name);
        if std::env::var_os("ATRN_UPDATE_GOLDEN").is_some() {
            fs::write(&path, &found).unwrap();
        }
        assert_eq!(found, fs::read_to_string(&path).unwrap(), "{name}");
    }
}

#[test]
fn what_was_written_is_read_again() {
    for format in [Format::W3c, Format::Ncsa, Format::Json] {
        let octets = written(&formatter(format));
        let mut reader = Reader::new(Cursor::new(octets));
        let mut entries = Vec::new();
        while let Some(entry) = reader.read().unwrap() {
            entries.push(entry);
        }
        let events = events();
        assert_eq!(entries.len(), events.len(), "{format:?}");
        for (entry, (origin, event)) in entries.iter().zip(&events) {
            assert_eq!(entry.event, event.method, "{format:?}");
            assert_eq!(entry.argument, event.argument, "{format:?}");
            assert_eq!(entry.text, event.text, "{format:?}");
            assert_eq!(entry.code, event.code, "{format:?}");
            assert_eq!(entry.username, origin.username(), "{format:?}");
            assert_eq!(entry.service, origin.service.name(), "{format:?}");
            let session = origin.session.map(|id| id.to_string()).unwrap_or_default();
            assert_eq!(entry.session, session, "{format:?}");
            let id = event.subject.queue_id().map(|id| id.to_string());
            assert_eq!(entry.queue_id, id.unwrap_or_default(), "{format:?}");
        }
    }
}

proptest! {
    #[test]
    fn no_text_becomes_more_than_one_line(
        argument in "\\PC{0,40}|[\\x00-\\xff]{0,700}",
        text in "[\\x00-\\xff]{0,40}",
        hello in "[\\x00-\\x7f]{0,20}",
    ) {
        let origin = Origin { hello, ..origin() };
        let event = Event { argument: &argument, text: text.as_str().into(), ..Event::new("EHLO") };
        let record = Record {
            at: Timestamp::from_millisecond(EVENING).unwrap(),
            hostname: "mx1.example.net",
            origin: &origin,
            event: &event,
        };
        for format in [Format::W3c, Format::Ncsa, Format::Json] {
            let mut output = Vec::new();
            formatter(format).line(&record, &mut output);
            let line = String::from_utf8(output).unwrap();
            let line = line.strip_suffix('\n').unwrap();
            prop_assert!(!line.chars().any(char::is_control));
            match format {
                Format::W3c => {
                    prop_assert!(line.is_ascii() && !line.starts_with('#'));
                    prop_assert_eq!(line.split(' ').count(), Field::DEFAULT.len());
                }
                Format::Ncsa => {
                    prop_assert!(line.is_ascii());
                    prop_assert_eq!(line.matches('"').count(), 2);
                }
                Format::Json => {
                    let value: serde_json::Value = serde_json::from_str(line).unwrap();
                    let whole = argument.len() <= text::TEXT_OCTETS_MAX;
                    let read = value["argument"].as_str().unwrap_or_default();
                    prop_assert!(!whole || read == argument);
                }
            }
        }
    }
}

/// A log in a folder of its own, whose clock stands.
struct World {
    folder: TempDir,
    clock: Arc<AtomicI64>,
}

impl World {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: Arc::new(AtomicI64::new(EVENING)),
        }
    }

    fn start(&self, config: &TransactionLogConfig) -> TransactionLog {
        let clock = Arc::clone(&self.clock);
        let now = move || Timestamp::from_millisecond(clock.load(Relaxed)).unwrap();
        let hostname = Domain::parse("mx1.example.net").unwrap();
        TransactionLog::with_clock(config, self.folder.path(), &hostname, Box::new(now))
    }

    /// Starts it, records so many events of this name, and ends it.
    fn record(&self, config: &TransactionLogConfig, method: &'static str, count: usize) {
        let log = self.start(config);
        let mut trail = log.relay();
        (0..count).for_each(|_| trail.note(&Event::new(method)));
        drop(trail);
        drop(log);
        self.date();
    }

    /// The file system has another clock.
    fn date(&self) {
        let now = u64::try_from(self.clock.load(Relaxed)).unwrap();
        let file = fs::File::options()
            .append(true)
            .open(self.directory().join(CURRENT));
        file.unwrap()
            .set_modified(std::time::UNIX_EPOCH + Duration::from_millis(now))
            .unwrap();
    }

    fn directory(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn current(&self) -> String {
        fs::read_to_string(self.directory().join(CURRENT)).unwrap_or_default()
    }

    /// Of each earlier file, oldest first.
    fn earlier(&self) -> Vec<String> {
        let files = earlier(&self.directory()).unwrap();
        files
            .iter()
            .map(|path| fs::read_to_string(path).unwrap())
            .collect()
    }
}

fn config(format: Format) -> TransactionLogConfig {
    TransactionLogConfig {
        format,
        // Whatever the disk of the test has.
        max_size: Some(1 << 30),
        ..TransactionLogConfig::default()
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(std::time::Instant::now() < end, "{what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn what_is_queued_is_written_at_the_end_and_read_by_its_owner_only() {
    let world = World::new();
    let log = world.start(&config(Format::W3c));
    let mut trail = log.relay();
    (0..10_000).for_each(|_| trail.note(&Event::new("held")));
    drop(trail);
    drop(log);
    assert_eq!(world.current().matches(" held ").count(), 10_000);
    let mode = fs::metadata(world.directory().join(CURRENT))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let off = TransactionLogConfig {
        enabled: false,
        ..TransactionLogConfig::default()
    };
    let log = world.start(&off);
    assert!(!log.relay().is_on() && log.state().is_none());
}

#[test]
fn records_are_there_soon_without_an_end() {
    let world = World::new();
    let log = world.start(&config(Format::Json));
    let mut trail = log.relay();
    trail.note(&Event::new("held"));
    trail.flush();
    wait_until("the record", || world.current().contains("held"));
    assert_eq!(log.state().unwrap().records, 1);
}

#[test]
fn every_file_says_its_fields_and_a_restart_says_its_own() {
    let world = World::new();
    let few = TransactionLogConfig {
        fields: vec![Field::Time, Field::Method],
        ..config(Format::W3c)
    };
    world.record(&config(Format::W3c), "held", 1);
    world.record(&few, "removed", 1);
    let text = world.current();
    let headers: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("#Fields:"))
        .collect();
    assert_eq!(headers.len(), 2);
    assert_eq!(headers[1], "#Fields: time cs-method");
    assert!(text.ends_with("23:59:58.250 removed\n"), "{text}");
    for directive in [
        "#Version: 1.0",
        "#Software: atrn-relay ",
        "#Start-Date: 2026-11-21 23:59:58",
        "#Date: ",
    ] {
        assert_eq!(text.matches(directive).count(), 2, "{directive}");
    }
    // Another format begins another file.
    world.record(&config(Format::Json), "retried", 1);
    assert_eq!(world.earlier(), [text]);
    assert!(
        world
            .current()
            .starts_with("{\"time\":\"2026-11-21T23:59:58.250Z\"")
    );
}

#[test]
fn a_line_that_was_cut_off_by_a_kill_stays_alone() {
    let world = World::new();
    world.record(&config(Format::Json), "held", 1);
    let path = world.directory().join(CURRENT);
    let torn = world.current().trim_end()[..20].to_owned();
    fs::write(&path, &torn).unwrap();
    world.date();
    world.record(&config(Format::Json), "removed", 1);
    let text = world.current();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (1 + 1, torn.as_str()));
    assert!(lines[1].contains("removed"));
}

#[test]
fn a_file_begins_with_the_day() {
    let world = World::new();
    let log = world.start(&config(Format::W3c));
    let note = |method| {
        let mut trail = log.relay();
        trail.note(&Event::new(method));
    };
    note("held");
    wait_until("the first day", || world.current().contains("held"));
    world.clock.fetch_add(2_000, Relaxed);
    note("removed");
    wait_until("the second day", || world.current().contains("removed"));
    assert_eq!(world.earlier().len(), 1);
    assert!(world.earlier()[0].contains("held"));
    assert!(
        world
            .directory()
            .join("transactions-2026-11-21.log")
            .exists()
    );
    assert!(world.current().starts_with("#Version: 1.0\n"));
    assert!(!world.current().contains("held"));
    drop(log);
    world.date();
    // Over days of silence nothing is put away, and what was begun keeps its day.
    world.clock.fetch_add(3 * DAY, Relaxed);
    world.record(&config(Format::W3c), "retried", 1);
    assert!(
        world
            .directory()
            .join("transactions-2026-11-22.log")
            .exists()
    );
    assert!(world.current().contains("retried") && !world.current().contains("removed"));
}

#[test]
fn a_file_is_put_away_when_it_is_full_and_the_oldest_go() {
    let world = World::new();
    let small = TransactionLogConfig {
        rotate: Rotate::Size(4_096),
        keep: 3,
        ..config(Format::W3c)
    };
    world.record(&small, "held", 1_000);
    let files = world.earlier();
    assert_eq!(files.len(), 3);
    for text in files.iter().chain([&world.current()]) {
        assert!(text.starts_with("#Version: 1.0\n"));
        assert!(
            text.len() <= 4_096 && text.ends_with('\n'),
            "{}",
            text.len()
        );
        assert!(text.contains(" held "));
    }
    let names: Vec<_> = earlier(&world.directory()).unwrap();
    assert!(
        !names.contains(&world.directory().join("transactions-2026-11-21.log")),
        "{names:?}"
    );
}

#[test]
fn all_files_together_have_their_bound_within_a_day_too() {
    let world = World::new();
    let bounded = TransactionLogConfig {
        max_size: Some(32_768),
        ..config(Format::W3c)
    };
    // What was written before there was a bound counts.
    fs::create_dir(world.directory()).unwrap();
    let before = world.directory().join("transactions-2026-11-01.log");
    fs::write(&before, "x".repeat(40_000)).unwrap();
    world.record(&bounded, "held", 2_000);
    world.record(&bounded, "removed", 1);
    assert!(!before.exists());
    let (current, files) = (world.current(), world.earlier());
    assert!(current.ends_with('\n') && current.contains(" removed "));
    let sizes: Vec<_> = files.iter().chain([&current]).map(String::len).collect();
    assert!(sizes.iter().all(|size| *size <= 4_096), "{sizes:?}");
    let total: usize = sizes.iter().sum();
    assert!((20_000..=32_768).contains(&total), "{sizes:?}");
}

#[test]
fn a_disk_that_is_full_stops_nobody_and_the_log_goes_on_by_itself() {
    let world = World::new();
    let directory = world.directory();
    fs::create_dir(&directory).unwrap();
    symlink("/dev/full", directory.join(CURRENT)).unwrap();
    let log = world.start(&config(Format::Json));
    let mut trail = log.relay();
    trail.note(&Event::new("held"));
    trail.flush();
    wait_until("the failure", || log.state().unwrap().failure.is_some());
    // More than waits in memory: what is too much is counted.
    while log.state().unwrap().lost == 0 {
        trail.note(&Event::new("removed"));
    }
    trail.flush();
    fs::remove_file(directory.join(CURRENT)).unwrap();
    wait_until("it is written again", || {
        log.state().unwrap().failure.is_none()
    });
    wait_until("what waited is written", || {
        log.0.as_ref().unwrap().shared.waiting.load(Relaxed) == 0
    });
    trail.note(&Event::new("retried"));
    drop(trail);
    let lost = log.state().unwrap().lost;
    drop(log);
    let text = world.current();
    assert!(
        text.contains("\"event\":\"held\""),
        "what waited was not lost"
    );
    assert!(text.contains("\"event\":\"retried\""));
    let told = text
        .lines()
        .filter(|line| line.contains("\"event\":\"lost\""));
    let numbers = told.map(|line| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["argument"].as_str().unwrap().parse::<u64>().unwrap()
    });
    assert_eq!(numbers.sum::<u64>(), lost);
}

#[test]
fn a_file_that_somebody_took_away_is_made_anew() {
    let world = World::new();
    let log = world.start(&config(Format::W3c));
    let note = |method| {
        let mut trail = log.relay();
        trail.note(&Event::new(method));
    };
    note("held");
    wait_until("the first", || world.current().contains("held"));
    fs::rename(
        world.directory().join(CURRENT),
        world.folder.path().join("mine"),
    )
    .unwrap();
    wait_until("a new file", || {
        note("removed");
        world.current().contains("removed")
    });
    assert!(world.current().starts_with("#Version"));
}

mod following {
    use super::super::trace::Trace;
    use super::*;

    fn session(id: u64, service: Service, client: &str) -> Origin {
        Origin {
            service,
            session: Some(SessionId(id)),
            client: Some(client.parse().unwrap()),
            ..Origin::relay()
        }
    }

    /// Two messages on one connection, and the pull of the first.
    fn lines(formatter: &Formatter) -> Vec<u8> {
        let mut output = formatter.header(Timestamp::from_millisecond(EVENING).unwrap());
        let mut at = EVENING;
        let mut line = |origin: &Origin, transaction: u32, event: Event<'_>| {
            at += 1_000;
            let origin = Origin {
                transaction,
                ..origin.clone()
            };
            let record = Record {
                at: Timestamp::from_millisecond(at).unwrap(),
                hostname: "mx1.example.net",
                origin: &origin,
                event: &event,
            };
            formatter.line(&record, &mut output);
        };
        let said = |method, argument| Event {
            argument,
            ..Event::new(method)
        };
        let about = |method, argument, subject| Event {
            argument,
            subject,
            ..Event::new(method)
        };
        let edge = session(1, Service::Smtp, "192.0.2.1:1000");
        let other: QueueId = "1JX2M40G0W6".parse().unwrap();
        line(&edge, 0, said("connect", ""));
        line(&edge, 1, said("MAIL", "FROM:<alice@source.example> SIZE=5"));
        line(&edge, 1, said("RCPT", "TO:<bob@example.org>"));
        line(
            &edge,
            1,
            about(
                "content",
                "<one@source.example>",
                Subject::Message(queue_id()),
            ),
        );
        line(&edge, 2, said("MAIL", "FROM:<carol@source.example>"));
        line(&edge, 2, said("RCPT", "TO:<dora@example.org>"));
        line(
            &edge,
            2,
            about("content", "<two@source.example>", Subject::Message(other)),
        );
        line(&edge, 2, said("close", ""));
        let delivery = Subject::Delivery(delivery_id());
        let pull = session(2, Service::Odmr, "198.51.100.7:2000");
        line(&Origin::relay(), 0, about("held", "", delivery));
        line(&pull, 0, said("connect", ""));
        line(&pull, 1, about("RCPT", "TO:<bob@example.org>", delivery));
        line(&pull, 1, about("settled", "", delivery));
        line(&pull, 2, about("settled", "", Subject::Message(other)));
        line(&pull, 2, said("close", ""));
        output
    }

    fn told(directory: &Path, needle: &str, since: i64) -> String {
        let trace = Trace {
            directory: directory.to_owned(),
            needle: needle.parse().unwrap(),
            // One format has whole seconds only.
            since: Some(Timestamp::from_millisecond(EVENING - 250 + since * 1_000).unwrap()),
        };
        let mut story = Vec::new();
        let told = trace.run(|entry| {
            story.push(entry.event.clone());
            Ok::<_, std::io::Error>(())
        });
        assert_eq!(told.unwrap().records, story.len() as u64);
        story.join(" ")
    }

    const FIRST: &str = "connect MAIL RCPT content close held connect RCPT settled close";

    #[test]
    fn a_story_has_its_message_and_no_other() {
        for format in [Format::W3c, Format::Ncsa, Format::Json] {
            let folder = tempfile::tempdir().unwrap();
            let octets = lines(&formatter(format));
            // Its beginning stands in an earlier file.
            let half = octets.len() / 2;
            let cut = half + memchr::memchr(b'\n', &octets[half..]).unwrap() + 1;
            let header = formatter(format).header(Timestamp::now());
            fs::write(
                folder.path().join("transactions-2026-11-21.log"),
                &octets[..cut],
            )
            .unwrap();
            fs::write(
                folder.path().join(CURRENT),
                [&header, &octets[cut..]].concat(),
            )
            .unwrap();
            for (needle, since, expected) in [
                ("1JX2M40G0W5", 0, FIRST),
                ("1JX2M40G0W5.1", 0, FIRST),
                ("1JX2M40G0W5.1.A1B2C3", 0, FIRST),
                (
                    "1JX2M40G0W5.2",
                    0,
                    "connect MAIL RCPT content close connect close",
                ),
                ("alice@source.example", 0, FIRST),
                ("BOB@example.org", 0, FIRST),
                ("<one@source.example>", 0, FIRST),
                (
                    "two@source.example",
                    0,
                    "connect MAIL RCPT content close connect settled close",
                ),
                (
                    "192.0.2.1",
                    0,
                    "connect MAIL RCPT content MAIL RCPT content close",
                ),
                (
                    "::ffff:198.51.100.7",
                    0,
                    "connect RCPT settled settled close",
                ),
                ("1JX2M40G0W5", 9, "held connect RCPT settled close"),
                ("erna@example.org", 0, ""),
                ("1JX2M40G0W7", 0, ""),
            ] {
                assert_eq!(
                    told(folder.path(), needle, since),
                    expected,
                    "{needle} {format:?}"
                );
            }
        }
    }

    #[test]
    fn what_a_trace_lacks_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let few = Formatter {
            format: Format::W3c,
            fields: vec![Field::Date, Field::Time, Field::Method, Field::UriStem],
        };
        fs::write(folder.path().join(CURRENT), lines(&few)).unwrap();
        let trace = Trace {
            directory: folder.path().to_owned(),
            needle: "1JX2M40G0W5".parse().unwrap(),
            since: None,
        };
        let told = trace.run(|_| Ok::<_, std::io::Error>(())).unwrap();
        let missing: Vec<_> = told.missing.into_iter().collect();
        assert_eq!(missing, ["cs-uri-query", "x-session", "x-transaction"]);
        for no_needle in ["", "alice", "1JX2M40G0W", "1JX2M40G0W5.x"] {
            assert!(no_needle.parse::<Needle>().is_err(), "{no_needle}");
        }
    }

    #[test]
    fn lines_of_others_are_passed_over() {
        let text = format!(
            "#Fields: date time\nx\n{}\n{{\n{{}}\n\u{fffd}\nlast",
            "y".repeat(200_000)
        );
        let mut reader = Reader::new(Cursor::new(text));
        assert_eq!(reader.read().unwrap(), None);
    }
}
