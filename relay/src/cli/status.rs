//! `status`: one screen.

use std::time::Duration;

use atrn_relay::activity::{AccountActivity, LastPull, PullResult, SessionCounts, Snapshot};
use atrn_relay::control::{Client, DomainStatus, Reply, Request, Status};
use atrn_relay::limits::LimitsStatus;
use atrn_relay::names::{Health, State};
use atrn_relay::queue::Room;
use atrn_relay::transaction_log::LogState;
use atrn_shared::cli::{Failure, Table, size};
use clap::Args;
use jiff::Timestamp;

use super::units::{counted, elapsed, moment, shown, since};
use super::{Call, client_failure, open, units};

/// Show how the relay is doing: sessions, totals, queue, the last pull of each account
///
/// With --check also say what is wrong, one line each, and exit with 1 if anything is: for monitoring.
///
/// Example: atrn-relay status --check --max-age 2h
#[derive(Args, Debug)]
pub(super) struct StatusCommand {
    /// Exit with 1 if the relay does not run or answer, refuses its files, mail waits too long, new mail is refused
    /// because a quota or the disk is full, or the server inside refuses most of it for good.
    #[arg(long)]
    check: bool,

    /// How long mail may wait to be pulled.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = units::duration, requires = "check")]
    max_age: Duration,
}

impl StatusCommand {
    pub(super) fn run(self, call: &Call) -> Result<(), Failure> {
        let status = ask(&mut open(call.config()?)?)?;
        let now = Timestamp::now();
        call.output.show(&status, |status| describe(status, now))?;
        let complaints = complaints(&status, now, self.max_age);
        if self.check && !complaints.is_empty() {
            return Err(Failure::failed(complaints.join("\n")));
        }
        Ok(())
    }
}

/// What the daemon says of itself, or the queue without one.
pub(super) fn ask(client: &mut Client) -> Result<Status, Failure> {
    match client.ask_one(&Request::Status).map_err(client_failure)? {
        Reply::Status(status) => Ok(*status),
        other => Err(Failure::failed(format!("not a status: {other:?}"))),
    }
}

/// What should wake somebody.
fn complaints(status: &Status, now: Timestamp, max_age: Duration) -> Vec<String> {
    let mut complaints = Vec::new();
    if !status.running {
        complaints.push("the relay is not running".to_owned());
    }
    let state = status
        .activity
        .as_ref()
        .map(|activity| &activity.configuration);
    if let Some(error) = state.and_then(|state| state.error.as_ref()) {
        let error = error.replace('\n', "; ");
        complaints.push(format!("the relay refuses its changed files: {error}"));
    }
    if status
        .names
        .as_ref()
        .is_some_and(|health| health.state == State::Gone)
    {
        complaints.push(
            "names cannot be looked up: the resolver is gone; start the relay again".to_owned(),
        );
    }
    if let Some(disk) = status.disk.filter(|disk| disk.room == Room::Full) {
        complaints.push(format!(
            "new mail is refused: only {} of disk left",
            size(disk.free)
        ));
    }
    for domain in &status.domains {
        let total = &domain.total;
        complaints.extend(full(domain));
        if let Some(oldest) = total
            .oldest
            .filter(|oldest| elapsed(*oldest, now) > max_age)
        {
            complaints.push(format!(
                "{}: the oldest mail waits since {} ({})",
                total.domain,
                moment(oldest),
                since(oldest, now)
            ));
        }
    }
    complaints.extend(alarms(status, now));
    complaints
}

/// What to say of a domain whose quota is full.
fn full(status: &DomainStatus) -> Option<String> {
    let total = &status.total;
    let by_number = status
        .max_queue_messages
        .filter(|max| total.messages >= *max)
        .map(|max| (format!("{} of {max} messages", total.messages), "messages"));
    let by_size = status
        .max_queue_size
        .filter(|max| total.bytes >= *max)
        .map(|max| (format!("{} of {}", size(total.bytes), size(max)), "size"));
    let (used, what) = by_number.or(by_size)?;
    Some(format!(
        "{}: new mail is refused (452): its quota is full, {used} ({} wait, {} failed or expired); pull or remove \
         some, or raise max_queue_{what}",
        total.domain,
        total.queued + total.deferred + total.held,
        total.failed + total.expired
    ))
}

/// A line for each account whose server refuses most mail for good.
fn alarms(status: &Status, now: Timestamp) -> impl Iterator<Item = String> {
    status.accounts.iter().filter_map(move |account| {
        let alarm = account.activity.alarm.as_ref()?;
        let reply = alarm.reply.as_ref();
        let reply = reply.map_or_else(String::new, |reply| format!(", the last with \"{reply}\""));
        let domain = match account.domains.as_slice() {
            [only] => format!(" --domain {only}"),
            _ => String::new(),
        };
        Some(format!(
            "{}: the server inside refused {} of {} for good{reply}; the pull was stopped {} ago, nothing was bounced; \
             mend it, then atrn-relay queue retry{domain} --state deferred",
            account.account,
            alarm.refused,
            alarm.verdicts,
            since(alarm.at, now)
        ))
    })
}

fn describe(status: &Status, now: Timestamp) -> String {
    let mut text = match (&status.activity, status.pid) {
        (Some(activity), Some(pid)) => describe_activity(status, activity, pid, now),
        _ => format!("{}  not running\n", status.hostname),
    };
    text += "\n";
    if status.domains.is_empty() {
        text += "No domains; add one with `domain add`.\n";
    } else {
        text += &format!("{}\n", domains_table(&status.domains, now));
    }
    text += "\n";
    if status.accounts.is_empty() {
        text += "No accounts; add one with `account add`.\n";
    } else {
        text += &accounts_table(status, now).to_string();
    }
    for alarm in alarms(status, now) {
        text += &format!("\n\nALARM  {alarm}");
    }
    text
}

fn describe_activity(status: &Status, activity: &Snapshot, pid: u32, now: Timestamp) -> String {
    let addresses = |list: &[std::net::SocketAddr]| {
        let texts: Vec<_> = list.iter().map(ToString::to_string).collect();
        texts.join(" ")
    };
    let sessions = |counts: SessionCounts| {
        format!(
            "{} now, {} since the start",
            counted(counts.now, "session", "sessions"),
            counts.total
        )
    };
    let mut lines = vec![
        format!(
            "{}  running for {}, process {pid}, version {}",
            status.hostname,
            since(activity.started_at, now),
            status.version
        ),
        format!(
            "smtp      {}  {}",
            addresses(&activity.listen.smtp),
            sessions(activity.smtp)
        ),
        format!(
            "odmr      {}  {}",
            addresses(&activity.listen.odmr),
            sessions(activity.odmr)
        ),
        format!(
            "accepted  {}, {}",
            counted(activity.accepted_messages, "message", "messages"),
            size(activity.accepted_octets)
        ),
        format!(
            "refused   {} for now, {} for good, {}",
            activity.refused_transient,
            activity.refused_permanent,
            counted(
                activity.authentication_failures,
                "failed login",
                "failed logins"
            )
        ),
    ];
    lines.extend(conditions(status, activity, now));
    if let Some(disk) = status.disk {
        lines.push(format!(
            "disk      {} free{}",
            size(disk.free),
            room(disk.room)
        ));
    }
    if activity.reports > 0 {
        let reports = counted(activity.reports, "report", "reports");
        lines.push(format!("told      {reports} of mail that ended"));
    }
    if let Some(loaded_at) = activity.configuration.loaded_at {
        lines.push(format!("files     reloaded {} ago", since(loaded_at, now)));
    }
    if let Some(error) = &activity.configuration.error {
        let error = error.replace('\n', "; ");
        lines.push(format!(
            "files     refused, the older ones stay in force: {error}"
        ));
    }
    lines.join("\n") + "\n"
}

/// Under what it works: a line each, where there is anything to say.
fn conditions(
    status: &Status,
    activity: &Snapshot,
    now: Timestamp,
) -> impl Iterator<Item = String> {
    let sandbox = activity.sandbox.as_ref();
    let sandbox = sandbox.map(|held| format!("sandbox   {held}"));
    let names = status.names.as_ref().map(|health| look_ups(health, now));
    let limits = status.limits.as_ref().and_then(held_off);
    let log = status.transaction_log.as_ref().and_then(not_recorded);
    [sandbox, names, limits, log].into_iter().flatten()
}

/// Whether names can be looked up.
fn look_ups(health: &Health, now: Timestamp) -> String {
    let Health { asked, failed, .. } = health;
    if health.state == State::Gone {
        return "names     none: the resolver is gone; start the relay again".to_owned();
    }
    let answered = health.last_answer.map_or_else(
        || "no answer yet".to_owned(),
        |at| format!("last answer {} ago", since(at, now)),
    );
    let asked = counted(*asked, "question", "questions");
    let (servers, transport) = (health.servers.join(" "), &health.transport);
    format!("names     {servers} over {transport}, {asked}, {failed} failed, {answered}")
}

/// A line where the transaction log lacks something.
fn not_recorded(log: &LogState) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(failure) = &log.failure {
        parts.push(format!("CANNOT BE WRITTEN: {}", shown(failure, 200)));
    }
    if log.lost > 0 {
        parts.push(format!("{} lost", counted(log.lost, "record", "records")));
    }
    (!parts.is_empty()).then(|| format!("log       {}", parts.join(", ")))
}

/// A line where there is anything to say of limits.
fn held_off(limits: &LimitsStatus) -> Option<String> {
    let mut parts = Vec::new();
    if !limits.stressed.is_empty() {
        parts.push(format!("UNDER STRESS: {}", limits.stressed.join(" ")));
    }
    let denied: u64 = limits.denied.values().sum();
    if denied > 0 {
        parts.push(format!(
            "{} turned away",
            counted(denied, "connection", "connections")
        ));
    }
    if limits.bans > 0 {
        parts.push(format!("{} in force", counted(limits.bans, "ban", "bans")));
    }
    if limits.memory_refused > 0 {
        let messages = counted(limits.memory_refused, "message", "messages");
        parts.push(format!("{messages} put off for want of memory"));
    }
    if limits.greylist_deferred > 0 {
        let recipients = counted(limits.greylist_deferred, "recipient", "recipients");
        parts.push(format!("{recipients} greylisted"));
    }
    (!parts.is_empty()).then(|| format!("limits    {}", parts.join(", ")))
}

fn room(room: Room) -> &'static str {
    match room {
        Room::Ample => "",
        Room::Low => ", getting full",
        Room::Full => ", too little: new mail is refused",
    }
}

/// What of its quota a domain has used, by octets or messages, whichever is more.
fn used(status: &DomainStatus) -> Option<u64> {
    let share = |part: u64, whole: u64| {
        let percent = u128::from(part) * 100 / u128::from(whole.max(1));
        u64::try_from(percent).unwrap_or(u64::MAX)
    };
    let by_size = share(status.total.bytes, status.max_queue_size?);
    let by_number = share(status.total.messages, status.max_queue_messages?);
    Some(by_size.max(by_number))
}

pub(super) fn domains_table(domains: &[DomainStatus], now: Timestamp) -> Table {
    let mut table = Table::new(&[
        "domain",
        ">queued",
        ">deferred",
        ">held",
        ">failed",
        ">expired",
        ">size",
        ">quota",
        ">oldest",
        "",
    ]);
    for domain in domains {
        let DomainStatus {
            configured, total, ..
        } = domain;
        let numbers = [
            total.queued,
            total.deferred,
            total.held,
            total.failed,
            total.expired,
        ];
        let mut row = vec![total.domain.to_string()];
        row.extend(numbers.iter().map(ToString::to_string));
        row.push(size(total.bytes));
        row.push(used(domain).map_or_else(|| "-".to_owned(), |percent| format!("{percent}%")));
        row.push(
            total
                .oldest
                .map_or_else(|| "-".to_owned(), |oldest| since(oldest, now)),
        );
        row.push(if *configured { "" } else { "not configured" }.to_owned());
        table.row(row);
    }
    table
}

fn accounts_table(status: &Status, now: Timestamp) -> Table {
    let mut table = Table::new(&[
        "account",
        "domains",
        ">pulling",
        ">waiting",
        ">delivered",
        ">size",
        "last pull",
    ]);
    for account in &status.accounts {
        let AccountActivity {
            pulls,
            waiting,
            delivered,
            octets,
            last_pull,
            ..
        } = &account.activity;
        let names: Vec<_> = account.domains.iter().map(ToString::to_string).collect();
        let mut last = last_pull
            .as_ref()
            .map_or_else(|| "none yet".to_owned(), |last| described(last, now));
        // The two are read one after the other.
        let pulling = pulls.now.saturating_sub(*waiting);
        let mut counts = [
            pulling.to_string(),
            waiting.to_string(),
            delivered.to_string(),
            size(*octets),
        ];
        // Only the daemon counts.
        if !status.running {
            counts = counts.map(|_| "-".to_owned());
            "-".clone_into(&mut last);
        }
        if account.disabled {
            last += " (disabled)";
        }
        let mut row = vec![account.account.clone(), names.join(" ")];
        row.extend(counts);
        row.push(last);
        table.row(row);
    }
    table
}

fn described(last: &LastPull, now: Timestamp) -> String {
    let ago = since(last.at, now);
    let peer = last.peer;
    match last.result {
        PullResult::Broken => format!("{ago} ago from {peer}, broken off"),
        PullResult::Complete => format!("{ago} ago from {peer}"),
        PullResult::NoMail => format!("{ago} ago from {peer}, no mail"),
        PullResult::Refused => format!("{ago} ago from {peer}, refused"),
        PullResult::Running => format!("for {ago} from {peer}"),
        PullResult::Stopped => format!("{ago} ago from {peer}, stopped"),
        PullResult::Waiting => format!("for {ago} from {peer}, waits for mail"),
    }
}

#[cfg(test)]
mod tests {
    use atrn_shared::smtp::address::Domain;
    use serde_json::json;

    use super::*;

    fn status(running: bool, error: Option<&str>, oldest: Option<&str>) -> Status {
        let counts = json!({"now": 1, "total": 20});
        let mut value = json!({
            "running": running, "version": "0.1.0", "hostname": "mx1.example.net", "pid": null, "leased": 0,
            "domains": [{
                "configured": true, "domain": "example.com", "messages": 1, "bytes": 5000, "oldest": oldest,
                "queued": 1, "deferred": 0, "held": 0, "failed": 0, "expired": 0,
            }],
            "accounts": [],
        });
        if running {
            let activity = json!({
                "pid": 7, "started_at": "2026-01-01T00:00:00Z", "listen": {"smtp": ["127.0.0.1:25"], "odmr": []},
                "configuration": {"reloads": 1, "loaded_at": null, "error": error}, "smtp": counts, "odmr": counts,
                "accepted_messages": 1, "accepted_octets": 5000, "refused_transient": 0, "refused_permanent": 2,
                "authentication_failures": 1, "reports": 2,
            });
            value
                .as_object_mut()
                .unwrap()
                .extend(activity.as_object().unwrap().clone());
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_what_is_wrong_is_complained_of() {
        let now: Timestamp = "2026-01-01T02:00:00Z".parse().unwrap();
        let hour = Duration::from_secs(3_600);
        let old = Some("2026-01-01T00:59:59Z");
        for (status, expected) in [
            (status(true, None, Some("2026-01-01T01:00:00Z")), &[][..]),
            (status(true, None, None), &[]),
            (status(false, None, None), &["the relay is not running"]),
            (
                status(true, Some("a\nb"), None),
                &["the relay refuses its changed files: a; b"],
            ),
            (
                status(true, None, old),
                &["example.com: the oldest mail waits since 2026-01-01 00:59:59 UTC (1h)"],
            ),
        ] {
            assert_eq!(complaints(&status, now, hour), expected);
        }
    }

    #[test]
    fn a_server_that_refuses_everything_is_an_alarm() {
        let now: Timestamp = "2026-01-01T02:00:00Z".parse().unwrap();
        let mut status = status(true, None, None);
        let account = json!({
            "account": "corp", "domains": ["example.com"], "disabled": false, "pulls": {"now": 0, "total": 1},
            "delivered": 0, "octets": 0, "deferred": 9, "failed": 0, "stops": 1, "last_pull": null,
            "alarm": {"at": "2026-01-01T01:55:00Z", "refused": 9, "verdicts": 10, "reply": "550 5.1.1 no"},
        });
        status
            .accounts
            .push(serde_json::from_value(account).unwrap());
        let expected = "corp: the server inside refused 9 of 10 for good, the last with \"550 5.1.1 no\"; \
                        the pull was stopped 5m ago, nothing was bounced; \
                        mend it, then atrn-relay queue retry --domain example.com --state deferred";
        let hour = Duration::from_secs(3_600);
        assert_eq!(complaints(&status, now, hour), [expected]);
        let screen = describe(&status, now);
        assert!(
            screen.ends_with(&format!("\n\nALARM  {expected}")),
            "{screen}"
        );
    }

    #[test]
    fn a_screen() {
        let now: Timestamp = "2026-01-01T02:00:00Z".parse().unwrap();
        let mut status = status(
            true,
            Some("relay.toml:3: bad"),
            Some("2026-01-01T01:00:00Z"),
        );
        status.accounts.push(atrn_relay::control::AccountStatus {
            account: "corp".to_owned(),
            domains: vec![Domain::parse("example.com").unwrap()],
            disabled: true,
            activity: AccountActivity {
                delivered: 3,
                octets: 1_500,
                last_pull: Some(LastPull {
                    at: now,
                    peer: "192.0.2.7".parse().unwrap(),
                    result: PullResult::NoMail,
                }),
                ..AccountActivity::default()
            },
        });
        let expected = "\
mx1.example.net  running for 2h, process 7, version 0.1.0
smtp      127.0.0.1:25  1 session now, 20 since the start
odmr        1 session now, 20 since the start
accepted  1 message, 5.0 kB
refused   0 for now, 2 for good, 1 failed login
told      2 reports of mail that ended
files     refused, the older ones stay in force: relay.toml:3: bad

DOMAIN       QUEUED  DEFERRED  HELD  FAILED  EXPIRED    SIZE  QUOTA  OLDEST
example.com       1         0     0       0        0  5.0 kB      -      1h

ACCOUNT  DOMAINS      PULLING  WAITING  DELIVERED    SIZE  LAST PULL
corp     example.com        0        0          3  1.5 kB  0s ago from 192.0.2.7, no mail (disabled)";
        assert_eq!(describe(&status, now), expected);
        let activity = &mut status.accounts[0].activity;
        (activity.pulls.now, activity.waiting) = (3, 1);
        activity.last_pull.as_mut().unwrap().result = PullResult::Waiting;
        let row = "2        1          3  1.5 kB  for 0s from 192.0.2.7, waits for mail (disabled)";
        let screen = describe(&status, now);
        assert!(screen.ends_with(row), "{screen}");
        // Without the daemon nobody counts pulls.
        status.running = false;
        let screen = describe(&status, now);
        let account = screen.lines().last().unwrap();
        let words: Vec<_> = account.split_whitespace().collect();
        assert_eq!(
            words,
            ["corp", "example.com", "-", "-", "-", "-", "-", "(disabled)"]
        );
    }

    #[test]
    fn a_full_quota_says_what_it_is_full_of() {
        let now: Timestamp = "2026-01-01T02:00:00Z".parse().unwrap();
        let hour = Duration::from_secs(3_600);
        for (messages, bytes, expected) in [
            (7, 5_001, None),
            (
                6,
                5_001,
                Some(
                    "6 of 6 messages (2 wait, 4 failed or expired); pull or remove some, or raise max_queue_messages",
                ),
            ),
            (
                7,
                5_000,
                Some(
                    "5.0 kB of 5.0 kB (2 wait, 4 failed or expired); pull or remove some, or raise max_queue_size",
                ),
            ),
        ] {
            let mut status = status(true, None, None);
            let domain = &mut status.domains[0];
            (domain.max_queue_messages, domain.max_queue_size) = (Some(messages), Some(bytes));
            let total = &mut domain.total;
            (total.messages, total.queued, total.held) = (6, 1, 1);
            (total.failed, total.expired) = (3, 1);
            let expected = expected.map(|text| {
                format!("example.com: new mail is refused (452): its quota is full, {text}")
            });
            let expected: Vec<_> = expected.into_iter().collect();
            assert_eq!(complaints(&status, now, hour), expected);
        }
    }
}
