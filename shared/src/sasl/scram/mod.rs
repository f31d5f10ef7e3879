//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677): the parts that both sides share.

mod client;
mod message;
mod remembered;
mod server;
mod verifier;

use aws_lc_rs::{digest, hmac};

pub(super) use client::{Binding, Client};
pub use remembered::RememberedKeys;
pub(super) use server::{Channel, Server, first_user};
pub(super) use verifier::SALT_OCTETS;
pub use verifier::{InvalidVerifier, ScramVerifier};

/// Octets of a SHA-256 digest, and so of every key and signature here.
const KEY_OCTETS: usize = 32;

type Key = [u8; KEY_OCTETS];

/// Fewer than this RFC 7677 §4 does not allow.
const ITERATIONS_MIN: u32 = 4_096;

/// More than this is not protection but a way to keep the other end busy (conformance R5802-1).
const ITERATIONS_MAX: u32 = 1_000_000;

/// `HMAC(key, text)`.
fn keyed(key: &[u8], text: &[u8]) -> Key {
    octets(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref())
}

/// `H(text)`.
fn hashed(text: &[u8]) -> Key {
    octets(digest::digest(&digest::SHA256, text).as_ref())
}

fn exclusive_or(left: &Key, right: &Key) -> Key {
    std::array::from_fn(|index| left[index] ^ right[index])
}

fn octets(digest: &[u8]) -> Key {
    digest.try_into().expect("SHA-256 has 32 octets")
}

#[cfg(test)]
mod tests;
