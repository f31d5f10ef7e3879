//! The client's side: which mechanism, and its steps.

use secrecy::SecretString;

use super::{
    ChannelBinding, Mechanism, Nonce, Unpreparable, base64, cram_md5, plain,
    scram::{self, Binding, RememberedKeys},
};

/// Who we are, and how far we go to prove it.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// The account.
    pub credentials: ClientCredentials,
    /// No mechanism weaker than this is ever used, whatever the server offers.
    pub weakest: Mechanism,
}

/// What we can prove ourselves with. Either part, or both.
#[derive(Clone, Debug)]
pub struct ClientCredentials {
    /// Name of the account.
    pub user: String,
    /// Its secret.
    pub secret: Option<SecretString>,
    /// What SCRAM made of that secret before.
    pub remembered: RememberedKeys,
    /// Whether the TLS session was made with our certificate.
    pub certificate: bool,
}

/// What the exchange depends on besides the credentials.
#[derive(Clone, Debug)]
pub struct ClientContext {
    /// Whether the connection is encrypted and its peer verified.
    pub tls: bool,
    /// The channel binding of this TLS session.
    pub channel_binding: Option<ChannelBinding>,
    /// Fresh randomness.
    pub nonce: Nonce,
}

/// The client cannot, or will not, go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// A user name or secret of ours is not fit for use.
    #[error("the account name or the secret is {0}")]
    Credentials(#[from] Unpreparable),
    /// The server wants a number of iterations that is unsafe or absurd.
    #[error("the server asks for a SCRAM iteration count outside 4096 to 1000000")]
    Iterations,
    /// The server's message is not one of the mechanism.
    #[error("the server sent a malformed challenge")]
    Malformed,
    /// Nothing that the server offers is strong enough and possible.
    #[error("the server offers no authentication mechanism that the settings allow")]
    NoMechanism,
    /// The server does not know the secret: not our server, whatever its certificate says.
    #[error("the server did not prove that it knows the account")]
    ServerNotProven,
}

/// The client's side of one exchange.
#[derive(Debug)]
pub struct Client {
    mechanism: Mechanism,
    initial: Option<Vec<u8>>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// All was said with the initial response.
    Spoken,
    CramMd5 {
        user: String,
        secret: SecretString,
    },
    /// The response to the only challenge was given.
    Responded,
    Scram(scram::Client),
}

impl Client {
    /// Begins with the strongest mechanism that is offered, possible and allowed.
    ///
    /// # Errors
    /// There is none, or the credentials cannot be used.
    pub fn choose(
        offered: &[Mechanism],
        settings: &ClientSettings,
        context: &ClientContext,
    ) -> Result<Self, ClientError> {
        let mechanism = Mechanism::ALL
            .into_iter()
            .filter(|mechanism| *mechanism <= settings.weakest && offered.contains(mechanism))
            .find(|mechanism| is_possible(*mechanism, &settings.credentials, context))
            .ok_or(ClientError::NoMechanism)?;
        Self::start(mechanism, &settings.credentials, context)
    }

    /// The mechanism in use.
    #[must_use]
    pub const fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// The initial response, for mechanisms in which the client speaks first. It may be empty.
    #[must_use]
    pub fn initial_response(&self) -> Option<&[u8]> {
        self.initial.as_deref()
    }

    /// Takes a challenge and gives the response. SCRAM runs PBKDF2 here: call it off the runtime.
    ///
    /// # Errors
    /// The challenge is not acceptable; the exchange must be cancelled.
    pub fn step(&mut self, challenge: &[u8]) -> Result<Vec<u8>, ClientError> {
        match std::mem::replace(&mut self.state, State::Responded) {
            State::CramMd5 { user, secret } => {
                Ok(cram_md5::respond(&user, &secret, challenge).into_bytes())
            }
            State::Scram(mut exchange) => {
                let response = exchange.step(challenge);
                self.state = State::Scram(exchange);
                response
            }
            State::Spoken | State::Responded => Err(ClientError::Malformed),
        }
    }

    /// Whether a positive answer of the server may be believed now: SCRAM needs the server's proof first.
    #[must_use]
    pub const fn may_succeed(&self) -> bool {
        match &self.state {
            State::Spoken | State::Responded => true,
            State::CramMd5 { .. } => false,
            State::Scram(exchange) => exchange.is_complete(),
        }
    }

    fn start(
        mechanism: Mechanism,
        credentials: &ClientCredentials,
        context: &ClientContext,
    ) -> Result<Self, ClientError> {
        let user = &credentials.user;
        let secret = credentials.secret.clone().unwrap_or_default();
        let (state, initial) = match mechanism {
            Mechanism::External => (State::Spoken, Some(Vec::new())),
            Mechanism::ScramSha256Plus | Mechanism::ScramSha256 => {
                let (exchange, initial) = scram::Client::new(
                    user,
                    (&secret, &credentials.remembered),
                    base64::encode_unpadded(&context.nonce),
                    &binding(mechanism, context),
                )?;
                (State::Scram(exchange), Some(initial))
            }
            Mechanism::CramMd5 => (
                State::CramMd5 {
                    user: user.clone(),
                    secret,
                },
                None,
            ),
            Mechanism::Plain => (State::Spoken, Some(plain::message(user, &secret)?)),
        };
        Ok(Self {
            mechanism,
            initial,
            state,
        })
    }
}

/// Whether we have what the mechanism needs, and may show it on this connection.
fn is_possible(
    mechanism: Mechanism,
    credentials: &ClientCredentials,
    context: &ClientContext,
) -> bool {
    match mechanism {
        Mechanism::External => context.tls && credentials.certificate,
        Mechanism::ScramSha256Plus => {
            credentials.secret.is_some() && context.channel_binding.is_some()
        }
        Mechanism::ScramSha256 | Mechanism::CramMd5 => credentials.secret.is_some(),
        // RFC 4616 §6: never in clear.
        Mechanism::Plain => credentials.secret.is_some() && context.tls,
    }
}

fn binding(mechanism: Mechanism, context: &ClientContext) -> Binding {
    match (&context.channel_binding, mechanism) {
        (Some(binding), Mechanism::ScramSha256Plus) => Binding::Used(binding.clone()),
        (Some(_), _) => Binding::NotOffered,
        (None, _) => Binding::Unsupported,
    }
}
