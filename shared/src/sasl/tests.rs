//! Both sides of every mechanism against each other, and the server against messages that no client of ours sends.

mod choice;
mod messages;

use std::collections::HashMap;

use proptest::prelude::*;
use secrecy::SecretString;

use super::*;

const BINDING: &[u8] = b"thirty-two octets of this channel";

/// What the accounts of a relay look like to the mechanisms.
pub(crate) struct Accounts {
    verifiers: HashMap<String, ScramVerifier>,
    secrets: HashMap<String, SecretString>,
    certificates: HashMap<String, String>,
    decoy_key: DecoyKey,
    pub(crate) available: bool,
}

impl Accounts {
    /// The account `corp` with the secret `pencil` for every mechanism, and a certificate.
    pub(crate) fn corp() -> Self {
        let verifier = ScramVerifier::derive("pencil", b"sixteen octets!!").unwrap();
        Self {
            verifiers: [("corp".to_owned(), verifier)].into(),
            secrets: [("corp".to_owned(), "pencil".into())].into(),
            certificates: [("sha256/corp".to_owned(), "corp".to_owned())].into(),
            decoy_key: DecoyKey::new(&[7; 32]),
            available: true,
        }
    }

    fn look_up<T: Clone>(
        &self,
        map: &HashMap<String, T>,
        key: &str,
    ) -> Result<Option<T>, Unavailable> {
        if self.available {
            Ok(map.get(key).cloned())
        } else {
            Err(Unavailable)
        }
    }
}

impl Credentials for Accounts {
    fn scram_verifier(&self, user: &str) -> Result<Option<ScramVerifier>, Unavailable> {
        self.look_up(&self.verifiers, user)
    }

    fn cram_md5_secret(&self, user: &str) -> Result<Option<SecretString>, Unavailable> {
        self.look_up(&self.secrets, user)
    }

    fn account_of_certificate(&self, pin: &str) -> Result<Option<String>, Unavailable> {
        self.look_up(&self.certificates, pin)
    }

    fn decoy_key(&self) -> &DecoyKey {
        &self.decoy_key
    }
}

pub(crate) fn fresh() -> Fresh {
    Fresh {
        nonce: [9; NONCE_OCTETS],
        unix_seconds: 697_170_952,
    }
}

fn exporter() -> ChannelBinding {
    ChannelBinding::TlsExporter(BINDING.to_vec())
}

fn server_context() -> ServerContext {
    ServerContext {
        hostname: "relay.example".into(),
        certificate_pin: Some("sha256/corp".into()),
        channel_bindings: vec![exporter()],
        plus_offered: true,
    }
}

fn server(mechanism: Mechanism) -> Server {
    Server::start(mechanism, server_context(), fresh())
}

fn settings(user: &str, secret: &str) -> ClientSettings {
    let credentials = ClientCredentials {
        user: user.into(),
        secret: Some(secret.into()),
        remembered: Default::default(),
        certificate: true,
    };
    ClientSettings {
        credentials,
        weakest: Mechanism::Plain,
    }
}

fn client_context(channel_binding: Option<ChannelBinding>) -> ClientContext {
    ClientContext {
        tls: true,
        channel_binding,
        nonce: [3; NONCE_OCTETS],
    }
}

/// A client that was offered this mechanism alone. It has a channel binding if it needs one.
fn client(mechanism: Mechanism, user: &str, secret: &str) -> Client {
    let binding = (mechanism == Mechanism::ScramSha256Plus).then(exporter);
    Client::choose(
        &[mechanism],
        &settings(user, secret),
        &client_context(binding),
    )
    .unwrap()
}

/// How a whole exchange ended, at the server and at the client.
type Ended = (ServerStep, Result<bool, ClientError>);

/// Runs an exchange; `tamper` sees every message with its number, and may change it.
fn run(
    server: &mut Server,
    client: &mut Client,
    tamper: &mut dyn FnMut(usize, &mut Vec<u8>),
) -> Ended {
    let accounts = Accounts::corp();
    let mut message = client.initial_response().unwrap_or_default().to_vec();
    for number in 0.. {
        tamper(2 * number, &mut message);
        let step = server.step(&message, &accounts);
        let ServerStep::Challenge(mut challenge) = step else {
            return (step, Ok(client.may_succeed()));
        };
        tamper(2 * number + 1, &mut challenge);
        message = match client.step(&challenge) {
            Ok(response) => response,
            Err(error) => return (ServerStep::Challenge(challenge), Err(error)),
        };
    }
    unreachable!("an exchange ends")
}

fn outcome(mechanism: Mechanism, user: &str, secret: &str) -> ServerStep {
    run(
        &mut server(mechanism),
        &mut client(mechanism, user, secret),
        &mut |_, _| {},
    )
    .0
}

fn failure(user: &str, reason: Failure) -> ServerStep {
    ServerStep::Failure {
        user: Some(user.into()),
        reason,
    }
}

fn malformed() -> ServerStep {
    ServerStep::Failure {
        user: None,
        reason: Failure::Malformed,
    }
}

// covers: R4616-1, R2195-1, R5802-1, R4422-1, R2645-5
#[test]
fn every_mechanism_proves_the_account() {
    for mechanism in Mechanism::ALL {
        let (mut server, mut client) = (server(mechanism), client(mechanism, "corp", "pencil"));
        let ended = run(&mut server, &mut client, &mut |_, _| {});
        assert_eq!(
            ended,
            (ServerStep::Success("corp".into()), Ok(true)),
            "{mechanism}"
        );
        // It is over: nothing more is learnt from either side.
        assert_eq!(
            server.step(b"", &Accounts::corp()),
            malformed(),
            "{mechanism}"
        );
        assert!(client.step(b"").is_err(), "{mechanism}");
    }
}

// covers: R4954-1, R4616-1, R2195-1, R5802-1
#[test]
fn unknown_users_and_wrong_secrets_take_the_same_steps() {
    for mechanism in [
        Mechanism::ScramSha256Plus,
        Mechanism::ScramSha256,
        Mechanism::CramMd5,
        Mechanism::Plain,
    ] {
        let mut shapes = Vec::new();
        for (user, secret, reason) in [
            ("corp", "pen", Failure::WrongSecret),
            ("nobd", "pencil", Failure::UnknownUser),
            ("nobd", "pen", Failure::UnknownUser),
        ] {
            let mut shape = Vec::new();
            let ended = run(
                &mut server(mechanism),
                &mut client(mechanism, user, secret),
                &mut |_, message| {
                    shape.push(message.len());
                },
            );
            assert_eq!(ended.0, failure(user, reason), "{mechanism}");
            // Of the client's own messages PLAIN's has the length of its secret; the server's tell nothing.
            shapes.push((shape.len(), shape.get(1).copied()));
        }
        assert_eq!(shapes[0], shapes[1], "{mechanism}");
        assert_eq!(shapes[0], shapes[2], "{mechanism}");
    }
}

// covers: R5802-1
#[test]
fn an_unknown_user_keeps_its_salt_as_a_known_one_does() {
    let challenge = |user: &str| {
        let first = format!("n,,n={user},r=abc");
        match server(Mechanism::ScramSha256).step(first.as_bytes(), &Accounts::corp()) {
            ServerStep::Challenge(challenge) => String::from_utf8(challenge).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(challenge("nobody"), challenge("nobody"));
    assert_ne!(challenge("nobody"), challenge("somebody"));
    assert_eq!(challenge("nobody").len(), challenge("corp").len());
    assert!(challenge("nobody").ends_with(",i=15000") && challenge("corp").ends_with(",i=15000"));
}

// covers: R4954-2
#[test]
fn no_verdict_while_the_accounts_cannot_be_asked() {
    let accounts = Accounts {
        available: false,
        ..Accounts::corp()
    };
    for mechanism in Mechanism::ALL {
        let (mut server, mut client) = (server(mechanism), client(mechanism, "corp", "pencil"));
        let mut step = server.step(client.initial_response().unwrap_or_default(), &accounts);
        if let ServerStep::Challenge(challenge) = step {
            step = server.step(&client.step(&challenge).unwrap(), &accounts);
        }
        assert_eq!(step, ServerStep::Unavailable, "{mechanism}");
    }
}

// covers: R2195-1, R5802-1
#[test]
fn a_recorded_exchange_is_worth_nothing_later() {
    for mechanism in [
        Mechanism::ScramSha256Plus,
        Mechanism::ScramSha256,
        Mechanism::CramMd5,
    ] {
        let mut recorded = Vec::new();
        let ended = run(
            &mut server(mechanism),
            &mut client(mechanism, "corp", "pencil"),
            &mut |number, message| {
                if number % 2 == 0 {
                    recorded.push(message.clone());
                }
            },
        );
        assert_eq!(ended.0, ServerStep::Success("corp".into()));
        let later = Fresh {
            nonce: [10; NONCE_OCTETS],
            ..fresh()
        };
        let mut server = Server::start(mechanism, server_context(), later);
        let steps: Vec<_> = recorded
            .iter()
            .map(|message| server.step(message, &Accounts::corp()))
            .collect();
        assert!(
            !steps
                .iter()
                .any(|step| matches!(step, ServerStep::Success(_))),
            "{mechanism}"
        );
        assert!(
            matches!(steps[1], ServerStep::Failure { .. }),
            "{mechanism}: {steps:?}"
        );
    }
}

// covers: R5802-1
#[test]
fn no_octet_of_a_scram_exchange_can_be_changed_unnoticed() {
    for mechanism in [Mechanism::ScramSha256Plus, Mechanism::ScramSha256] {
        let mut lengths = Vec::new();
        let mut measure = |_, message: &mut Vec<u8>| lengths.push(message.len());
        let _ = run(
            &mut server(mechanism),
            &mut client(mechanism, "corp", "pencil"),
            &mut measure,
        );
        assert_eq!(lengths.len(), 5, "{lengths:?}");
        for (number, length) in lengths.into_iter().enumerate() {
            for position in 0..length {
                let mut flip = |at, message: &mut Vec<u8>| {
                    if at == number {
                        message[position] ^= 1;
                    }
                };
                let (step, client) = run(
                    &mut server(mechanism),
                    &mut client(mechanism, "corp", "pencil"),
                    &mut flip,
                );
                let believed = matches!(step, ServerStep::Success(_)) && client == Ok(true);
                assert!(!believed, "{mechanism}: message {number}, octet {position}");
            }
        }
    }
}

// covers: R5802-1
#[test]
fn the_channel_must_be_the_one_the_client_sees() {
    let end_point = |data: &[u8]| ChannelBinding::TlsServerEndPoint(data.to_vec());
    let table = [
        (vec![exporter()], exporter(), true),
        (vec![end_point(b"hash"), exporter()], exporter(), true),
        (
            vec![exporter(), end_point(b"hash")],
            end_point(b"hash"),
            true,
        ),
        (
            vec![ChannelBinding::TlsExporter(b"another channel".to_vec())],
            exporter(),
            false,
        ),
        (vec![end_point(BINDING)], exporter(), false),
        (vec![], exporter(), false),
    ];
    for (ours, theirs, agrees) in table {
        let context = ServerContext {
            channel_bindings: ours.clone(),
            ..server_context()
        };
        let mut server = Server::start(Mechanism::ScramSha256Plus, context, fresh());
        let offered = [Mechanism::ScramSha256Plus];
        let context = client_context(Some(theirs.clone()));
        let mut client = Client::choose(&offered, &settings("corp", "pencil"), &context).unwrap();
        let expected = if agrees {
            ServerStep::Success("corp".into())
        } else {
            failure("corp", Failure::ChannelBinding)
        };
        assert_eq!(
            run(&mut server, &mut client, &mut |_, _| {}).0,
            expected,
            "{ours:?} {theirs:?}"
        );
    }
}

// covers: R5802-1
#[test]
fn an_offer_of_plus_that_was_cut_out_on_the_way_is_noticed() {
    // The client has a channel binding and was told of the plain mechanism alone.
    for (plus_offered, expected) in [
        (true, failure("corp", Failure::ChannelBinding)),
        (false, ServerStep::Success("corp".into())),
    ] {
        let context = ServerContext {
            plus_offered,
            ..server_context()
        };
        let mut server = Server::start(Mechanism::ScramSha256, context, fresh());
        let offered = [Mechanism::ScramSha256];
        let mut client = Client::choose(
            &offered,
            &settings("corp", "pencil"),
            &client_context(Some(exporter())),
        )
        .unwrap();
        assert!(client.initial_response().unwrap().starts_with(b"y,,"));
        assert_eq!(run(&mut server, &mut client, &mut |_, _| {}).0, expected);
    }
}

// covers: R4954-1
#[test]
fn mechanisms_are_known_by_name_in_any_case() {
    for mechanism in Mechanism::ALL {
        assert_eq!(
            Mechanism::from_name(&mechanism.name().to_lowercase()),
            Some(mechanism)
        );
    }
    for name in ["", "LOGIN", "SCRAM-SHA-1", "PLAINX", "PLAIN "] {
        assert_eq!(Mechanism::from_name(name), None, "{name:?}");
    }
}

#[test]
fn nothing_secret_prints_itself() {
    let client = client(Mechanism::ScramSha256Plus, "corp", "pencil");
    let cram = self::client(Mechanism::CramMd5, "corp", "pencil");
    let mut server = server(Mechanism::ScramSha256Plus);
    let _ = server.step(client.initial_response().unwrap(), &Accounts::corp());
    let verifier = ScramVerifier::derive("pencil", b"sixteen octets!!").unwrap();
    let text = format!(
        "{server:?} {cram:?} {:?} {:?} {verifier:?}",
        settings("corp", "pencil"),
        DecoyKey::new(&[7; 32])
    );
    let printed = verifier.to_string();
    let keys = printed.rsplit('$').next().unwrap();
    for secret in ["pencil", keys, keys.split(':').next().unwrap()] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert_eq!(
        outcome(Mechanism::Plain, "corp", "pencil"),
        ServerStep::Success("corp".into())
    );
}

fn any_mechanism() -> impl Strategy<Value = Mechanism> {
    prop::sample::select(Mechanism::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_message_makes_a_server_panic(mechanism in any_mechanism(), messages in prop::collection::vec(any_message(), 1..4)) {
        let mut server = server(mechanism);
        let accounts = Accounts::corp();
        for message in messages {
            let step = server.step(&message, &accounts);
            let trusted = mechanism == Mechanism::External;
            prop_assert!(trusted || !matches!(step, ServerStep::Success(_)));
        }
    }

    #[test]
    fn no_challenge_makes_a_client_panic(mechanism in any_mechanism(), challenges in prop::collection::vec(any_message(), 1..4)) {
        let mut client = client(mechanism, "corp", "pencil");
        for challenge in challenges {
            let _ = client.step(&challenge);
        }
        prop_assert!(!matches!(mechanism, Mechanism::ScramSha256 | Mechanism::ScramSha256Plus) || !client.may_succeed());
    }
}

/// Octets, or pieces of real messages in any order.
fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "n,,",
        "y,,",
        "p=tls-exporter,,",
        "n=corp",
        "r=abc",
        ",",
        "c=biws",
        "p=AAAA",
        "s=QSXCR+Q6sek8bf92",
        "i=4096",
        "v=",
        "m=",
        "e=x",
        "\0",
        "corp",
        " ",
        "=2C",
        "a=",
    ];
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..12)
            .prop_map(|parts| parts.concat().into_bytes()),
    ]
}
