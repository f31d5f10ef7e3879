//! The real relay, and a script that is its puller or a sender.

use super::parse::Party;
use super::pattern::Words;
use super::play::{Connection, Player, messages};
use super::{Against, Directive, Kind, Room, Transcript};
use crate::message::Message;
use crate::peer::{Pace, Peer};
use crate::process::wait_until;
use crate::sender::Sender;
use crate::world::{ACCOUNT, DOMAIN, PULLER_NAME, Tls, World};

/// Plays the customer's lines against a relay of its own.
///
/// # Panics
/// At the first line that is not as it should be, and when the queue is not as it should be in
/// the end.
pub fn play_against_relay(transcript: &Transcript, pace: Pace) {
    let world = world(transcript);
    queue_mail(&world, transcript);
    let peer = match transcript.room {
        Room::Edge => Peer::connect(world.relay.smtp_address()),
        Room::Odmr => odmr(&world),
        Room::Reversed => {
            let mut peer = world.relay.odmr();
            peer.ehlo(PULLER_NAME);
            peer.auth_plain(ACCOUNT, world.relay.secret(ACCOUNT));
            peer.ask("ATRN", "250");
            peer
        }
    };
    let connection = Connection {
        peer: peer.paced(pace),
        server: None,
    };
    let words = Words::new(ACCOUNT, world.relay.secret(ACCOUNT));
    Player::new(transcript, Party::Customer, connection, words).play();
    check(&world, transcript);
}

fn world(transcript: &Transcript) -> World {
    // A report would be one more message behind each refusal; tests/reports is about them.
    let mut setup = World::setup()
        .domain(DOMAIN)
        .relay("domain.reports", "none");
    let mut domains = vec![DOMAIN];
    for directive in &transcript.directives {
        setup = match directive {
            Directive::Ask(more) => {
                for domain in more.iter().filter(|domain| *domain != DOMAIN) {
                    domains.push(domain);
                    setup = setup.domain(domain);
                }
                setup
            }
            Directive::Domain(name) => setup.domain(name),
            Directive::Set(Against::Relay, path, value) => setup.relay(path, value.clone()),
            Directive::Tls(tls) => setup.tls(*tls),
            _ => setup,
        };
    }
    setup.account(ACCOUNT, &domains).start()
}

fn odmr(world: &World) -> Peer {
    let mut peer = Peer::connect(world.relay.odmr_address());
    if world.relay.tls() == Tls::Implicit {
        peer.start_tls_client(&crate::certs::trusting_client());
    }
    peer
}

/// Puts the mail of the directives into the queue.
pub(super) fn queue_mail(world: &World, transcript: &Transcript) {
    let messages = messages(transcript);
    if messages.is_empty() {
        return;
    }
    let international = transcript
        .directives
        .iter()
        .filter_map(|directive| match directive {
            Directive::Mail(kind, _) => Some(*kind == Kind::International),
            _ => None,
        });
    let mut sender = Sender::connect(world.relay.smtp_address());
    for (message, international) in messages.iter().zip(international) {
        if international {
            send_international(&mut sender, message);
        } else {
            sender.send(message);
        }
    }
    sender.quit();
}

fn send_international(sender: &mut Sender, message: &Message) {
    let peer = sender.peer();
    peer.ask(
        &format!("MAIL FROM:<{}> SMTPUTF8", message.reverse_path),
        "250",
    );
    peer.ask(&format!("RCPT TO:<{}>", message.forward_paths[0]), "250");
    peer.ask("DATA", "354");
    peer.send_octets(&crate::message::stuffed(&message.content));
    peer.expect("250");
}

fn check(world: &World, transcript: &Transcript) {
    for directive in &transcript.directives {
        let Directive::Left(count, state) = directive else {
            continue;
        };
        let what = format!("{}: {count} deliveries left, {state:?}", transcript.name);
        // The last answer may still be on its way into the queue.
        wait_until(&what, || {
            let listed = world.queue_list();
            let fits = |delivery: &serde_json::Value| {
                state
                    .as_deref()
                    .is_none_or(|state| delivery["state"] == state)
            };
            listed.len() == *count && listed.iter().all(fits)
        });
    }
}
