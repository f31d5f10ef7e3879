//! `check`: tries everything that a pull needs, one thing after the other, and pulls nothing.

use std::fs;
use std::time::{Duration, SystemTime};

use atrn_shared::cli::{Common, ExitCode, Failure, Table, age, size};
use atrn_shared::odmr::customer;
use atrn_shared::smtp::extension::Extensions;
use atrn_shared::wire::Wire;
use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{chosen, load, runtime};
use crate::config::{Mode, PullerConfig, RelayConfig, RelayTls, Target};
use crate::dial::{self, resolve};
use crate::handover::Handover;
use crate::journal::Journal;
use crate::outcome::Outcome;
use crate::reports::{Reports, Traffic};
use crate::sandbox;
use crate::session::{Asked, Pull, Purpose};
use crate::status::StatusFiles;

/// Check clock, data_dir, journal, name, TCP, TLS and pin, EHLO keywords, AUTH and hand-over target; pulls nothing
///
/// Example: atrn-puller check mx1
#[derive(Args, Debug)]
pub(super) struct CheckCommand {
    /// The relays, by their names; all of them when none is named.
    relays: Vec<String>,
}

/// One thing that was tried.
#[derive(Serialize)]
struct Line {
    /// What it belongs to: a relay's name, or `handover`, `reports` or `system`.
    of: String,
    check: &'static str,
    ok: bool,
    detail: String,
    #[serde(skip)]
    code: ExitCode,
}

/// The lines about one relay, until the first thing that fails: what comes behind it could not be tried.
struct Lines<'r> {
    relay: &'r RelayConfig,
    lines: Vec<Line>,
}

impl CheckCommand {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode, Failure> {
        let config = load(common)?.config;
        let relays = chosen(&config, &self.relays)?;
        config.check_files()?;
        sandbox::check_reach(&config, &common.config())?;
        let runtime = runtime()?;
        let lines = runtime.block_on(check(&config, &relays, common));
        runtime.shutdown_background();
        let lines = lines?;
        common.output().show(&lines, |lines| table(lines))?;
        let failed = lines.iter().find(|line| !line.ok);
        Ok(failed.map_or(ExitCode::Success, |line| line.code))
    }
}

async fn check(
    config: &PullerConfig,
    relays: &[&RelayConfig],
    common: &Common,
) -> Result<Vec<Line>, Failure> {
    let mut all = vec![clock(common), data_dir(config), journal(config)];
    for relay in relays {
        let pull = Pull::new(config, relay, Purpose::DryRun, CancellationToken::new())?;
        let mut lines = Lines {
            relay,
            lines: Vec::new(),
        };
        let _ = lines.check(&pull).await;
        all.append(&mut lines.lines);
    }
    all.push(handover(config, relays[0]).await?);
    all.extend(reports(config).await?);
    Ok(all)
}

impl Lines<'_> {
    fn ok(&mut self, check: &'static str, detail: String) {
        self.lines.push(Line {
            of: self.relay.name.clone(),
            check,
            ok: true,
            detail,
            code: ExitCode::Success,
        });
    }

    /// Notes what failed; there is no way on from it.
    fn failed(&mut self, check: &'static str, outcome: &Outcome) -> Option<()> {
        let (of, detail, code) = (
            self.relay.name.clone(),
            outcome.to_string(),
            outcome.exit_code(),
        );
        self.lines.push(Line {
            of,
            check,
            ok: false,
            detail,
            code,
        });
        None
    }

    /// `None` after the first failure.
    async fn check(&mut self, pull: &Pull) -> Option<()> {
        let address = &self.relay.address;
        let addresses = match resolve(address).await {
            Ok(addresses) => addresses,
            Err(error) => {
                let reason = format!(
                    "{}: {error}; is the name right, and does DNS work here?",
                    address.host
                );
                return self.failed("name", &Outcome::Unreachable(reason));
            }
        };
        let shown: Vec<_> = addresses
            .iter()
            .map(|address| address.ip().to_string())
            .collect();
        self.ok("name", shown.join(", "));
        let wire = match dial::connect(&addresses).await {
            Ok(wire) => wire,
            Err(error) => {
                let reason = format!(
                    "{address}: {error}; does the relay run, and does the firewall let us out?"
                );
                return self.failed("tcp", &Outcome::Unreachable(reason));
            }
        };
        self.ok(
            "tcp",
            wire.peer_address()
                .map_or_else(|| address.to_string(), |address| address.to_string()),
        );
        let wire = match self.relay.tls {
            RelayTls::Implicit => match pull.shake_hands(wire).await {
                Ok(wire) => wire,
                Err(outcome) => return self.failed("tls", &outcome),
            },
            RelayTls::StartTls | RelayTls::Off => wire,
        };
        self.note_tls(&wire);
        match pull.ask(wire).await {
            Ok((wire, asked)) => self.asked(&wire, &asked),
            Err(outcome @ (Outcome::Refused(_) | Outcome::Unreachable(_))) => {
                self.failed("tls", &outcome)
            }
            Err(outcome) => self.failed("ehlo", &outcome),
        }
    }

    fn note_tls(&mut self, wire: &Wire) {
        let pin = wire.peer_pin();
        match (self.relay.tls, pin) {
            (_, Some(pin)) => self.ok("tls", format!("verified, pin {pin}")),
            (RelayTls::Off, None) => self.ok("tls", "off, on loopback".to_owned()),
            _ => {}
        }
    }

    fn asked(&mut self, wire: &Wire, asked: &Asked) -> Option<()> {
        if self.relay.tls == RelayTls::StartTls {
            self.note_tls(wire);
        }
        let outcome = Outcome::of_asking(&asked.outcome);
        let Asked {
            outcome: ended,
            extensions,
            mechanism,
            ..
        } = asked;
        let is_offer =
            |ended: &customer::Outcome| matches!(ended, customer::Outcome::NotOffered(..));
        if extensions.auth.is_empty() || is_offer(ended) {
            return self.failed("ehlo", &outcome);
        }
        self.ok("ehlo", offer(extensions));
        match (ended, mechanism) {
            (customer::Outcome::Authenticated, Some(mechanism)) => {
                self.ok("auth", format!("{} by {mechanism}", self.relay.account));
                let domains: Vec<_> = self.relay.domains.iter().map(ToString::to_string).collect();
                self.ok(
                    "domains",
                    format!("{} would be asked for", domains.join(", ")),
                );
                self.ok("mode", plan(self.relay, extensions.wait));
                Some(())
            }
            _ => self.failed("auth", &outcome),
        }
    }
}

/// What `run` would do with a relay that waits so many seconds at most, or not at all.
fn plan(relay: &RelayConfig, offered_wait: Option<u64>) -> String {
    let polled = format!("every {}", age(relay.every));
    match (relay.mode, offered_wait) {
        (Mode::Poll, _) => format!("poll, {polled}"),
        (Mode::Instant, None) => {
            format!("poll, {polled}: the relay cannot wait for mail (no XWAIT)")
        }
        (Mode::Instant, Some(offered)) => {
            let wait = Duration::from_secs(offered).min(relay.wait);
            format!("instant, a sign of life every {}", age(wait))
        }
    }
}

fn offer(extensions: &Extensions) -> String {
    let auth = extensions.auth.join(" ");
    match extensions.wait {
        Some(seconds) => format!("ATRN, AUTH {auth}, XWAIT {seconds}"),
        None => format!("ATRN, AUTH {auth}"),
    }
}

/// A clock that is far behind makes good certificates look like ones of the future.
fn clock(common: &Common) -> Line {
    let written = fs::metadata(common.config())
        .and_then(|metadata| metadata.modified())
        .ok();
    let ok = written.is_none_or(|written| written <= SystemTime::now());
    let detail = if ok {
        jiff::Zoned::now().strftime("%F %T %:z").to_string()
    } else {
        format!(
            "{} was written in the future; set the clock",
            common.config().display()
        )
    };
    Line {
        of: "system".to_owned(),
        check: "clock",
        ok,
        detail,
        code: ExitCode::Failed,
    }
}

/// Without it no pull begins.
fn data_dir(config: &PullerConfig) -> Line {
    let path = &config.data_dir;
    let (ok, detail, code) = match StatusFiles::check(path) {
        Ok(()) => (true, path.display().to_string(), ExitCode::Success),
        Err(Failure { text, code }) => (false, text, code),
    };
    Line {
        of: "system".to_owned(),
        check: "data_dir",
        ok,
        detail,
        code,
    }
}

/// What is inside already, as far as it can be told without pulling.
fn journal(config: &PullerConfig) -> Line {
    let line = |ok, detail, code| Line {
        of: "system".to_owned(),
        check: "journal",
        ok,
        detail,
        code,
    };
    match Journal::examine(&config.data_dir) {
        Ok(None) => line(
            true,
            "none yet; the first pull makes it".to_owned(),
            ExitCode::Success,
        ),
        Ok(Some(summary)) => line(
            true,
            format!("{} deliveries, {}", summary.entries, size(summary.octets)),
            ExitCode::Success,
        ),
        Err(error) => {
            let Failure { text, code } = error.into();
            line(false, text, code)
        }
    }
}

async fn handover(config: &PullerConfig, relay: &RelayConfig) -> Result<Line, Failure> {
    let pull = Pull::new(config, relay, Purpose::DryRun, CancellationToken::new())?;
    let target = pull.handover.target().to_string();
    // A Maildir is opened by making it.
    if let Target::Maildir(maildir) = pull.handover.target() {
        let problem = sandbox::check_maildir(config, maildir).err();
        return Ok(Line {
            of: "handover".to_owned(),
            check: "target",
            ok: problem.is_none(),
            detail: problem.unwrap_or(target),
            code: ExitCode::TargetDown,
        });
    }
    let (ok, detail) = match Handover::open(&pull.handover).await {
        Ok(handover) => {
            handover.quit().await;
            (true, target)
        }
        Err(error) => (
            false,
            format!("{target}: {error}; no mail is asked for while it is down"),
        ),
    };
    Ok(Line {
        of: "handover".to_owned(),
        check: "target",
        ok,
        detail,
        code: ExitCode::TargetDown,
    })
}

/// Mail for inside does not wait for the smart host; reports to senders outside do, at the relay.
async fn reports(config: &PullerConfig) -> Result<Option<Line>, Failure> {
    let Some(reports) = Reports::load(config, &Traffic::default())? else {
        return Ok(None);
    };
    let target = reports.setup().target().to_string();
    let (ok, detail) = match Handover::open(reports.setup()).await {
        Ok(handover) => {
            handover.quit().await;
            (true, target)
        }
        Err(error) => (
            false,
            format!("{target}: {error}; reports to senders outside wait while it is down"),
        ),
    };
    Ok(Some(Line {
        of: "reports".to_owned(),
        check: "target",
        ok,
        detail,
        code: ExitCode::Failed,
    }))
}

fn table(lines: &[Line]) -> String {
    let mut table = Table::new(&["of", "check", "result", "detail"]);
    for line in lines {
        let result = if line.ok { "ok" } else { "FAILED" };
        table.row([
            line.of.clone(),
            line.check.to_owned(),
            result.to_owned(),
            line.detail.clone(),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::relay::pull;
    use crate::testing::{Corporate, Script};

    #[tokio::test]
    async fn what_a_relay_offers_is_what_is_done_with_it() {
        let corporate = Corporate::start(Script::default()).await;
        let mut relay = pull("127.0.0.1:366", &corporate, Purpose::DryRun).relay;
        for (mode, offered, expected) in [
            (Mode::Instant, Some(600), "instant, a sign of life every 4m"),
            (Mode::Instant, Some(30), "instant, a sign of life every 30s"),
            (
                Mode::Instant,
                None,
                "poll, every 5m: the relay cannot wait for mail (no XWAIT)",
            ),
            (Mode::Poll, Some(600), "poll, every 5m"),
            (Mode::Poll, None, "poll, every 5m"),
        ] {
            relay.mode = mode;
            assert_eq!(plan(&relay, offered), expected);
        }
        let mut extensions = Extensions::default();
        extensions.auth.push("PLAIN".to_owned());
        assert_eq!(offer(&extensions), "ATRN, AUTH PLAIN");
        extensions.wait = Some(240);
        assert_eq!(offer(&extensions), "ATRN, AUTH PLAIN, XWAIT 240");
    }
}
