//! What AUTH needs of a connection, towards a relay and towards a target alike.

use atrn_shared::sasl::{ClientContext, NONCE_OCTETS};
use atrn_shared::wire::Wire;
use aws_lc_rs::rand;

/// The context of an exchange on this connection. `is_trusted`: a secret may be shown to the peer.
///
/// # Panics
/// When the system has no random numbers, without which nothing here is safe.
pub(crate) fn context(wire: &Wire, is_trusted: bool) -> ClientContext {
    let mut nonce = [0; NONCE_OCTETS];
    rand::fill(&mut nonce).expect("the system gives random numbers");
    ClientContext {
        tls: is_trusted,
        channel_binding: wire.channel_bindings().into_iter().next(),
        nonce,
    }
}
