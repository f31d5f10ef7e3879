//! What one address may do, what all may take together, and who is put off for a while: one `Limits` for the whole
//! process, which every listener asks.
//!
//! What a command or a reply means is decided elsewhere. A driver says what somebody did wrong, with
//! `Limits::offence`; here it adds up, and may end in a ban. Networks that are exempt meet none of it.

mod addresses;
mod bans;
mod greylist;
mod memory;
mod rates;
mod status;
mod stress;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use atrn_shared::config::Live;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub(crate) use addresses::{Origin, is_within};
pub(crate) use greylist::{Attempt, Greylist};
pub(crate) use memory::{Exhausted, Share};
pub use status::{BanStatus, LimitsStatus};
pub(crate) use stress::{Stress, Watcher};

use self::bans::Bans;
use self::memory::Memory;
use self::rates::{Meter, Rate};
use crate::config::LimitsConfig;

/// Who was quiet is forgotten this often.
const TIDIED_EVERY: Duration = Duration::from_secs(30);

/// Stress ends although nobody comes or goes.
const STRESS_LOOKED_AT: Duration = Duration::from_secs(1);

/// Something that honest peers do seldom.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Offence {
    /// AUTH with a wrong name or secret.
    AuthFailed,
    /// Not the protocol: another one, garbage, or commands out of order.
    Protocol,
    /// A recipient in a domain that is not ours.
    Relaying,
    /// A recipient in one of our domains that does not exist. No driver says so: which exist is not known here.
    UnknownRecipient,
}

impl Offence {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [
        Self::AuthFailed,
        Self::Protocol,
        Self::Relaying,
        Self::UnknownRecipient,
    ];

    /// Whether others can make an honest server do it: who points the MX of a domain here makes every server that has
    /// mail for it ask for a foreign recipient.
    pub(super) fn can_be_provoked(self) -> bool {
        self != Self::AuthFailed
    }

    /// For people, and for a monitor.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AuthFailed => "auth_failed",
            Self::Protocol => "protocol",
            Self::Relaying => "relaying",
            Self::UnknownRecipient => "unknown_recipient",
        }
    }
}

/// What an offence led to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Consequence {
    /// From now on the address is banned: the session should end with 421.
    Banned,
    /// It adds up.
    Noted,
}

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Denial {
    /// There are as many connections as there may be.
    AllTaken,
    /// The address is banned.
    Banned,
    /// The settings have other networks.
    NotAllowed,
    /// There are as many connections from there as there may be.
    TooManyFromHere,
    /// It connects too often.
    TooOften,
}

impl Denial {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [
        Self::AllTaken,
        Self::Banned,
        Self::NotAllowed,
        Self::TooManyFromHere,
        Self::TooOften,
    ];

    /// For people, and for a monitor.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AllTaken => "all_taken",
            Self::Banned => "banned",
            Self::NotAllowed => "not_allowed",
            Self::TooManyFromHere => "too_many_from_address",
            Self::TooOften => "too_often",
        }
    }
}

/// Which listener it is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    /// The Internet side.
    Smtp,
    /// The pullers' side, where who proved to be one cannot be banned.
    Odmr,
    /// The monitors' side.
    Metrics,
}

impl Side {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Smtp => "edge",
            Self::Odmr => "odmr",
            Self::Metrics => "metrics",
        }
    }
}

/// The limits of the process. Clones are handles of the same.
#[derive(Clone, Debug)]
pub(crate) struct Limits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Live<LimitsConfig>,
    connections: [Meter; 3],
    offences: [Meter; 4],
    offended: [AtomicU64; 4],
    denied: [AtomicU64; 5],
    bans: Bans,
    memory: Memory,
    stress: [Stress; 3],
}

impl Limits {
    /// With nothing counted yet.
    pub(crate) fn new(config: LimitsConfig) -> Self {
        let memory = Memory::new(config.memory);
        Self(Arc::new(Inner {
            config: Live::new(config),
            connections: Default::default(),
            offences: Default::default(),
            offended: Default::default(),
            denied: Default::default(),
            bans: Bans::new(),
            memory,
            stress: [Side::Smtp, Side::Odmr, Side::Metrics].map(|side| Stress::new(side.name())),
        }))
    }

    /// New settings. What is counted under settings that did not change goes on.
    pub(crate) fn configure(&self, config: LimitsConfig) {
        self.0.memory.set_limit(config.memory);
        self.0.config.store(config);
    }

    /// The settings in force.
    pub(crate) fn config(&self) -> Arc<LimitsConfig> {
        self.0.config.load()
    }

    /// Whether nothing here applies to an address.
    pub(crate) fn is_exempt(&self, address: IpAddr) -> bool {
        is_within(&self.0.config.load().exempt, address)
    }

    /// Notes a connection.
    ///
    /// # Errors
    /// Why it is not let in.
    pub(crate) fn connected(&self, side: Side, address: IpAddr) -> Result<(), Denial> {
        let config = self.0.config.load();
        if is_within(&config.exempt, address) {
            return Ok(());
        }
        let origin = Origin::of(address);
        let denial = if self.is_shut_out(side, origin) {
            Denial::Banned
        } else {
            let rate = Rate {
                count: config.connection_rate,
                within: Duration::from_secs(60),
            };
            if self.0.connections[side as usize].allows(origin, rate) {
                return Ok(());
            }
            Denial::TooOften
        };
        self.denied(denial);
        Err(denial)
    }

    /// Counts a connection that was not let in.
    pub(crate) fn denied(&self, denial: Denial) {
        self.0.denied[denial as usize].fetch_add(1, Relaxed);
    }

    fn times_denied(&self, denial: Denial) -> u64 {
        self.0.denied[denial as usize].load(Relaxed)
    }

    fn times_offended(&self, offence: Offence) -> u64 {
        self.0.offended[offence as usize].load(Relaxed)
    }

    /// Notes that somebody did something that honest peers do seldom.
    pub(crate) fn offence(&self, address: IpAddr, offence: Offence) -> Consequence {
        self.0.offended[offence as usize].fetch_add(1, Relaxed);
        let config = self.0.config.load();
        if is_within(&config.exempt, address) {
            return Consequence::Noted;
        }
        let origin = Origin::of(address);
        let rate = Rate {
            count: allowance(&config, offence),
            within: config.window,
        };
        if self.0.offences[offence as usize].allows(origin, rate)
            || offence.can_be_provoked() && self.0.bans.has_delivered(origin)
        {
            return Consequence::Noted;
        }
        if self.0.bans.ban(origin, offence, config.ban_time) {
            warn!(%origin, reason = offence.name(), time = ?config.ban_time, "banned for a while");
        }
        Consequence::Banned
    }

    /// Whether an address is banned at this moment.
    pub(crate) fn is_banned(&self, address: IpAddr) -> bool {
        !self.is_exempt(address) && self.0.bans.find(Origin::of(address)).is_some()
    }

    /// Somebody at this address proved to be a puller: the pullers' side stays open to it, whatever its neighbours do.
    pub(crate) fn authenticated(&self, address: IpAddr) {
        self.0.bans.prove(Origin::of(address));
    }

    /// Mail from this address was accepted. For some hours nothing bans it that others can make it do, as whoever sends
    /// mail for everybody can be made to bring some that is none of ours. What is wrong is still refused each time.
    pub(crate) fn delivered(&self, address: IpAddr) {
        if !self.is_exempt(address) {
            self.0.bans.delivered(Origin::of(address));
        }
    }

    /// Of the memory for content on its way, what one message of this address will take.
    pub(crate) fn share(&self, address: IpAddr) -> Share {
        let origin = (!self.is_exempt(address)).then(|| Origin::of(address));
        self.0.memory.share(origin)
    }

    fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// The stress of a listener.
    pub(crate) fn stress(&self, side: Side) -> &Stress {
        &self.0.stress[side as usize]
    }

    /// Forgets in good time, until the shutdown.
    pub(crate) async fn tidy(self, shutdown: CancellationToken) {
        let mut every = tokio::time::interval(TIDIED_EVERY);
        let mut often = tokio::time::interval(STRESS_LOOKED_AT);
        loop {
            tokio::select! {
                _ = every.tick() => {}
                _ = often.tick() => {
                    let (taken, most) = self.memory().fill();
                    self.stress(Side::Smtp).note_content(taken, most);
                    self.0.stress.iter().for_each(Stress::look_again);
                    continue;
                }
                () = shutdown.cancelled() => return,
            }
            let inner = &*self.0;
            for meter in inner.connections.iter().chain(&inner.offences) {
                meter.tidy();
            }
            inner.bans.tidy();
        }
    }

    fn is_shut_out(&self, side: Side, origin: Origin) -> bool {
        let may_pass = side == Side::Odmr && self.0.bans.is_proven(origin);
        !may_pass && self.0.bans.find(origin).is_some()
    }
}

fn allowance(config: &LimitsConfig, offence: Offence) -> u32 {
    match offence {
        Offence::AuthFailed => config.auth_failures,
        Offence::Protocol => config.protocol_errors,
        Offence::Relaying => config.relay_attempts,
        Offence::UnknownRecipient => config.unknown_recipients,
    }
}
