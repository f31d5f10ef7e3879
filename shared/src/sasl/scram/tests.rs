//! SCRAM against the example of RFC 7677 §3, against malformed messages, and against another implementation.

use std::io::Cursor;

use proptest::prelude::*;
use rsasl::callback::{Context, Request, SessionCallback, SessionData};
use rsasl::mechanisms::scram::properties::ScramStoredPassword;
use rsasl::mechname::Mechname;
use rsasl::prelude::{SASLClient, SASLConfig, SASLServer, SessionError, State, Validation};
use rsasl::property::AuthId;
use rsasl::validate::{Validate, ValidationError};

use super::message::{ClientFinal, ClientFirst, ServerFirst, escape, parse_server_final};
use super::*;
use crate::sasl::tests::Accounts;
use crate::sasl::{
    ClientError, Credentials, DecoyKey, Failure, ServerContext, ServerStep, Unavailable, base64,
};

const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_FIRST: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

/// The account of the RFC's example.
struct Example(ScramVerifier, DecoyKey);

impl Example {
    fn new() -> Self {
        let salt = base64::decode(b"W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = ScramVerifier::derive_with("pencil", &salt, 4096).unwrap();
        Self(verifier, DecoyKey::new(&[0; 32]))
    }
}

impl Credentials for Example {
    fn scram_verifier(&self, user: &str) -> Result<Option<ScramVerifier>, Unavailable> {
        Ok((user == "user").then(|| self.0.clone()))
    }

    fn cram_md5_secret(&self, _: &str) -> Result<Option<secrecy::SecretString>, Unavailable> {
        Ok(None)
    }

    fn account_of_certificate(&self, _: &str) -> Result<Option<String>, Unavailable> {
        Ok(None)
    }

    fn decoy_key(&self) -> &DecoyKey {
        &self.1
    }
}

fn unbound() -> ServerContext {
    ServerContext {
        hostname: "relay.example".into(),
        certificate_pin: None,
        channel_bindings: Vec::new(),
        plus_offered: false,
    }
}

fn server() -> Server {
    Server::new(Channel::Unbound, SERVER_NONCE.into())
}

fn client() -> (Client, Vec<u8>) {
    Client::new(
        "user",
        (&"pencil".into(), &RememberedKeys::default()),
        CLIENT_NONCE.into(),
        &Binding::Unsupported,
    )
    .unwrap()
}

fn step(server: &mut Server, response: &str) -> ServerStep {
    server.step(response.as_bytes(), &unbound(), &Example::new())
}

// covers: R5802-1
#[test]
fn the_server_follows_the_example_of_rfc_7677() {
    let mut server = server();
    assert_eq!(
        step(&mut server, CLIENT_FIRST),
        ServerStep::Challenge(SERVER_FIRST.into())
    );
    assert_eq!(
        step(&mut server, CLIENT_FINAL),
        ServerStep::Challenge(SERVER_FINAL.into())
    );
    assert_eq!(step(&mut server, ""), ServerStep::Success("user".into()));
}

// covers: R5802-1
#[test]
fn the_client_follows_the_example_of_rfc_7677() {
    let (mut client, initial) = client();
    assert_eq!(initial, CLIENT_FIRST.as_bytes());
    assert_eq!(
        client.step(SERVER_FIRST.as_bytes()).unwrap(),
        CLIENT_FINAL.as_bytes()
    );
    assert!(!client.is_complete());
    assert_eq!(client.step(SERVER_FINAL.as_bytes()).unwrap(), b"");
    assert!(client.is_complete());
}

#[test]
fn the_account_is_authenticated_only_after_its_agreement() {
    let mut server = server();
    let _ = step(&mut server, CLIENT_FIRST);
    let _ = step(&mut server, CLIENT_FINAL);
    let reason = Failure::Malformed;
    assert_eq!(
        step(&mut server, "v=x"),
        ServerStep::Failure {
            user: Some("user".into()),
            reason
        }
    );
    assert_eq!(
        step(&mut server, ""),
        ServerStep::Failure { user: None, reason }
    );
}

// covers: R5802-1
#[test]
fn first_messages_of_a_client_that_are_refused() {
    let malformed = |user: Option<&str>| (user.map(str::to_owned), Failure::Malformed);
    let table = [
        ("", malformed(None)),
        ("n", malformed(None)),
        ("n,,", malformed(None)),
        ("n,n=user,r=abc", malformed(None)),
        ("x,,n=user,r=abc", malformed(None)),
        ("p=,,n=user,r=abc", malformed(None)),
        ("p=tls exporter,,n=user,r=abc", malformed(None)),
        ("n,b=user,n=user,r=abc", malformed(None)),
        ("n,a=,n=user,r=abc", malformed(None)),
        ("n,,n=,r=abc", malformed(None)),
        ("n,,n=us=er,r=abc", malformed(None)),
        ("n,,n=us=2cer,r=abc", malformed(None)),
        ("n,,n=us\0er,r=abc", malformed(None)),
        ("n,,n=us\u{7}er,r=abc", malformed(None)),
        ("n,,n=user", malformed(None)),
        ("n,,n=user,r=", malformed(None)),
        ("n,,n=user,r=a b", malformed(None)),
        ("n,,n=user,r=\u{e9}", malformed(None)),
        ("n,,r=abc,n=user", malformed(None)),
        ("n,,m=x,n=user,r=abc", malformed(None)),
        ("n,,n=user,r=abc,m=x", malformed(None)),
        ("n,,n=user,r=abc,", malformed(None)),
        ("n,,n=user,r=abc,1=x", malformed(None)),
        ("n,,n=user,r=abc,xy", malformed(None)),
        (
            "n,a=other,n=user,r=abc",
            (Some("user".into()), Failure::Impersonation),
        ),
        (
            "p=tls-exporter,,n=user,r=abc",
            (Some("user".into()), Failure::ChannelBinding),
        ),
    ];
    for (message, (user, reason)) in table {
        assert_eq!(
            step(&mut server(), message),
            ServerStep::Failure { user, reason },
            "{message:?}"
        );
    }
    for message in [
        "n,,n=user,r=abc",
        "n,a=user,n=user,r=abc",
        "y,,n=user,r=abc",
        "n,,n=user,r=abc,x=1,y=2",
    ] {
        assert!(
            matches!(step(&mut server(), message), ServerStep::Challenge(_)),
            "{message:?}"
        );
    }
    assert!(matches!(
        Server::new(Channel::Bound, "abc".into()).step(
            b"n,,n=user,r=abc",
            &unbound(),
            &Example::new()
        ),
        ServerStep::Failure {
            reason: Failure::ChannelBinding,
            ..
        }
    ));
    assert_eq!(ClientFirst::parse(b"n,,n=\xff,r=abc"), None);
}

// covers: R5802-1
#[test]
fn final_messages_of_a_client_that_are_refused() {
    let nonce = format!("{CLIENT_NONCE}{SERVER_NONCE}");
    let proof = "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let table = [
        (String::new(), Failure::Malformed),
        (format!("c=biws,r={nonce}"), Failure::Malformed),
        (format!("c=biws,{proof}"), Failure::Malformed),
        (format!("r={nonce},{proof}"), Failure::Malformed),
        (format!("c=bi,r={nonce},{proof}"), Failure::Malformed),
        (format!("c=biws,r={nonce},p=AAAA"), Failure::Malformed),
        (format!("c=biws,r={nonce},p="), Failure::Malformed),
        (format!("c=biws,r={nonce},m=x,{proof}"), Failure::Malformed),
        (format!("c=biws,r={nonce},{proof},x=1"), Failure::Malformed),
        (
            format!("c=biws,r={CLIENT_NONCE},{proof}"),
            Failure::Malformed,
        ),
        (format!("c=biws,r={nonce}x,{proof}"), Failure::Malformed),
        (format!("c=eSws,r={nonce},{proof}"), Failure::ChannelBinding),
        (format!("c=,r={nonce},{proof}"), Failure::ChannelBinding),
        (
            format!("c=biws,r={nonce},x=1,{proof}"),
            Failure::WrongSecret,
        ),
        (
            format!("c=biws,r={nonce},p={}", base64::encode(&[0; 32])),
            Failure::WrongSecret,
        ),
    ];
    for (message, reason) in table {
        let mut server = server();
        let _ = step(&mut server, CLIENT_FIRST);
        let user = Some("user".to_owned());
        assert_eq!(
            step(&mut server, &message),
            ServerStep::Failure { user, reason },
            "{message:?}"
        );
        assert!(
            matches!(step(&mut server, CLIENT_FINAL), ServerStep::Failure { .. }),
            "no second try"
        );
    }
    assert_eq!(ClientFinal::parse(b"c=biws,r=\xff,p=AAAA"), None);
}

/// Challenges that no client may answer.
const SERVER_FIRST_REFUSED: [(&str, ClientError); 17] = [
    ("", ClientError::Malformed),
    ("r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaA==", ClientError::Malformed),
    (
        "r=rOprNGfwEbeRWgbNEkqOx,i=4096,s=W22ZaA==",
        ClientError::Malformed,
    ),
    ("r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096", ClientError::Malformed),
    (
        "r=rOprNGfwEbeRWgbNEkqOx,s=W22,i=4096",
        ClientError::Malformed,
    ),
    (
        "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaA==,i=",
        ClientError::Malformed,
    ),
    (
        "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaA==,i=04096",
        ClientError::Malformed,
    ),
    (
        "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaA==,i=+4096",
        ClientError::Malformed,
    ),
    (
        "m=x,r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaA==,i=4096",
        ClientError::Malformed,
    ),
    (
        "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaA==,i=4096,m=x",
        ClientError::Malformed,
    ),
    ("e=other-error", ClientError::Malformed),
    // Nothing added to our nonce, and somebody else's.
    (
        "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaA==,i=4096",
        ClientError::Malformed,
    ),
    (
        "r=sOprNGfwEbeRWgbNEkqOx,s=W22ZaA==,i=4096",
        ClientError::Malformed,
    ),
    (
        "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaA==,i=4095",
        ClientError::Iterations,
    ),
    (
        "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaA==,i=1",
        ClientError::Iterations,
    ),
    (
        "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaA==,i=1000001",
        ClientError::Iterations,
    ),
    (
        "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaA==,i=99999999999999999999",
        ClientError::Iterations,
    ),
];

// covers: R5802-1
#[test]
fn first_messages_of_a_server_that_are_refused() {
    for (message, error) in SERVER_FIRST_REFUSED {
        let (mut client, _) = client();
        assert_eq!(client.step(message.as_bytes()), Err(error), "{message:?}");
        assert_eq!(
            client.step(SERVER_FIRST.as_bytes()),
            Err(ClientError::Malformed),
            "no second try"
        );
    }
    for message in [
        "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaA==,i=4096",
        "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaA==,i=5000,x=1",
    ] {
        assert!(client().0.step(message.as_bytes()).is_ok(), "{message:?}");
    }
    assert_eq!(ServerFirst::parse(b"r=\xff,s=W22ZaA==,i=4096"), None);
}

// covers: R5802-1
#[test]
fn a_server_that_does_not_prove_itself_is_not_believed() {
    let forged = format!("v={}", base64::encode(&[0; 32]));
    for (message, error) in [
        ("", ClientError::Malformed),
        ("e=invalid-proof", ClientError::Malformed),
        ("v=", ClientError::ServerNotProven),
        ("v=AAAA", ClientError::ServerNotProven),
        (&forged, ClientError::ServerNotProven),
        (
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4",
            ClientError::Malformed,
        ),
    ] {
        let (mut client, _) = client();
        client.step(SERVER_FIRST.as_bytes()).unwrap();
        assert_eq!(client.step(message.as_bytes()), Err(error), "{message:?}");
        assert!(!client.is_complete());
    }
    assert_eq!(parse_server_final(b"v=\xff"), None);
}

#[test]
fn verifiers_print_and_parse() {
    let verifier = Example::new().0;
    let text = verifier.to_string();
    // PostgreSQL's form of the same secret.
    assert_eq!(
        text,
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    );
    assert_eq!(text.parse::<ScramVerifier>().unwrap(), verifier);
    assert!(verifier.verify("pencil"));
    assert!(!verifier.verify("pencils") && !verifier.verify("") && !verifier.verify("\u{7}"));
    assert_eq!(
        ScramVerifier::derive("", b"sixteen octets!!"),
        Err(crate::sasl::Unpreparable)
    );
}

#[test]
fn texts_that_are_no_verifier() {
    let text = Example::new().0.to_string();
    for (text, error) in [
        (String::new(), InvalidVerifier::Syntax),
        (text.replace("256$", "1$"), InvalidVerifier::Syntax),
        (
            text.replace("$4096:", "$4095:"),
            InvalidVerifier::Iterations,
        ),
        (
            text.replace("$4096:", "$1000001:"),
            InvalidVerifier::Iterations,
        ),
        (text.replace("$4096:", "$+4096:"), InvalidVerifier::Syntax),
        (
            text.replace("$4096:", "$99999999999:"),
            InvalidVerifier::Syntax,
        ),
        (text.replace("$4096:", "$:"), InvalidVerifier::Syntax),
        (
            text.replace("W22ZaJ0SNY7soEsUEjb6gQ==", ""),
            InvalidVerifier::Syntax,
        ),
        (text.replace("=:", ":"), InvalidVerifier::Syntax),
        (text[..text.len() - 4].to_owned(), InvalidVerifier::Syntax),
        (format!("{text} "), InvalidVerifier::Syntax),
    ] {
        assert_eq!(text.parse::<ScramVerifier>(), Err(error), "{text:?}");
    }
}

proptest! {
    #[test]
    fn names_survive_the_escape(name in "[ -~\u{a1}-\u{2ff}]{1,40}") {
        let message = format!("n,a={0},n={0},r=abc", escape(&name));
        let parsed = ClientFirst::parse(message.as_bytes()).unwrap();
        prop_assert_eq!(&parsed.user, &name);
        prop_assert_eq!(parsed.authorization, Some(name));
    }
}

/// The verdict of rsasl's server.
struct Verdict;

impl Validation for Verdict {
    type Value = String;
}

struct Store(ScramVerifier);

impl SessionCallback for Store {
    fn callback(
        &self,
        _: &SessionData,
        _: &Context<'_>,
        request: &mut Request<'_>,
    ) -> Result<(), SessionError> {
        let verifier = &self.0;
        let stored = ScramStoredPassword::new(
            verifier.iterations(),
            verifier.salt(),
            verifier.stored_key(),
            verifier.server_key(),
        );
        request.satisfy::<ScramStoredPassword<'_>>(&stored)?;
        Ok(())
    }

    fn validate(
        &self,
        _: &SessionData,
        context: &Context<'_>,
        validate: &mut Validate<'_>,
    ) -> Result<(), ValidationError> {
        validate.with::<Verdict, _>(|| {
            Ok(context.get_ref::<AuthId>().unwrap_or_default().to_owned())
        })?;
        Ok(())
    }
}

fn mechanism() -> &'static Mechname {
    Mechname::parse(b"SCRAM-SHA-256").unwrap()
}

/// Our client against rsasl's server: the account it saw, and whether our side believes it.
fn against_their_server(user: &str, secret: &str) -> (Option<String>, bool) {
    let config = SASLConfig::builder()
        .with_defaults()
        .with_callback(Store(Example::new().0))
        .unwrap();
    let mut theirs = SASLServer::<Verdict>::new(config)
        .start_suggested(mechanism())
        .unwrap();
    let (mut ours, mut message) = Client::new(
        user,
        (&secret.into(), &RememberedKeys::default()),
        CLIENT_NONCE.into(),
        &Binding::Unsupported,
    )
    .unwrap();
    loop {
        let mut challenge = Cursor::new(Vec::new());
        let Ok(state) = theirs.step(Some(&message), &mut challenge) else {
            return (None, ours.is_complete());
        };
        message = match ours.step(challenge.get_ref()) {
            Ok(message) => message,
            Err(_) => return (None, ours.is_complete()),
        };
        if !matches!(state, State::Running) {
            return (theirs.validation(), ours.is_complete());
        }
    }
}

/// rsasl's client against our server: our verdict, or `None` when the client gave up.
fn against_their_client(user: &str, secret: &str) -> Option<ServerStep> {
    let config = SASLConfig::with_credentials(None, user.into(), secret.into()).unwrap();
    let mut theirs = SASLClient::new(config)
        .start_suggested(&[mechanism()])
        .unwrap();
    let mut ours = server();
    let mut message = Cursor::new(Vec::new());
    theirs.step(None, &mut message).unwrap();
    loop {
        let step = ours.step(message.get_ref(), &unbound(), &Accounts::corp());
        let ServerStep::Challenge(challenge) = step else {
            return Some(step);
        };
        message = Cursor::new(Vec::new());
        theirs.step(Some(&challenge), &mut message).ok()?;
    }
}

// covers: R5802-1
#[test]
fn another_implementation_agrees() {
    assert_eq!(
        against_their_server("user", "pencil"),
        (Some("user".into()), true)
    );
    assert_eq!(against_their_server("user", "pencils"), (None, false));
    let wrong = ServerStep::Failure {
        user: Some("corp".into()),
        reason: Failure::WrongSecret,
    };
    assert_eq!(
        against_their_client("corp", "pencil"),
        Some(ServerStep::Success("corp".into()))
    );
    assert_eq!(against_their_client("corp", "pencils"), Some(wrong));
}
