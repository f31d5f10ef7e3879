//! What the server makes of single messages.

use super::*;

// covers: R4616-1
#[test]
fn plain_takes_one_user_and_one_secret() {
    let table: [(&[u8], ServerStep); 16] = [
        (b"\0corp\0pencil", ServerStep::Success("corp".into())),
        (b"corp\0corp\0pencil", ServerStep::Success("corp".into())),
        // SASLprep: a soft hyphen is nothing, a full-width letter is that letter.
        (
            "\0co\u{ad}rp\0pencil".as_bytes(),
            ServerStep::Success("corp".into()),
        ),
        (
            "\0corp\0\u{ff50}encil".as_bytes(),
            ServerStep::Success("corp".into()),
        ),
        (
            b"other\0corp\0pencil",
            failure("corp", Failure::Impersonation),
        ),
        (b"\0corp\0pencils", failure("corp", Failure::WrongSecret)),
        (b"\0Corp\0pencil", failure("Corp", Failure::UnknownUser)),
        (b"", malformed()),
        (b"\0", malformed()),
        (b"\0\0", malformed()),
        (b"\0corp\0", malformed()),
        (b"\0\0pencil", malformed()),
        (b"corp\0pencil", malformed()),
        (b"\0corp\0pencil\0", malformed()),
        (b"\0corp\0pen\x07cil", malformed()),
        (b"\0corp\0pen\xff", malformed()),
    ];
    for (message, expected) in table {
        let step = server(Mechanism::Plain).step(message, &Accounts::corp());
        assert_eq!(step, expected, "{:?}", String::from_utf8_lossy(message));
    }
}

// covers: R4616-1
#[test]
fn plain_says_what_the_example_of_the_rfc_says() {
    let client = client(Mechanism::Plain, "tim", "tanstaaftanstaaf");
    assert_eq!(
        client.initial_response().unwrap(),
        b"\0tim\0tanstaaftanstaaf"
    );
    let impersonation = server(Mechanism::Plain).step(b"Ursel\0Kurt\0xipj3plmq", &Accounts::corp());
    assert_eq!(impersonation, failure("Kurt", Failure::Impersonation));
}

// covers: R4422-1
#[test]
fn external_needs_the_registered_certificate() {
    let no_certificate = |user: Option<&str>| ServerStep::Failure {
        user: user.map(str::to_owned),
        reason: Failure::NoCertificate,
    };
    let table: [(Option<&str>, &[u8], ServerStep); 7] = [
        (Some("sha256/corp"), b"", ServerStep::Success("corp".into())),
        (
            Some("sha256/corp"),
            b"corp",
            ServerStep::Success("corp".into()),
        ),
        (
            Some("sha256/corp"),
            b"other",
            failure("other", Failure::Impersonation),
        ),
        (Some("sha256/corp"), b"corp\0", malformed()),
        (Some("sha256/corp"), b"\xff", malformed()),
        (Some("sha256/another"), b"", no_certificate(None)),
        (None, b"corp", no_certificate(Some("corp"))),
    ];
    for (pin, message, expected) in table {
        let context = ServerContext {
            certificate_pin: pin.map(str::to_owned),
            ..server_context()
        };
        let mut server = Server::start(Mechanism::External, context, fresh());
        assert_eq!(
            server.step(message, &Accounts::corp()),
            expected,
            "{pin:?} {message:?}"
        );
    }
}

// covers: R2195-1
#[test]
fn the_challenge_of_cram_md5_is_a_message_id_that_never_comes_twice() {
    let challenge = |fresh| match Server::start(Mechanism::CramMd5, server_context(), fresh)
        .step(b"", &Accounts::corp())
    {
        ServerStep::Challenge(challenge) => String::from_utf8(challenge).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        challenge(fresh()),
        format!("<{}.697170952@relay.example>", "09".repeat(NONCE_OCTETS))
    );
    assert_ne!(
        challenge(fresh()),
        challenge(Fresh {
            nonce: [1; NONCE_OCTETS],
            ..fresh()
        })
    );
    const { assert!(NONCE_OCTETS * 8 >= 128) };
    assert_eq!(
        server(Mechanism::CramMd5).step(b"corp x", &Accounts::corp()),
        malformed()
    );
}

// covers: R2195-1
#[test]
fn even_the_secret_of_a_decoy_opens_nothing() {
    let decoy = Accounts::corp().decoy_key().secret("nobody");
    let secret = secrecy::ExposeSecret::expose_secret(&decoy);
    let step = outcome(Mechanism::CramMd5, "nobody", secret);
    assert_eq!(step, failure("nobody", Failure::UnknownUser));
}
