//! Measures the queue alone: accepts, large bodies, memory, claim and settle, and a deep queue.
//!
//! `cargo run --release -p atrn-relay --example queue_bench -- [--dir D] [--depth N] [--domains N]
//! [accept|large|memory|drain|deep]…`, or `look`: at the queue that is in D.
//! Figures of different machines do not compare; figures of one run do. The inline limit and the page
//! size were chosen with it: docs/decisions/0002-queue-on-sqlite.md.

mod deep;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use atrn_relay::queue::{Envelope, Outcome, Recipient, SessionId, Store};
use atrn_shared::smtp::address::{Domain, ForwardPath, ReversePath};
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};

const KIB: usize = 1024;
/// Messages that a drain has in flight, and those of one claim.
const WINDOW: usize = 100;

fn main() -> Result<()> {
    let mut directory = PathBuf::from("target/queue_bench");
    let mut depth = 200_000;
    let mut domains = 1_000;
    let mut parts = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--dir" => directory = arguments.next().context("--dir needs a directory")?.into(),
            "--depth" => {
                depth = arguments
                    .next()
                    .context("--depth needs a number")?
                    .parse()?
            }
            "--domains" => {
                domains = arguments
                    .next()
                    .context("--domains needs a number")?
                    .parse()?
            }
            _ => parts.push(argument),
        }
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|named| named == part);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if wanted("accept") {
            accept(&directory).await?;
        }
        if wanted("large") {
            large(&directory).await?;
        }
        if wanted("memory") {
            memory(&directory).await?;
        }
        if wanted("drain") {
            drain(&directory).await?;
        }
        if wanted("deep") {
            deep::run(&directory, depth, domains).await?;
        }
        if parts.iter().any(|part| part == "look") {
            deep::look(&directory, domains).await?;
        }
        anyhow::Ok(())
    })
}

/// Small bodies, one session and many.
async fn accept(directory: &Path) -> Result<()> {
    let sizes = [
        (1, 4, 4_000),
        (50, 4, 40_000),
        (50, 8, 20_000),
        (50, 16, 16_000),
    ];
    let larger = [
        (50, 24, 8_000),
        (50, 32, 8_000),
        (50, 48, 4_000),
        (50, 64, 4_000),
    ];
    for (sessions, kib, count) in sizes.into_iter().chain(larger) {
        let store = fresh(directory)?;
        let took = fill(&store, sessions, count, kib * KIB, "example.com").await?;
        report(
            &format!("accept {kib} KiB, {sessions} sessions"),
            count,
            kib * KIB,
            took,
        );
    }
    Ok(())
}

/// Bodies in spool files, beside the same octets written and synced to plain files.
async fn large(directory: &Path) -> Result<()> {
    for (sessions, kib, count) in [(10, 1024, 600), (10, 256, 2_000), (10, 64, 4_000)] {
        let store = fresh(directory)?;
        let took = fill(&store, sessions, count, kib * KIB, "example.com").await?;
        report(
            &format!("accept {kib} KiB, {sessions} sessions"),
            count,
            kib * KIB,
            took,
        );
        drop(store);
        let raw = directory.join("raw");
        std::fs::create_dir_all(&raw)?;
        let took = plain_files(&raw, sessions, count, kib * KIB)?;
        report(
            &format!("plain synced files {kib} KiB, {sessions} threads"),
            count,
            kib * KIB,
            took,
        );
    }
    Ok(())
}

/// Twenty messages of 50 MB at once, in and out: what the process grew by at its largest.
async fn memory(directory: &Path) -> Result<()> {
    let store = fresh(directory)?;
    let before = peak_memory()?;
    let (sessions, octets) = (20, 50 * 1000 * KIB);
    fill(&store, sessions, sessions, octets, "example.com").await?;
    let accepted = peak_memory()?;
    let mut tasks = tokio::task::JoinSet::new();
    for lease in claim(&store, "example.com", sessions).await? {
        tasks.spawn(async move {
            let mut content = lease.content().await?;
            while content.next().await?.is_some() {}
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let (accepted, sent) = (accepted - before, peak_memory()? - before);
    println!("{sessions} x 50 MB at once: grew by {accepted} KiB in, {sent} KiB in and out");
    Ok(())
}

/// The largest resident size so far in KiB.
fn peak_memory() -> Result<u64> {
    of_status("VmHWM:")
}

/// The resident size in KiB.
fn memory_now() -> Result<u64> {
    of_status("VmRSS:")
}

fn of_status(name: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.with_context(|| format!("no {name}"))?.parse()?)
}

async fn drain(directory: &Path) -> Result<()> {
    let store = fresh(directory)?;
    let count = 40_000;
    fill(&store, 50, count, 4 * KIB, "example.com").await?;
    let started = Instant::now();
    let drained = take(&store, &[Domain::parse("example.com")?], count).await?;
    report(
        "claim, read and settle 4 KiB, 1 session",
        drained,
        4 * KIB,
        started.elapsed(),
    );
    Ok(())
}

async fn fill(
    store: &Store,
    sessions: usize,
    count: usize,
    octets: usize,
    domain: &'static str,
) -> Result<Duration> {
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for session in 0..sessions {
        let store = store.clone();
        let share = count / sessions + usize::from(session < count % sessions);
        tasks.spawn(async move {
            let piece = vec![b'x'; octets.min(4 * KIB)];
            for _ in 0..share {
                let mut body = store.body();
                for _ in 0..octets / piece.len() {
                    body.write(&piece).await?;
                }
                store.accept(envelope(domain)?, body).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(started.elapsed())
}

/// Drains as a session does: the next message goes while the settlement of the last is committed.
async fn take(store: &Store, domains: &[Domain], count: usize) -> Result<usize> {
    let mut settling = VecDeque::new();
    let mut taken = 0;
    while taken < count {
        let leases = store
            .claim(SessionId(1), domains, WINDOW.min(count - taken))
            .await?;
        if leases.is_empty() {
            break;
        }
        for lease in leases {
            let mut content = lease.content().await?;
            while content.next().await?.is_some() {}
            let outcomes = vec![Outcome::Delivered; lease.recipients.len()];
            settling.push_back(store.settle(lease, outcomes, None));
            taken += 1;
            if settling.len() > WINDOW
                && let Some(oldest) = settling.pop_front()
            {
                oldest.await?;
            }
        }
    }
    for settled in settling {
        settled.await?;
    }
    Ok(taken)
}

async fn claim(store: &Store, domain: &str, max: usize) -> Result<Vec<atrn_relay::queue::Lease>> {
    Ok(store
        .claim(SessionId(1), &[Domain::parse(domain)?], max)
        .await?)
}

fn plain_files(directory: &Path, threads: usize, count: usize, octets: usize) -> Result<Duration> {
    use std::io::Write;

    let started = Instant::now();
    std::thread::scope(|scope| {
        let workers = (0..threads).map(|thread| {
            scope.spawn(move || -> Result<()> {
                let content = vec![b'x'; octets];
                let parent = std::fs::File::open(directory)?;
                for number in 0..count / threads {
                    let path = directory.join(format!("{thread}-{number}"));
                    let mut file = std::fs::File::create_new(path)?;
                    file.write_all(&content)?;
                    file.sync_data()?;
                    parent.sync_all()?;
                }
                Ok(())
            })
        });
        let workers: Vec<_> = workers.collect();
        for worker in workers {
            worker
                .join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        anyhow::Ok(())
    })?;
    Ok(started.elapsed())
}

fn fresh(directory: &Path) -> Result<Store> {
    if directory.exists() {
        std::fs::remove_dir_all(directory)?;
    }
    Ok(Store::open(directory)?)
}

fn envelope(domain: &str) -> Result<Envelope> {
    Ok(Envelope {
        reverse_path: ReversePath::from_address("sender@example.net")?,
        mail_parameters: MailParameters::default(),
        received_from: "client.example.net [192.0.2.1]".to_owned(),
        eight_bit: false,
        needs_smtputf8: false,
        is_report: false,
        sender_verified: false,
        recipients: vec![Recipient {
            forward_path: ForwardPath::from_address(&format!("recipient@{domain}"))?,
            parameters: RcptParameters::default(),
            domain: Domain::parse(domain)?,
        }],
    })
}

fn report(what: &str, count: usize, octets: usize, took: Duration) {
    let rate = count as f64 / took.as_secs_f64();
    let mib = rate * octets as f64 / (1024.0 * 1024.0);
    println!("{what:<44} {rate:>9.0} /s {mib:>9.1} MiB/s");
}
