//! The filter of forged fields as one function of octets, for the fuzz target.

use atrn_shared::smtp::address::Domain;

use super::forged::Forged;

/// What the filter left of content.
#[derive(Debug, Eq, PartialEq)]
pub struct Filtered {
    /// What stays.
    pub octets: Vec<u8>,
    /// Fields that do not.
    pub removed: usize,
}

/// Passes content in these pieces, for a relay that calls itself `mx.example`.
pub fn without_forged_results<'p>(pieces: impl Iterator<Item = &'p [u8]>) -> Filtered {
    let hostname = Domain::parse("mx.example").expect("a domain");
    let mut filter = Forged::new(hostname);
    let mut octets = Vec::new();
    for piece in pieces {
        let behind = filter.pass(piece, &mut octets);
        octets.extend_from_slice(behind);
    }
    if !filter.is_over() {
        filter.finish(&mut octets);
    }
    Filtered {
        octets,
        removed: filter.removed(),
    }
}
