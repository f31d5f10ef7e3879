//! AUTH for an account that exists, with a wrong secret, beside one that does not: from outside nobody can tell them apart.
//!
//! Both are tried in turns, on the same connections, each as often first as last. The two-sample test is that of Mann and
//! Whitney: it asks whether one of the two tends to take longer, whatever the shape of the distributions.

use std::time::{Duration, Instant};

use anyhow::Result;
use atrn_tests::certs;
use atrn_tests::peer::{Peer, cram_md5, plain};
use atrn_tests::world::{ACCOUNT, PULLER_NAME, World};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::figures::{Measured, Row, Samples, Unit, Wanted};
use crate::party::{DOMAIN, Plan};

/// As long as the one that exists.
const UNKNOWN: &str = "pork";
/// Not the secret of anybody.
const WRONG: &str = "0123456789012345678901234567890123456789";
/// In so many standard deviations: by chance, beyond that once in 370 runs.
const SCORE_MAX: f64 = 3.0;

#[derive(Clone, Copy)]
enum Mechanism {
    CramMd5,
    Plain,
    Scram,
}

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let world = plan.relay("smtp://127.0.0.1:9", &[DOMAIN]);
    let tries = plan.amount(1_000, 200);
    let mechanisms = [Mechanism::Plain, Mechanism::Scram, Mechanism::CramMd5];
    let rows: Vec<Row> = mechanisms
        .into_iter()
        .flat_map(|mechanism| mechanism.rows(&world, tries))
        .collect();
    Ok(rows.into())
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Self::CramMd5 => "CRAM-MD5",
            Self::Plain => "PLAIN",
            Self::Scram => "SCRAM-SHA-256",
        }
    }

    fn rows(self, world: &World, tries: usize) -> [Row; 2] {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for number in 0..tries {
            let mut peer = Peer::connect_tls(world.relay.odmr_address(), &certs::trusting_client());
            peer.expect("220 ");
            peer.ehlo(PULLER_NAME);
            if number % 2 == 0 {
                known.push(self.time(&mut peer, ACCOUNT));
                unknown.push(self.time(&mut peer, UNKNOWN));
            } else {
                unknown.push(self.time(&mut peer, UNKNOWN));
                known.push(self.time(&mut peer, ACCOUNT));
            }
        }
        let score = mann_whitney(&known, &unknown);
        let name = self.name();
        let samples = |times: Vec<f64>| times.into_iter().collect::<Samples>();
        [
            Row::new(
                format!("AUTH {name}, wrong secret of an account"),
                Unit::Micros,
                samples(known),
            )
            .beside("no such account", samples(unknown))
            .note(format!("medians of {tries} tries each, in turns, over TLS")),
            Row::new(
                format!("AUTH {name}: how far the two are apart"),
                Unit::Deviations,
                [score.abs()].into_iter().collect(),
            )
            .wanted(Wanted::AtMost(SCORE_MAX))
            .note(format!(
                "Mann-Whitney U of {tries} against {tries}: z = {score:.2}"
            )),
        ]
    }

    /// Microseconds that the relay takes to say no.
    fn time(self, peer: &mut Peer, name: &str) -> f64 {
        let took = match self {
            Self::Plain => timed(peer, &format!("AUTH PLAIN {}", plain(name, WRONG)), "535 ").0,
            Self::CramMd5 => {
                let (first, challenge) = timed(peer, "AUTH CRAM-MD5", "334 ");
                let response = cram_md5(&challenge[4..], name, WRONG);
                first + timed(peer, &response, "535 ").0
            }
            Self::Scram => {
                let first = BASE64.encode(format!("n,,n={name},r=abcdefghijklmnopqrstuvwx"));
                let (took, challenge) = timed(peer, &format!("AUTH SCRAM-SHA-256 {first}"), "334 ");
                let challenge = BASE64.decode(&challenge[4..]).unwrap_or_default();
                let challenge = String::from_utf8_lossy(&challenge).into_owned();
                let nonce = challenge.split(',').next().unwrap_or_default();
                let proof = BASE64.encode([7; 32]);
                let last = BASE64.encode(format!("c=biws,{nonce},p={proof}"));
                took + timed(peer, &last, "535 ").0
            }
        };
        took.as_secs_f64() * 1e6
    }
}

fn timed(peer: &mut Peer, line: &str, expected: &str) -> (Duration, String) {
    let began = Instant::now();
    let reply = peer.ask(line, expected);
    (began.elapsed(), reply)
}

/// The statistic of Mann and Whitney in standard deviations from what chance would give: positive where the first take
/// longer. Its distribution is normal from some twenty samples on.
fn mann_whitney(first: &[f64], second: &[f64]) -> f64 {
    let (n, m) = (first.len() as f64, second.len() as f64);
    let mut all: Vec<(f64, bool)> = first.iter().map(|figure| (*figure, true)).collect();
    all.extend(second.iter().map(|figure| (*figure, false)));
    all.sort_by(|left, right| left.0.total_cmp(&right.0));
    let mut rank = 1.0;
    let mut ranks_of_first = 0.0;
    for tied in all.chunk_by(|left, right| left.0 == right.0) {
        let count = tied.len() as f64;
        // Equal figures share the mean of their ranks.
        let shared = rank + (count - 1.0) / 2.0;
        let firsts = tied.iter().filter(|(_, is_first)| *is_first).count();
        ranks_of_first += shared * firsts as f64;
        rank += count;
    }
    let u = ranks_of_first - n * (n + 1.0) / 2.0;
    (u - n * m / 2.0) / (n * m * (n + m + 1.0) / 12.0).sqrt()
}
