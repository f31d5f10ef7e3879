//! How the asking can end, and on what.

use crate::sasl::ClientError;
use crate::smtp::reply::{Reply, ReplyError};

/// How the asking ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// 235, and nothing more was wanted: see [`Customer::only_authenticate`](super::Customer::only_authenticate).
    Authenticated,
    /// 250: we are the server now, and greet at once (R2645-18).
    Turned,
    /// 453: a good end.
    NoMail,
    /// 421, 451 and other 4yz: ask again, with back-off.
    Later(Reply),
    /// 450, 530 and other 5yz: somebody must look at it.
    Refused(Reply),
    /// The peer is no provider that we can use; its words, if it said so.
    NotOffered(Missing, Option<Reply>),
    /// The peer refused our proof.
    AuthRefused(Reply),
    /// We do not go on with the proof.
    AuthFailed(ClientError),
    /// The peer breaks the protocol.
    Protocol(Fault),
    /// The connection ended before it was decided.
    Lost(Awaited),
}

/// What a provider must offer and did not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Missing {
    /// EHLO itself.
    Ehlo,
    /// STARTTLS, which our settings want.
    StartTls,
    /// AUTH.
    Auth,
    /// ATRN.
    Atrn,
}

/// How a peer broke the protocol.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// Not a reply.
    #[error("the relay sent {0}")]
    Reply(#[from] ReplyError),
    /// A reply that does not fit the command.
    #[error("the relay answered {awaited:?} with \"{reply}\"")]
    Unexpected {
        /// What was due.
        awaited: Awaited,
        /// What came.
        reply: Reply,
    },
    /// Octets behind a reply before our next command.
    #[error("the relay spoke before its turn")]
    Unsolicited,
}

/// The reply that is due next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Awaited {
    /// The greeting.
    Greeting,
    /// The reply to EHLO.
    Ehlo,
    /// The reply to STARTTLS.
    StartTls,
    /// The reply to AUTH or to a response.
    Auth,
    /// The reply to ATRN: wait at least [`crate::odmr::ATRN_TIMEOUT_MIN`].
    Atrn,
    /// The reply to QUIT: a courtesy, worth a few seconds.
    Quit,
}
