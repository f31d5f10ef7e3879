//! The server's side of SCRAM.

use super::{
    Key, exclusive_or, keyed,
    message::{BindingFlag, ClientFinal, ClientFirst},
};
use crate::sasl::{
    Failure, ScramVerifier, base64, equal_in_constant_time, prepare,
    server::{Credentials, Found, ServerContext, ServerStep, verifier_of},
};

/// Whether `-PLUS` was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sasl) enum Channel {
    Bound,
    Unbound,
}

/// One exchange.
#[derive(Debug)]
pub(in crate::sasl) struct Server {
    channel: Channel,
    nonce: String,
    state: State,
}

#[derive(Debug)]
enum State {
    First,
    Final(Box<Pending>),
    /// The signature was sent; the client agrees with an empty response (RFC 4954 §4).
    Agreement(String),
    Over,
}

/// What the first message settled.
#[derive(Debug)]
struct Pending {
    user: String,
    known: bool,
    verifier: ScramVerifier,
    /// GS2 header and channel binding data, as the client must repeat them.
    binding: Vec<u8>,
    nonce: String,
    /// `client-first-message-bare "," server-first-message`.
    signed: String,
}

/// The user that a client's first message names, prepared as for the check.
pub(in crate::sasl) fn first_user(response: &[u8]) -> Option<String> {
    let message = ClientFirst::parse(response)?;
    Some(prepare(&message.user).ok()?.to_string())
}

impl Server {
    /// An exchange with our part of the nonce.
    pub(in crate::sasl) const fn new(channel: Channel, nonce: String) -> Self {
        Self {
            channel,
            nonce,
            state: State::First,
        }
    }

    /// The user that the exchange is about once this message has come.
    pub(in crate::sasl) fn user(&self, response: &[u8]) -> Option<String> {
        match &self.state {
            State::First => first_user(response),
            State::Final(pending) => Some(pending.user.clone()),
            State::Agreement(user) => Some(user.clone()),
            State::Over => None,
        }
    }

    pub(in crate::sasl) fn step(
        &mut self,
        response: &[u8],
        context: &ServerContext,
        credentials: &dyn Credentials,
    ) -> ServerStep {
        match std::mem::replace(&mut self.state, State::Over) {
            State::First => self
                .first(response, context, credentials)
                .unwrap_or_else(|step| step),
            State::Final(pending) => self.last(response, &pending),
            State::Agreement(user) if response.is_empty() => ServerStep::Success(user),
            State::Agreement(user) => ServerStep::failure(Some(user), Failure::Malformed),
            State::Over => ServerStep::failure(None, Failure::Malformed),
        }
    }

    fn first(
        &mut self,
        response: &[u8],
        context: &ServerContext,
        credentials: &dyn Credentials,
    ) -> Result<ServerStep, ServerStep> {
        let malformed = || ServerStep::failure(None, Failure::Malformed);
        let message = ClientFirst::parse(response).ok_or_else(malformed)?;
        let user = prepare(&message.user).map_err(|_| malformed())?.to_string();
        if message
            .authorization
            .as_ref()
            .is_some_and(|other| *other != user)
        {
            return Err(ServerStep::failure(Some(user), Failure::Impersonation));
        }
        let Some(data) = self.binding_data(message.flag, context) else {
            return Err(ServerStep::failure(Some(user), Failure::ChannelBinding));
        };
        let Found { verifier, known } = verifier_of(&user, credentials)?;
        let nonce = format!("{}{}", message.nonce, self.nonce);
        let challenge = format!(
            "r={nonce},s={},i={}",
            base64::encode(verifier.salt()),
            verifier.iterations()
        );
        let binding = [message.gs2_header.as_bytes(), data].concat();
        let signed = format!("{},{challenge}", message.bare);
        self.state = State::Final(Box::new(Pending {
            user,
            known,
            verifier,
            binding,
            nonce,
            signed,
        }));
        Ok(ServerStep::Challenge(challenge.into_bytes()))
    }

    /// The binding data the client must show, if its flag fits the mechanism (RFC 5802 §6).
    fn binding_data<'a>(
        &self,
        flag: BindingFlag<'_>,
        context: &'a ServerContext,
    ) -> Option<&'a [u8]> {
        match (self.channel, flag) {
            (Channel::Bound, BindingFlag::Used(name)) => context
                .channel_bindings
                .iter()
                .find(|binding| binding.name() == name)
                .map(|binding| binding.data()),
            (Channel::Unbound, BindingFlag::Unsupported) => Some(&[]),
            // It says that we do not offer -PLUS. If we do, somebody cut it out of the list on the way.
            (Channel::Unbound, BindingFlag::NotOffered) if !context.plus_offered => Some(&[]),
            _ => None,
        }
    }

    fn last(&mut self, response: &[u8], pending: &Pending) -> ServerStep {
        let refuse = |reason| ServerStep::failure(Some(pending.user.clone()), reason);
        let Some(message) = ClientFinal::parse(response) else {
            return refuse(Failure::Malformed);
        };
        if !equal_in_constant_time(message.nonce.as_bytes(), pending.nonce.as_bytes()) {
            return refuse(Failure::Malformed);
        }
        if !equal_in_constant_time(&message.binding, &pending.binding) {
            return refuse(Failure::ChannelBinding);
        }
        let Ok(proof) = Key::try_from(message.proof) else {
            return refuse(Failure::Malformed);
        };
        let signed = format!("{},{}", pending.signed, message.without_proof);
        let client_signature = keyed(pending.verifier.stored_key(), signed.as_bytes());
        let proven = pending
            .verifier
            .is_client_key(&exclusive_or(&proof, &client_signature));
        match (pending.known, proven) {
            (true, true) => {
                let signature =
                    base64::encode(&keyed(pending.verifier.server_key(), signed.as_bytes()));
                self.state = State::Agreement(pending.user.clone());
                ServerStep::Challenge(format!("v={signature}").into_bytes())
            }
            (true, false) => refuse(Failure::WrongSecret),
            (false, _) => refuse(Failure::UnknownUser),
        }
    }
}
