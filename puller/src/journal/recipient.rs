//! A recipient as the journal keeps it: not the address, which is a relay's to choose and up to 254 octets long, but a
//! hash of it. So what a relay can make us store of a delivery is small.

use std::collections::BTreeSet;

use atrn_shared::smtp::address::ForwardPath;
use aws_lc_rs::digest;

const OCTETS: usize = 16;

/// The beginning of the SHA-256 of a forward-path. Nobody finds two with the same one.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Recipient([u8; OCTETS]);

impl Recipient {
    /// The relay writes it the same way each time, for it prints what it stored.
    pub(super) fn of(path: &ForwardPath) -> Self {
        let digest = digest::digest(&digest::SHA256, path.to_string().as_bytes());
        Self(digest.as_ref().first_chunk().copied().unwrap_or_default())
    }
}

/// One behind the other.
pub(super) fn written(recipients: &BTreeSet<Recipient>) -> Vec<u8> {
    recipients
        .iter()
        .flat_map(|recipient| recipient.0)
        .collect()
}

/// `None`: it was never written like that.
pub(super) fn read(octets: &[u8]) -> Option<BTreeSet<Recipient>> {
    let (recipients, rest) = octets.as_chunks::<OCTETS>();
    let read = || recipients.iter().copied().map(Recipient).collect();
    rest.is_empty().then(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again_and_nothing_else() {
        let path = |address| ForwardPath::from_address(address).unwrap();
        let paths = ["ann@example.org", "Ann@example.org", "ann@example.com"].map(path);
        let recipients: BTreeSet<_> = paths.iter().map(Recipient::of).collect();
        let octets = written(&recipients);
        assert_eq!(octets.len(), 3 * OCTETS);
        assert_eq!(read(&octets), Some(recipients));
        assert_eq!(read(&octets[1..]), None);
    }
}
