//! The client's side of SCRAM.

use secrecy::{ExposeSecret, SecretString};

use super::{
    ITERATIONS_MAX, ITERATIONS_MIN, Key, exclusive_or, hashed, keyed,
    message::{self, ServerFirst, escape},
    remembered::RememberedKeys,
};
use crate::sasl::{
    ChannelBinding, ClientError, Unpreparable, base64, equal_in_constant_time, prepare,
};

/// What the client says about channel binding (RFC 5802 §6).
#[derive(Debug)]
pub(in crate::sasl) enum Binding {
    /// This connection has none.
    Unsupported,
    /// It has one, and the server does not offer `-PLUS`.
    NotOffered,
    /// `-PLUS`.
    Used(ChannelBinding),
}

/// One exchange.
#[derive(Debug)]
pub(in crate::sasl) struct Client {
    secret: SecretString,
    remembered: RememberedKeys,
    nonce: String,
    /// GS2 header and channel binding data.
    binding: Vec<u8>,
    /// `client-first-message-bare`.
    bare: String,
    state: State,
}

#[derive(Debug)]
enum State {
    First,
    Final {
        server_signature: Key,
    },
    /// The server has proven that it knows the verifier.
    Proven,
    Failed,
}

impl Client {
    /// An exchange, and the initial response.
    pub(in crate::sasl) fn new(
        user: &str,
        (secret, remembered): (&SecretString, &RememberedKeys),
        nonce: String,
        binding: &Binding,
    ) -> Result<(Self, Vec<u8>), Unpreparable> {
        let (header, data): (String, &[u8]) = match binding {
            Binding::Unsupported => ("n,,".into(), &[]),
            Binding::NotOffered => ("y,,".into(), &[]),
            Binding::Used(binding) => (format!("p={},,", binding.name()), binding.data()),
        };
        let bare = format!("n={},r={nonce}", escape(&prepare(user)?));
        let secret = SecretString::from(prepare(secret.expose_secret())?.as_str());
        let initial = format!("{header}{bare}").into_bytes();
        let binding = [header.as_bytes(), data].concat();
        Ok((
            Self {
                secret,
                remembered: remembered.clone(),
                nonce,
                binding,
                bare,
                state: State::First,
            },
            initial,
        ))
    }

    /// Takes a challenge, gives the response. Runs PBKDF2 for the first one, where the keys are not known yet.
    pub(in crate::sasl) fn step(&mut self, challenge: &[u8]) -> Result<Vec<u8>, ClientError> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::First => self.prove(challenge),
            State::Final { server_signature } => {
                let signature =
                    message::parse_server_final(challenge).ok_or(ClientError::Malformed)?;
                if !equal_in_constant_time(&signature, &server_signature) {
                    return Err(ClientError::ServerNotProven);
                }
                self.state = State::Proven;
                Ok(Vec::new())
            }
            State::Proven | State::Failed => Err(ClientError::Malformed),
        }
    }

    /// Whether the server may say that we are done: only after its own proof (RFC 5802 §5).
    pub(in crate::sasl) const fn is_complete(&self) -> bool {
        matches!(self.state, State::Proven)
    }

    fn prove(&mut self, challenge: &[u8]) -> Result<Vec<u8>, ClientError> {
        let server_first = ServerFirst::parse(challenge).ok_or(ClientError::Malformed)?;
        // Our nonce and something of the server's: else it is a replay of somebody else's exchange.
        let added = server_first.nonce.strip_prefix(&self.nonce);
        if added.is_none_or(str::is_empty) {
            return Err(ClientError::Malformed);
        }
        let iterations = server_first
            .iterations
            .filter(|number| (ITERATIONS_MIN..=ITERATIONS_MAX).contains(number));
        let iterations = iterations.ok_or(ClientError::Iterations)?;
        let secret = self.secret.expose_secret();
        let keys = self.remembered.keys(secret, &server_first.salt, iterations);
        let without_proof = format!(
            "c={},r={}",
            base64::encode(&self.binding),
            server_first.nonce
        );
        let server_first = std::str::from_utf8(challenge).map_err(|_| ClientError::Malformed)?;
        let signed = format!("{},{server_first},{without_proof}", self.bare);
        let client_signature = keyed(&hashed(keys.client_key.as_slice()), signed.as_bytes());
        let proof = exclusive_or(&keys.client_key, &client_signature);
        self.state = State::Final {
            server_signature: keyed(keys.server_key.as_slice(), signed.as_bytes()),
        };
        Ok(format!("{without_proof},p={}", base64::encode(&proof)).into_bytes())
    }
}
