//! The `[limits]` table: what one address may do before it is put off, and what all of them may take together.

use std::ops::RangeInclusive;
use std::time::Duration;

use atrn_shared::config::{Section, Value};
use ipnet::IpNet;

use super::read::network;

/// The `[limits]` table. An address is one of IPv4, or a /64 of IPv6: who has one address there has them all.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitsConfig {
    /// Networks that none of this applies to.
    pub exempt: Vec<IpNet>,
    /// Connections a minute from one address, on each of the listeners; zero: any number.
    pub connection_rate: u32,
    /// AUTH that failed, from one address within `window`, before it is banned; zero: never for this.
    pub auth_failures: u32,
    /// AUTH that failed for one account name, from anywhere within `window`, before the name is closed to addresses that never
    /// logged in to it; zero: never.
    pub account_failures: u32,
    /// How long a name stays closed.
    pub account_lock_time: Duration,
    /// How long the answer to AUTH that failed is held back at most, where an address failed again and again.
    pub auth_delay: Duration,
    /// Recipients that do not exist, from one address within `window`, before it is banned; zero: never for this. For
    /// lists of recipients; without one, every recipient in our domains is taken and this counts nothing.
    pub unknown_recipients: u32,
    /// Recipients in foreign domains, likewise.
    pub relay_attempts: u32,
    /// Commands that are no SMTP, or come where they make no sense, likewise.
    pub protocol_errors: u32,
    /// In what time offences add up.
    pub window: Duration,
    /// How long a ban lasts.
    pub ban_time: Duration,
    /// Commands of an SMTP session without a message that is taken, before it ends.
    pub max_commands: u32,
    /// How long an SMTP session may last without a message that is taken.
    pub max_idle_time: Duration,
    /// How long a transaction may take from MAIL to the end of its content.
    pub max_transaction_time: Duration,
    /// Memory for the content of all messages on their way in.
    pub memory: u64,
}

impl LimitsConfig {
    pub(super) fn read(root: &Section<'_>) -> Self {
        let section = root.section("limits");
        let default = Self::default();
        let count = |key, default| section.or(key, default, |value| value.integer(&COUNTS));
        let time = |key, default, range: &RangeInclusive<Duration>| {
            section.or(key, default, |value| value.duration(range))
        };
        Self {
            exempt: section.list_or("exempt", default.exempt, network),
            connection_rate: count("connection_rate", default.connection_rate),
            auth_failures: count("auth_failures", default.auth_failures),
            account_failures: count("account_failures", default.account_failures),
            account_lock_time: time("account_lock_time", default.account_lock_time, &WINDOWS),
            auth_delay: time("auth_delay", default.auth_delay, &DELAYS),
            unknown_recipients: count("unknown_recipients", default.unknown_recipients),
            relay_attempts: count("relay_attempts", default.relay_attempts),
            protocol_errors: count("protocol_errors", default.protocol_errors),
            window: time("window", default.window, &WINDOWS),
            ban_time: time("ban_time", default.ban_time, &WINDOWS),
            max_commands: section.or("max_commands", default.max_commands, |value| {
                value.integer(&(20..=1_000_000))
            }),
            max_idle_time: time("max_idle_time", default.max_idle_time, &SESSION_TIMES),
            max_transaction_time: time(
                "max_transaction_time",
                default.max_transaction_time,
                &SESSION_TIMES,
            ),
            memory: section.or("memory", default.memory, |value: Value<'_>| {
                value.size(&MEMORY)
            }),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            exempt: Vec::new(),
            connection_rate: 1_200,
            auth_failures: 20,
            account_failures: 50,
            account_lock_time: Duration::from_secs(600),
            auth_delay: Duration::from_secs(8),
            unknown_recipients: 300,
            relay_attempts: 100,
            protocol_errors: 100,
            window: Duration::from_secs(600),
            ban_time: Duration::from_secs(600),
            max_commands: 1_000,
            max_idle_time: Duration::from_secs(1_800),
            max_transaction_time: Duration::from_secs(3_600),
            memory: 256 << 20,
        }
    }
}

const COUNTS: RangeInclusive<u32> = 0..=1_000_000;
const WINDOWS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
/// Who has not logged in after a minute is sent away, and a delay must end before.
const DELAYS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30);
const SESSION_TIMES: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(86_400);
/// Less would not hold one large message.
const MEMORY: RangeInclusive<u64> = (1 << 20)..=(1 << 40);
