//! What becomes of the verdicts of SPF, DKIM and DMARC on mail for a domain.

/// The `authentication` key of a `[[domain]]`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Authentication {
    /// Mail is taken, and says at its top what was found.
    #[default]
    Annotate,
    /// As well, and what its sender's domain disowns is refused.
    Enforce,
    /// Nothing is looked up.
    Off,
}

impl Authentication {
    /// With the words in the file, in the order in which they are named to people.
    pub const WORDS: [(&str, Self); 3] = [
        ("annotate", Self::Annotate),
        ("enforce", Self::Enforce),
        ("off", Self::Off),
    ];
}
