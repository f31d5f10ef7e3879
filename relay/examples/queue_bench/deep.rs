//! What a session, a sender and an admin wait for, with a short queue and with a long one.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use atrn_relay::queue::{Filter, SessionId, State, Store};
use atrn_shared::smtp::address::Domain;
use tokio::task::JoinSet;

use super::{KIB, envelope, fresh, memory_now, report, take};

/// Accepts at a time while the queue is filled. Those that wait together share a sync.
const AT_ONCE: usize = 500;
/// Deliveries of one measurement of a rate.
const STEP: usize = 5_000;

/// A short queue and one of `depth`, each spread over so many domains in turns.
pub(super) async fn run(directory: &Path, depth: usize, domains: usize) -> Result<()> {
    for depth in [1_000, depth] {
        let store = fresh(directory)?;
        let took = accept(&store, &names(domains), depth).await?;
        println!("{depth:>8} queued in {took:?}");
        drop(store);
        look(directory, domains).await?;
    }
    Ok(())
}

/// Measures the queue that is in `directory`; what it drains it fills in again.
pub(super) async fn look(directory: &Path, domains: usize) -> Result<()> {
    let began = Instant::now();
    let store = Store::open(directory)?;
    let opened = began.elapsed();
    let memory = memory_now()?;
    let names = names(domains);
    let all: Vec<Domain> = parsed(&names)?;
    let one = &all[..1];
    let totals = store.totals().await?;
    let depth: u64 = totals.iter().map(|total| total.messages).sum();
    println!("{depth} queued: open {opened:?}, {memory} KiB resident");
    timed("ATRN's question, one domain", || store.waiting(one)).await?;
    timed("ATRN's question, all domains", || store.waiting(&all)).await?;
    timed("first message of one domain", || {
        store.claim(SessionId(1), one, 1)
    })
    .await?;
    timed("64 messages of all domains", || {
        store.claim(SessionId(1), &all, 64)
    })
    .await?;
    timed("first page", || store.list(Filter::default(), None, 100)).await?;
    let queued = Filter {
        state: Some(State::Queued),
        ..Filter::default()
    };
    timed("first page of a state", || {
        store.list(queued.clone(), None, 100)
    })
    .await?;
    timed("totals, for status", || store.totals()).await?;

    let few = depth.min(STEP as u64) as usize;
    let began = Instant::now();
    let mut drained = 0;
    for name in &names {
        drained += take(&store, &parsed(&[name.as_str()])?, few - drained).await?;
    }
    report("drain, domain by domain", drained, KIB, began.elapsed());
    let took = accept(&store, &names, drained).await?;
    report("accept, 500 at a time", drained, KIB, took);
    let began = Instant::now();
    let drained = take(&store, &all, few).await?;
    report("drain, all domains in turn", drained, KIB, began.elapsed());
    let took = accept(&store, &names, drained).await?;
    report("accept, 500 at a time", drained, KIB, took);
    println!("{:>8} KiB resident", memory_now()?);
    Ok(())
}

/// The best of five: what is asked, not what the disk reads for the first time.
async fn timed<T, F>(what: &str, question: impl Fn() -> F) -> Result<()>
where
    F: Future<Output = Result<T, atrn_relay::queue::StoreError>>,
{
    let mut times = Vec::new();
    for _ in 0..6 {
        let began = Instant::now();
        drop(question().await?);
        times.push(began.elapsed());
    }
    let first = times.remove(0);
    times.sort_unstable();
    println!(
        "{what:<44} {:>9.3} ms, at first {:.3} ms",
        millis(times[2]),
        millis(first)
    );
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// Small messages for each of the domains in turn.
async fn accept(store: &Store, names: &[String], count: usize) -> Result<Duration> {
    let envelopes: Vec<_> = names
        .iter()
        .map(|name| envelope(name))
        .collect::<Result<_>>()?;
    let envelopes = Arc::new(envelopes);
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for first in 0..AT_ONCE.min(count) {
        let (store, envelopes) = (store.clone(), Arc::clone(&envelopes));
        tasks.spawn(async move {
            for number in (first..count).step_by(AT_ONCE) {
                let mut body = store.body();
                body.write(&[b'x'; KIB]).await?;
                let envelope = envelopes[number % envelopes.len()].clone();
                store.accept(envelope, body).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(began.elapsed())
}

fn names(domains: usize) -> Vec<String> {
    let names = (0..domains.max(1)).map(|number| format!("d{number:04}.example"));
    names.collect()
}

fn parsed(names: &[impl AsRef<str>]) -> Result<Vec<Domain>> {
    let names = names.iter();
    names
        .map(|name| Ok(Domain::parse(name.as_ref())?))
        .collect()
}
