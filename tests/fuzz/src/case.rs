//! An input as most targets read it.

/// What parts the flights of one party: it is sent when all that came before is answered. A control octet that no line
/// and no content needs, so nothing is lost by it.
const FLIGHT: u8 = 0x1f;

/// One input: `<options> <three octets of seed> <the peer's octets>`. A seed that people write begins with four letters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case<'d> {
    options: u8,
    seed: u64,
    pub(crate) octets: &'d [u8],
}

impl<'d> Case<'d> {
    /// `None` when it is too short to be one.
    pub(crate) fn read(data: &'d [u8]) -> Option<Self> {
        let [options, one, two, three, octets @ ..] = data else {
            return None;
        };
        Some(Self {
            options: *options,
            seed: u64::from_be_bytes([0, 0, 0, 0, 0, *one, *two, *three]),
            octets,
        })
    }

    /// One of eight switches.
    pub(crate) fn option(&self, bit: u8) -> bool {
        self.options >> bit & 1 == 1
    }

    /// All eight as a number.
    pub(crate) fn options(&self) -> u8 {
        self.options
    }

    /// Choices that are the same each time. `purpose` keeps those of one kind from shifting those of another.
    pub(crate) fn choices(&self, purpose: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed << 8 | purpose)
    }

    /// The octets between the marks.
    pub(crate) fn flights(&self) -> impl Iterator<Item = &'d [u8]> + use<'d> {
        self.octets.split(|octet| *octet == FLIGHT)
    }
}

/// Where a flight is cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cuts {
    /// Nowhere.
    None,
    /// Anywhere, octet by octet included.
    Anywhere,
    /// Anywhere but behind a line feed: what is not alone in the whole flight is not alone in its piece either.
    InsideLines,
}

/// A flight in pieces. Each is at least one octet; an empty flight has none.
pub(crate) fn pieces(
    mut flight: &[u8],
    cuts: Cuts,
    mut choices: fastrand::Rng,
) -> impl Iterator<Item = &[u8]> {
    // Octet by octet, in small pieces or in large ones: each finds other faults.
    let longest = [1, 3, 17, 200][choices.usize(..4)];
    std::iter::from_fn(move || {
        if flight.is_empty() {
            return None;
        }
        let mut end = match cuts {
            Cuts::None => flight.len(),
            Cuts::Anywhere | Cuts::InsideLines => choices.usize(1..=longest).min(flight.len()),
        };
        while cuts == Cuts::InsideLines && end < flight.len() && flight[end - 1] == b'\n' {
            end += 1;
        }
        let (piece, rest) = flight.split_at(end);
        flight = rest;
        Some(piece)
    })
}
