//! Relays in the hands of an enemy, all at once, against one real puller that has an honest relay too. Each of them is
//! ended in its time, nothing of what it wants happens, the puller stays small, and honest mail comes as if they were not
//! there.

mod content;
mod evil;
mod login;
mod turned;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use atrn_tests::certs::{Certificate, write_private};
use atrn_tests::inside::{Inside, Record};
use atrn_tests::log_lines::assert_log_is_whole;
use atrn_tests::message::{Message, with_subject};
use atrn_tests::world::{ACCOUNT, DOMAIN, World};

use evil::{Evil, Script, Start};

/// The most that the puller may ever have held in memory.
const RESIDENT_KIB_MAX: u64 = 64 * 1024;
/// Stands in everything that must not arrive.
const NEVER: &str = "must never arrive";
const SECRET: &str = "correct horse battery staple";

/// A puller with a real relay and many hostile ones.
struct Siege {
    inside: Inside,
    world: World,
    sent: usize,
}

/// Lets all scripts loose at once, and holds the puller to its promises. What arrived inside is the caller's to judge.
#[track_caller]
fn besiege(scripts: &[Script]) -> Record {
    let inside = Inside::smtp();
    let world = World::setup()
        .target(&inside.target())
        .puller("relay.mode", "instant")
        .puller("limits.max_message_size", "1MB")
        .puller("limits.max_commands", 1000)
        .puller("limits.reply_timeout", "2s")
        .puller("limits.transaction_timeout", "3s")
        .start();
    let mut siege = Siege {
        inside,
        world,
        sent: 0,
    };
    let own = Arc::new(Certificate::for_name("evil.example"));
    let other = Arc::new(Certificate::for_name("evil.example"));
    let attackers: Vec<_> = scripts
        .iter()
        .map(|script| siege.add(script, &own, &other))
        .collect();
    siege.world.puller.start();
    siege.honest();
    for (script, attacker) in scripts.iter().zip(attackers) {
        let outcome = attacker
            .join()
            .unwrap_or_else(|_| Err("it panicked".to_owned()));
        assert_eq!(outcome, Ok(()), "{}", script.name);
        siege.honest();
    }
    siege.assert_small();
    assert_eq!(siege.world.puller.stop(), 0);
    assert_log_is_whole(&siege.world.puller.log());
    let record = siege.inside.record();
    assert_nothing_foreign(&record);
    assert!(siege.world.queue_list().is_empty());
    record
}

impl Siege {
    /// One more relay in the puller's settings, and a thread that plays it.
    fn add(
        &self,
        script: &Script,
        own: &Arc<Certificate>,
        other: &Arc<Certificate>,
    ) -> JoinHandle<Result<(), String>> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let tls = match script.start {
            Start::Clear => "off",
            Start::TlsLater => "starttls",
            _ => "implicit",
        };
        let secret_file = secret_file(self.world.puller.folder());
        self.world.puller.configure(|settings| {
            let mut relay = toml::Table::new();
            for (key, value) in [
                ("name", script.name),
                ("address", &*address),
                ("tls", tls),
                ("account", ACCOUNT),
                ("secret_file", &*secret_file),
                ("weakest_mechanism", script.weakest),
                ("mode", "poll"),
                ("every", "1h"),
            ] {
                relay.insert(key.to_owned(), value.into());
            }
            if tls != "off" {
                relay.insert("pin".to_owned(), own.pin().into());
            }
            relay.insert("sessions".to_owned(), 1.into());
            relay.insert("domains".to_owned(), vec![DOMAIN.to_owned()].into());
            let relays = settings
                .table()
                .get_mut("relay")
                .and_then(toml::Value::as_array_mut);
            relays.expect("relays").push(toml::Value::Table(relay));
        });
        let certificate = Arc::clone(if script.start == Start::WrongCertificate {
            other
        } else {
            own
        });
        let (start, play) = (script.start, script.play);
        std::thread::spawn(move || Evil::play(&listener, &certificate, start, play))
    }

    /// One honest message, there and back.
    #[track_caller]
    fn honest(&mut self) {
        self.sent += 1;
        let subject = format!("honest {}", self.sent);
        let message = Message::new("user@example.org", with_subject(&subject, b"x\r\n"));
        self.world.send(&[message]);
        self.inside.wait_until(&subject, |record| {
            let heading = format!("Subject: {subject}\r\n");
            let mut contents = record.messages.iter().map(|message| &message.content);
            contents.any(|content| contains(content, &heading))
        });
    }

    #[track_caller]
    fn assert_small(&self) {
        let id = self.world.puller.id().expect("a running puller");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("its status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
        let peak = peak.expect("the peak of its memory");
        eprintln!("the puller has held {peak} KiB at most");
        assert!(peak < RESIDENT_KIB_MAX, "{peak} KiB");
    }
}

/// Every command inside is one that the puller makes, for a mailbox of ours, and nothing arrived that should not.
#[track_caller]
fn assert_nothing_foreign(record: &Record) {
    for command in &record.commands {
        let line = &command.line;
        let verb = line.split([' ', ':']).next().unwrap_or_default();
        assert!(
            [
                "EHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT"
            ]
            .contains(&verb),
            "{line}"
        );
        if verb == "RCPT" {
            let path = line
                .split('>')
                .next()
                .unwrap_or_default()
                .to_ascii_lowercase();
            assert!(
                path.ends_with("@example.org") || path.ends_with("<postmaster"),
                "{line}"
            );
        }
    }
    for message in &record.messages {
        assert!(
            !contains(&message.content, NEVER),
            "{}",
            String::from_utf8_lossy(&message.content)
        );
    }
}

fn contains(content: &[u8], text: &str) -> bool {
    memchr::memmem::find(content, text.as_bytes()).is_some()
}

fn secret_file(folder: &Path) -> String {
    let file = folder.join("evil.secret");
    write_private(&file, SECRET);
    file.display().to_string()
}

// covers: R5321-25, R3207-3, R2645-17
#[test]
fn before_the_turn_nothing_is_believed() {
    let record = besiege(login::SCRIPTS);
    assert!(
        record
            .messages
            .iter()
            .all(|message| contains(&message.content, "Subject: honest"))
    );
}

// covers: R5321-8, R5321-21, R5321-28
#[test]
fn after_the_turn_nothing_is_obeyed_but_mail_for_us() {
    let record = besiege(turned::SCRIPTS);
    let theirs = record
        .messages
        .iter()
        .filter(|message| contains(&message.content, "Subject: for us"));
    assert_eq!(theirs.count(), turned::FOR_US);
}

// covers: R5321-13, R5321-14, R5321-18, R5321-20, R5321-47
#[test]
fn no_content_is_too_much() {
    let record = besiege(content::SCRIPTS);
    let theirs = record
        .messages
        .iter()
        .filter(|message| contains(&message.content, "Subject: for us"));
    assert_eq!(theirs.count(), content::FOR_US);
}
