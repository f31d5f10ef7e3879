//! Which mechanism the client takes.

use super::Mechanism::{CramMd5, External, Plain, ScramSha256, ScramSha256Plus};
use super::*;

const ALL: &str = "PLAIN CRAM-MD5 SCRAM-SHA-256 SCRAM-SHA-256-PLUS EXTERNAL";

/// What is offered, what we have, the weakest that the settings allow, and what is taken.
const CHOICES: [(&str, &str, Mechanism, Option<Mechanism>); 17] = [
    (ALL, "certificate secret tls binding", Plain, Some(External)),
    (ALL, "certificate tls binding", Plain, Some(External)),
    (ALL, "secret tls binding", Plain, Some(ScramSha256Plus)),
    (ALL, "secret tls", Plain, Some(ScramSha256)),
    (ALL, "certificate secret", Plain, Some(ScramSha256)),
    (ALL, "secret tls binding", External, None),
    ("PLAIN CRAM-MD5", "secret tls binding", Plain, Some(CramMd5)),
    ("PLAIN CRAM-MD5", "secret", Plain, Some(CramMd5)),
    ("PLAIN CRAM-MD5", "secret tls binding", ScramSha256, None),
    (
        "PLAIN CRAM-MD5 SCRAM-SHA-256",
        "certificate tls binding",
        Plain,
        None,
    ),
    ("PLAIN", "secret tls binding", Plain, Some(Plain)),
    ("PLAIN", "secret tls binding", CramMd5, None),
    ("PLAIN", "secret", Plain, None),
    ("SCRAM-SHA-256", "secret tls binding", ScramSha256Plus, None),
    ("SCRAM-SHA-256-PLUS", "secret tls", Plain, None),
    ("EXTERNAL PLAIN", "certificate secret", Plain, None),
    ("", "certificate secret tls binding", Plain, None),
];

// covers: R5802-1, R4616-1, R4422-1
#[test]
fn the_client_takes_the_strongest_that_is_offered_possible_and_allowed() {
    for (offered, ours, weakest, expected) in CHOICES {
        let has = |word| ours.split(' ').any(|one| one == word);
        let credentials = ClientCredentials {
            user: "corp".into(),
            secret: has("secret").then(|| "pencil".into()),
            remembered: Default::default(),
            certificate: has("certificate"),
        };
        let settings = ClientSettings {
            credentials,
            weakest,
        };
        let context = ClientContext {
            tls: has("tls"),
            ..client_context(has("binding").then(exporter))
        };
        let offer: Vec<_> = offered
            .split(' ')
            .filter_map(Mechanism::from_name)
            .collect();
        let chosen = Client::choose(&offer, &settings, &context).map(|one| one.mechanism());
        assert_eq!(
            chosen,
            expected.ok_or(ClientError::NoMechanism),
            "{offered} | {ours} | {weakest}"
        );
    }
}

// covers: R4616-1
#[test]
fn what_can_not_be_prepared_is_our_own_mistake() {
    for (user, secret) in [
        ("", "pencil"),
        ("corp", ""),
        ("corp", "\u{7}"),
        ("\u{e000}", "pencil"),
    ] {
        for mechanism in [ScramSha256, Plain] {
            let chosen =
                Client::choose(&[mechanism], &settings(user, secret), &client_context(None));
            assert_eq!(
                chosen.err(),
                Some(ClientError::Credentials(Unpreparable)),
                "{user:?} {secret:?}"
            );
        }
    }
}
