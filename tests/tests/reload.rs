//! Settings that change while a daemon runs: they take effect, no session is dropped, and a broken file
//! changes nothing. Every wait is for a condition; only a fault makes it long.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use atrn_tests::certs::{Certificate, trusting_client, write_private};
use atrn_tests::inside::Inside;
use atrn_tests::message::{self, Message};
use atrn_tests::peer::{Peer, plain};
use atrn_tests::process::wait_until;
use atrn_tests::world::{ACCOUNT, DOMAIN, PULLER_NAME, World};

/// A connection of each kind in the middle of something: whatever is reloaded, they can go on.
struct OpenSessions {
    content: Peer,
    authenticated: Peer,
}

impl OpenSessions {
    /// One that has sent half of its content, one that has logged in.
    #[track_caller]
    fn begin(world: &World) -> Self {
        let mut content = world.relay.smtp();
        content.ehlo("client.source.example");
        content.ask("MAIL FROM:<sender@source.example>", "250");
        content.ask("RCPT TO:<open@example.org>", "250");
        content.ask("DATA", "354");
        content.send_octets(b"Subject: open\r\n\r\nhalf");
        Self {
            content,
            authenticated: world.relay.odmr_authenticated(),
        }
    }

    /// They were not dropped: the message is taken, and the puller gets it.
    #[track_caller]
    fn finish(mut self) {
        self.content.send_octets(b" whole\r\n.\r\n");
        self.content.expect("250 2.0.0");
        self.content.ask("QUIT", "221");
        self.authenticated.ask("NOOP", "250");
        self.authenticated.ask("ATRN example.org", "250");
    }
}

#[test]
fn a_domain_added_and_removed_by_the_command_line() {
    let world = World::start();
    let open = OpenSessions::begin(&world);
    assert_eq!(rcpt(&world, "two.example"), 550);
    let _ = world
        .relay
        .cli(&["domain", "add", "two.example"])
        .expect_code(0);
    wait_until("mail for two.example is taken", || {
        rcpt(&world, "two.example") == 250
    });
    world.send(&[Message::new("user@two.example", message::plain(1))]);
    let _ = world
        .relay
        .cli(&["domain", "remove", "two.example", "--yes"])
        .expect_code(0);
    wait_until("mail for two.example is refused", || {
        rcpt(&world, "two.example") == 550
    });
    open.finish();
}

#[test]
fn a_domain_added_changed_and_removed_by_hand() {
    let world = World::start();
    let open = OpenSessions::begin(&world);
    let file = fragment(&world, "by-hand.toml");
    // In place, as some editors write …
    fs::write(&file, "[[domain]]\nname = \"two.example\"\n").expect("a file");
    wait_until("mail for two.example is taken", || {
        rcpt(&world, "two.example") == 250
    });
    // … and as others do, by another file that takes its name.
    write_private(
        &file.with_extension("new"),
        "[[domain]]\nname = \"three.example\"\nhold_for = \"36h\"\n",
    );
    fs::rename(file.with_extension("new"), &file).expect("a file is renamed");
    wait_until("mail for three.example is taken", || {
        rcpt(&world, "three.example") == 250
    });
    assert_eq!(rcpt(&world, "two.example"), 550);
    // A change that no session sees, but the next expiry does.
    world.send(&[Message::new("user@three.example", message::plain(1))]);
    let expires = || expires_at(&world, "three.example");
    let before = expires();
    fs::write(
        &file,
        "[[domain]]\nname = \"three.example\"\nhold_for = \"7d\"\n",
    )
    .expect("a file");
    wait_until("the new time counts", || expires() > before);
    fs::remove_file(&file).expect("a file");
    wait_until("mail for three.example is refused", || {
        rcpt(&world, "three.example") == 550
    });
    open.finish();
}

#[test]
fn the_queue_of_a_removed_domain_is_kept_shown_and_pulled() {
    let inside = Inside::smtp();
    let world = World::setup().target(&inside.target()).start();
    world.send(&[Message::new("user@example.org", message::plain(1))]);
    let file = fragment(&world, "domain-example.org.toml");
    let text = fs::read_to_string(&file).expect("a file");
    fs::remove_file(&file).expect("a file");
    wait_until("mail is refused", || rcpt(&world, DOMAIN) == 550);

    assert_eq!(world.queue_list().len(), 1);
    let status = status(&world);
    let domain = &status["domains"][0];
    assert_eq!(
        (&domain["domain"], &domain["configured"]),
        (&DOMAIN.into(), &false.into()),
        "{domain}"
    );
    assert_eq!(
        (&domain["messages"], &domain["queued"]),
        (&1.into(), &1.into()),
        "{domain}"
    );
    let list = world.relay.cli(&["domain", "list"]).expect_code(0).stdout;
    assert!(list.contains("example.org  not configured"), "{list}");

    // It can come back with its mail; and its puller does not even have to wait for that.
    fs::write(&file, text).expect("a file");
    wait_until("mail is taken", || rcpt(&world, DOMAIN) == 250);
    fs::remove_file(&file).expect("a file");
    wait_until("mail is refused", || rcpt(&world, DOMAIN) == 550);
    let _ = world.puller.pull().expect_code(0);
    assert_eq!(inside.messages().len(), 1);
}

#[test]
fn an_account_added_changed_and_removed_by_the_command_line() {
    let world = World::start();
    world.send(&[Message::new("user@example.org", message::plain(1))]);
    let mut open = world.relay.odmr_authenticated();
    let secret = |arguments: &[&str]| {
        let made = world
            .relay
            .cli(&[arguments, &["--json"]].concat())
            .expect_code(0)
            .json();
        made["secret"].as_str().expect("a secret").to_owned()
    };
    let first = secret(&["account", "add", "second", "--domain", DOMAIN]);
    wait_until("the account can log in", || {
        auth(&world, "second", &first) == 235
    });
    let second = secret(&["account", "rotate", "second"]);
    wait_until("the new secret counts", || {
        auth(&world, "second", &second) == 235
    });
    assert_eq!(auth(&world, "second", &first), 535);

    let mut disabled = authenticated(&world, "second", &second);
    let _ = world
        .relay
        .cli(&["account", "disable", "second"])
        .expect_code(0);
    wait_until("the account is disabled", || {
        !can_pull(&world, "second", &second)
    });
    // One that had logged in before gets nothing more either.
    disabled.ask("ATRN", "450 4.7.1");
    let _ = world
        .relay
        .cli(&["account", "enable", "second"])
        .expect_code(0);
    wait_until("the account is enabled", || {
        can_pull(&world, "second", &second)
    });
    disabled.ask("NOOP", "250");

    let _ = world
        .relay
        .cli(&["account", "remove", "second", "--yes"])
        .expect_code(0);
    wait_until("the account is gone", || {
        auth(&world, "second", &second) == 535
    });
    disabled.ask("ATRN", "450 4.7.1");
    open.ask("ATRN", "250");
}

#[test]
fn an_account_added_changed_and_removed_by_hand() {
    let world = World::start();
    let open = OpenSessions::begin(&world);
    let _ = world
        .relay
        .cli(&["domain", "add", "two.example"])
        .expect_code(0);
    world.send(&[Message::new("user@two.example", message::plain(1))]);
    let secret_file = fragment(&world, "by-hand.secret");
    write_private(&secret_file, "first-secret-of-a-good-length\n");
    let account = |domains: &str| {
        let text = format!(
            "[[account]]\nname = \"hand\"\ndomains = {domains}\ncram_md5_secret_file = \"by-hand.secret\"\n"
        );
        fs::write(fragment(&world, "by-hand.toml"), text).expect("a file");
    };
    account("[\"example.org\"]");
    wait_until("the account can log in", || {
        cram_md5(&world, "first-secret-of-a-good-length").is_some()
    });
    let mut peer = cram_md5(&world, "first-secret-of-a-good-length").expect("a session");
    peer.ask("ATRN two.example", "450 4.7.1");
    account("[\"example.org\", \"two.example\"]");
    wait_until("the domain is the account's", || {
        peer.send("ATRN two.example");
        let granted = peer.line().starts_with("250");
        if !granted {
            // Three refusals end a session.
            peer = cram_md5(&world, "first-secret-of-a-good-length").expect("a session");
        }
        granted
    });
    write_private(&secret_file, "another-secret-of-a-good-length\n");
    wait_until("the new secret counts", || {
        cram_md5(&world, "another-secret-of-a-good-length").is_some()
    });
    assert!(cram_md5(&world, "first-secret-of-a-good-length").is_none());
    fs::remove_file(fragment(&world, "by-hand.toml")).expect("a file");
    wait_until("the account is gone", || {
        cram_md5(&world, "another-secret-of-a-good-length").is_none()
    });
    open.finish();
}

#[test]
fn a_replaced_certificate_is_shown_to_those_who_come() {
    let world = World::start();
    let open = OpenSessions::begin(&world);
    let mut encrypted = world.relay.smtp();
    encrypted.ehlo("client.source.example");
    encrypted.ask("STARTTLS", "220");
    encrypted.start_tls_client(&trusting_client());
    encrypted.ehlo("client.source.example");

    let new = Certificate::for_name("relay.example.net");
    // The key first: for a moment the two do not belong together, and nobody may see that.
    let folder = world.relay.folder();
    let aside = folder.join("aside");
    fs::create_dir(&aside).expect("a folder");
    new.write(&aside.join("relay.crt"), &aside.join("relay.key"));
    for file in ["relay.key", "relay.crt"] {
        fs::rename(aside.join(file), folder.join(file)).expect("a file is renamed");
    }
    let shown = |peer: &Peer| peer.peer_certificate().expect("a certificate");
    wait_until("the new certificate is shown to pullers", || {
        shown(&world.relay.odmr()) == *new.der()
    });
    let mut sender = world.relay.smtp();
    sender.ehlo("client.source.example");
    sender.ask("STARTTLS", "220");
    sender.start_tls_client(&trusting_client());
    assert_eq!(shown(&sender), *new.der());

    encrypted.ask("NOOP", "250");
    open.finish();
}

#[test]
fn sighup_reloads() {
    let world = World::start();
    let open = OpenSessions::begin(&world);
    let reloads = || {
        status(&world)["configuration"]["reloads"]
            .as_u64()
            .expect("a number")
    };
    let before = reloads();
    world.relay.signal(Signal::SIGHUP);
    wait_until("the files are read again", || reloads() > before);
    open.finish();
}

#[test]
fn a_broken_file_changes_nothing_and_is_named_once() {
    let world = World::start();
    let open = OpenSessions::begin(&world);
    let file = fragment(&world, "broken.toml");
    // What is right in it must not count either.
    fs::write(&file, "[[domain]]\nname = \"two.example\"\n[[domain]]\nname = \"three.example\"\nhold_for = \"5x\"\n")
        .expect("a file");
    let line = format!("{}:5: hold_for: \"5x\" is not a duration", file.display());
    wait_until("the broken file is named", || {
        world.relay.log().contains(&line)
    });
    assert_eq!(
        (rcpt(&world, "two.example"), rcpt(&world, DOMAIN)),
        (550, 250)
    );
    // The files are what `status` goes by, too: it names what is wrong with them.
    let output = world.relay.cli(&["status"]);
    assert!(output.stderr.contains(&line), "{}", output.stderr);

    fs::write(&file, "[[domain]]\nname = \"two.example\"\n").expect("a file");
    wait_until("the mended file counts", || {
        rcpt(&world, "two.example") == 250
    });
    let log = world.relay.log();
    let named: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(" ERROR "))
        .collect();
    assert!(
        named.len() == 1 && named[0].contains("broken.toml:5"),
        "{named:#?}"
    );
    open.finish();
}

/// A key that does not fit is no mistake in the configuration itself: `status` works, and shows it.
#[test]
fn a_broken_certificate_changes_nothing_and_status_shows_it() {
    let world = World::start();
    let open = OpenSessions::begin(&world);
    let file = world.relay.folder().join("relay.crt");
    let good = fs::read_to_string(&file).expect("a file");
    fs::write(&file, "no certificate\n").expect("a file");
    let error = || {
        status(&world)["configuration"]["error"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    wait_until("the broken file is shown", || error().contains("relay.crt"));
    let screen = world.relay.cli(&["status"]).expect_code(0).stdout;
    assert!(
        screen.contains("refused, the older ones stay in force") && screen.contains("relay.crt"),
        "{screen}"
    );
    let check = world.relay.cli(&["status", "--check"]);
    assert!(
        check.code == 1 && check.stderr.contains("relay.crt"),
        "{check:?}"
    );
    // Those who come are shown the old one.
    drop(world.relay.odmr());
    fs::write(&file, good).expect("a file");
    wait_until("the mended file is taken", || error().is_empty());
    open.finish();
}

/// An operator may write the name first and the file afterwards.
#[test]
fn a_certificate_that_comes_after_its_name_is_taken() {
    let world = World::start();
    world.relay.configure(|settings| {
        settings
            .set("tls.certificate", "new.crt")
            .set("tls.key", "new.key");
    });
    wait_until("the missing file is shown", || {
        status(&world)["configuration"]["error"]
            .as_str()
            .is_some_and(|error| error.contains("new.crt"))
    });
    let new = Certificate::for_name("relay.example.net");
    let folder = world.relay.folder();
    new.write(&folder.join("new.crt"), &folder.join("new.key"));
    wait_until("the new certificate is shown", || {
        world.relay.odmr().peer_certificate().as_ref() == Some(new.der())
    });
}

#[test]
fn what_must_wait_for_a_restart_is_said() {
    let world = World::start();
    world.relay.configure(|settings| {
        settings
            .set("smtp.listen", vec!["127.0.0.1:0"])
            .set("smtp.max_recipients", 101);
    });
    wait_until("the setting is named", || {
        world
            .relay
            .log()
            .lines()
            .any(|line| line.contains(" WARN ") && line.contains("smtp.listen"))
    });
    // The rest of the same file counts at once.
    let mut peer = world.relay.smtp();
    peer.ehlo("client.source.example");
    peer.ask("MAIL FROM:<sender@source.example>", "250");
    for number in 0..101 {
        peer.ask(&format!("RCPT TO:<user{number}@example.org>"), "250");
    }
    peer.ask("RCPT TO:<user@example.org>", "452");
}

/// The daemon polls once an hour; new settings may be the remedy for what went wrong, and are tried at once.
#[test]
fn the_puller_follows_its_files() {
    let inside = Inside::smtp();
    // Nobody is there; the port is the same, because a running puller reaches no other.
    let nobody = format!("127.0.0.2:{}", inside.address().port());
    let mut world = World::setup()
        .target(&format!("smtp://{nobody}"))
        .puller("relay.every", "1h")
        .start();
    world.send(&[Message::new("user@example.org", message::plain(1))]);
    world.puller.start();
    wait_until("the target is found missing", || {
        let log = world.puller.log();
        log.lines()
            .any(|line| line.contains("pull ended") && line.contains(&nobody))
    });

    // Broken: named once, and nothing changes.
    let good = fs::read_to_string(world.puller.config()).expect("a file");
    fs::write(world.puller.config(), format!("{good}\nbroken\n")).expect("a file");
    wait_until("the broken file is named", || {
        errors_about(&world.puller.log(), "puller.toml").len() == 1
    });
    assert!(inside.messages().is_empty());
    fs::write(world.puller.config(), &good).expect("a file");

    world.puller.set_target(&inside.target());
    inside.wait_for_messages(1);
    let log = world.puller.log();
    assert_eq!(errors_about(&log, "puller.toml").len(), 1, "{log}");

    // A secret that is replaced, on both sides.
    world.send(&[Message::new("user@example.org", message::plain(2))]);
    let made = world
        .relay
        .cli(&["account", "rotate", ACCOUNT, "--json"])
        .expect_code(0)
        .json();
    let before = log.matches("pull ended").count();
    world.puller.configure(|settings| {
        settings.set("relay.every", "1s").set("relay.jitter", "0s");
    });
    hang_up(&world);
    wait_until("the old secret is refused", || {
        world.puller.log().matches("pull ended").count() > before
    });
    write_private(
        &world.puller.folder().join("relay.secret"),
        made["secret"].as_str().expect("a secret"),
    );
    inside.wait_for_messages(2);
    assert_eq!(world.puller.stop(), 0);
}

/// A file of `conf.d`.
fn fragment(world: &World, name: &str) -> PathBuf {
    world.relay.folder().join("conf.d").join(name)
}

fn status(world: &World) -> Value {
    world.relay.cli(&["status", "--json"]).expect_code(0).json()
}

fn hang_up(world: &World) {
    let id = world.puller.id().expect("a running puller");
    kill(
        Pid::from_raw(i32::try_from(id).expect("a process id")),
        Signal::SIGHUP,
    )
    .expect("a signal");
}

fn errors_about<'l>(log: &'l str, file: &str) -> Vec<&'l str> {
    log.lines()
        .filter(|line| line.contains(" ERROR ") && line.contains(file))
        .collect()
}

/// The code that a new session gets for a recipient in a domain.
#[track_caller]
fn rcpt(world: &World, domain: &str) -> u16 {
    let mut peer = world.relay.smtp();
    peer.ehlo("client.source.example");
    peer.ask("MAIL FROM:<sender@source.example>", "250");
    peer.send(&format!("RCPT TO:<user@{domain}>"));
    let code = code(&peer.line());
    peer.ask("QUIT", "221");
    code
}

/// When the only message of a domain is given up.
#[track_caller]
fn expires_at(world: &World, domain: &str) -> String {
    let listed = world.relay.queue_list(&["--domain", domain]);
    listed[0]["expires_at"]
        .as_str()
        .expect("a moment")
        .to_owned()
}

/// The code that AUTH PLAIN gets.
#[track_caller]
fn auth(world: &World, account: &str, secret: &str) -> u16 {
    let mut peer = world.relay.odmr();
    peer.ehlo(PULLER_NAME);
    peer.send(&format!("AUTH PLAIN {}", plain(account, secret)));
    code(&peer.line())
}

#[track_caller]
fn authenticated(world: &World, account: &str, secret: &str) -> Peer {
    let mut peer = world.relay.odmr();
    peer.ehlo(PULLER_NAME);
    peer.auth_plain(account, secret);
    peer
}

/// Whether an account can log in and is granted its domains.
#[track_caller]
fn can_pull(world: &World, account: &str, secret: &str) -> bool {
    let mut peer = world.relay.odmr();
    peer.ehlo(PULLER_NAME);
    peer.send(&format!("AUTH PLAIN {}", plain(account, secret)));
    if code(&peer.line()) != 235 {
        return false;
    }
    peer.send("ATRN");
    code(&peer.line()) == 250
}

/// A session of the account that is made by hand, if it can log in.
#[track_caller]
fn cram_md5(world: &World, secret: &str) -> Option<Peer> {
    let mut peer = world.relay.odmr();
    peer.ehlo(PULLER_NAME);
    let challenge = peer.ask("AUTH CRAM-MD5", "334 ");
    peer.send(&atrn_tests::peer::cram_md5(&challenge[4..], "hand", secret));
    (code(&peer.line()) == 235).then_some(peer)
}

#[track_caller]
fn code(reply: &str) -> u16 {
    reply[..3].parse().expect("a reply code")
}
