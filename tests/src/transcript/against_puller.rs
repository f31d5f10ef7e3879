//! The real puller, and a script that is its relay.

use super::parse::Party;
use super::pattern::Words;
use super::play::{Connection, Player};
use super::{Against, Directive, Room, Transcript};
use crate::certs::Certificate;
use crate::inside::{Inside, Offer};
use crate::peer::{Pace, Peer, plain};
use crate::world::{ACCOUNT, DOMAIN, PullerSetup, RELAY_NAME, Tls};

const SECRET: &str = "correct horse battery staple";

/// Plays the provider's lines against one pull of a puller of its own.
///
/// # Panics
/// At the first line that is not as it should be, and when exit code or mail are not.
pub fn play_against_puller(transcript: &Transcript, pace: Pace) {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let certificate = Certificate::for_name(RELAY_NAME);
    let inside = inside(transcript);
    let tls = tls(transcript);

    let asked = asked(transcript);
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let settings =
        PullerSetup::new(ACCOUNT, &asked, &inside.target()).settings(settings(transcript));
    let pin = certificate.pin();
    let mut puller = settings.install_for(folder.path(), &address, tls, Some(&pin), SECRET);
    puller.begin_pull();

    let server = certificate.server();
    let mut peer = Peer::accept(&listener);
    if tls == Tls::Implicit {
        peer.start_tls_server(&server);
    }
    if transcript.room == Room::Reversed {
        log_in(&mut peer);
    }
    let connection = Connection {
        peer: peer.paced(pace),
        server: Some(server),
    };
    let words = Words::new(ACCOUNT, SECRET);
    let player = Player::new(transcript, Party::Provider, connection, words);
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| player.play()));
    if let Err(panic) = played {
        eprintln!("--- log of the puller\n{}", puller.log());
        std::panic::resume_unwind(panic);
    }
    let code = puller.pulled();
    check(transcript, code, &inside, &puller.log());
}

/// The first half, for transcripts that begin at the reversal.
fn log_in(peer: &mut Peer) {
    peer.send(&format!("220 {RELAY_NAME} ODMR ready"));
    peer.expect_command("EHLO ");
    peer.send("250-relay.example.net\r\n250-AUTH PLAIN\r\n250 ATRN");
    let line = peer.expect_command("AUTH PLAIN");
    if !line.ends_with(&plain(ACCOUNT, SECRET)) {
        peer.ask("334 ", &plain(ACCOUNT, SECRET));
    }
    peer.send("235 2.7.0 welcome");
    peer.expect_command("ATRN");
    peer.send("250 2.0.0 reversing");
}

fn inside(transcript: &Transcript) -> Inside {
    let mut offer = Offer::default();
    for directive in &transcript.directives {
        if let Directive::Offer(keywords) = directive {
            offer.keywords.clone_from(keywords);
        }
    }
    let inside = Inside::offering(offer);
    for directive in &transcript.directives {
        let Directive::Inside(step, text, reply) = directive else {
            continue;
        };
        let order = inside.on(*step).with(text);
        if reply == "hang-up" {
            order.hang_up()
        } else {
            order.reply(reply)
        }
    }
    inside
}

fn asked(transcript: &Transcript) -> Vec<String> {
    let asked = transcript
        .directives
        .iter()
        .find_map(|directive| match directive {
            Directive::Ask(domains) => Some(domains.clone()),
            _ => None,
        });
    asked.unwrap_or_else(|| vec![DOMAIN.to_owned()])
}

fn tls(transcript: &Transcript) -> Tls {
    let tls = transcript
        .directives
        .iter()
        .find_map(|directive| match directive {
            // A puller has no word for "perhaps".
            Directive::Tls(Tls::Optional) => Some(Tls::Off),
            Directive::Tls(tls) => Some(*tls),
            _ => None,
        });
    tls.unwrap_or(Tls::Implicit)
}

fn settings(transcript: &Transcript) -> Vec<(String, toml::Value)> {
    // No script can compute SCRAM, so the puller must stoop to what it can.
    let weakest = if tls(transcript) == Tls::Off {
        "CRAM-MD5"
    } else {
        "PLAIN"
    };
    let mut settings = vec![("relay.weakest_mechanism".to_owned(), weakest.into())];
    for directive in &transcript.directives {
        if let Directive::Set(Against::Puller, path, value) = directive {
            settings.push((path.clone(), value.clone()));
        }
    }
    settings
}

fn check(transcript: &Transcript, code: i32, inside: &Inside, log: &str) {
    for directive in &transcript.directives {
        match directive {
            Directive::Exit(expected) => {
                assert_eq!(
                    code, *expected,
                    "{}: exit code; log:\n{log}",
                    transcript.name
                );
            }
            Directive::Got(count) => {
                let got = inside.messages().len();
                assert_eq!(
                    got, *count,
                    "{}: messages inside; log:\n{log}",
                    transcript.name
                );
            }
            _ => {}
        }
    }
}
