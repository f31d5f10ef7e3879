//! Ten thousand senders that are connected and say nothing more: what each costs the relay, with TLS and without.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use atrn_shared::tls::{Alpn, ClientTls, Trust};
use atrn_shared::wire::Wire;
use atrn_tests::world::World;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::pki_types::ServerName;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::figures::{Measured, Row, Samples, Unit, Wanted};
use crate::party::{DOMAIN, Plan};
use crate::usage;

const PATIENCE: Duration = Duration::from_secs(60);
/// Greetings, and handshakes, at a time.
const AT_ONCE: usize = 64;
const CLEAR_KIBIBYTES_MAX: f64 = 24.0;
const TLS_KIBIBYTES_MAX: f64 = 64.0;

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let crowd = plan.amount(10_000, 1_000);
    allow_files(crowd)?;
    let mut rows = Vec::new();
    for (with_tls, most) in [(false, CLEAR_KIBIBYTES_MAX), (true, TLS_KIBIBYTES_MAX)] {
        let mut samples = Samples::default();
        for _ in 0..plan.amount(3, 1) {
            samples.push(each(plan, crowd, with_tls)?);
        }
        let how = if with_tls { "with" } else { "without" };
        let name = format!("{crowd} idle senders: memory of the relay for each, {how} TLS");
        rows.push(
            Row::new(name, Unit::Kibibytes, samples)
                .wanted(Wanted::AtMost(most))
                .note("each past EHLO"),
        );
    }
    Ok(rows.into())
}

/// KiB of the relay for each.
fn each(plan: &Plan, crowd: usize, with_tls: bool) -> Result<f64> {
    let world = World::setup()
        .under(&plan.folder)
        .domain(DOMAIN)
        // So many are no stress here.
        .relay("smtp.max_connections", 100_000)
        .start();
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let join = |count| runtime.block_on(join(world.relay.smtp_address(), count, with_tls));
    // What the first ones need, the relay keeps.
    drop(join(AT_ONCE)?);
    let before = resident(&world)?;
    let everybody = join(crowd)?;
    let after = resident(&world)?;
    drop(everybody);
    Ok(after.saturating_sub(before) as f64 / crowd as f64)
}

/// So many connections, all past EHLO.
async fn join(address: SocketAddr, count: usize, with_tls: bool) -> Result<Vec<Wire>> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let tls = ClientTls::new(&Trust::Anyone, None, Alpn::None)?;
    let mut joining = JoinSet::new();
    for _ in 0..count {
        let (turns, tls) = (Arc::clone(&turns), tls.clone());
        joining.spawn(async move {
            let _turn = turns.acquire().await?;
            let mut wire = Wire::connect(&[address], PATIENCE).await?;
            reply(&mut wire, "220").await?;
            say(&mut wire, "EHLO idle.example", "250").await?;
            if with_tls {
                say(&mut wire, "STARTTLS", "220").await?;
                let name = ServerName::try_from("relay.example.net")?;
                wire = wire.connect_tls(&tls, name, PATIENCE).await?;
                say(&mut wire, "EHLO idle.example", "250").await?;
            }
            wire.input.release();
            anyhow::Ok(wire)
        });
    }
    let mut everybody = Vec::with_capacity(count);
    while let Some(joined) = joining.join_next().await {
        everybody.push(joined??);
    }
    Ok(everybody)
}

async fn say(wire: &mut Wire, line: &str, code: &str) -> Result<()> {
    wire.write(&mut format!("{line}\r\n").into_bytes(), PATIENCE)
        .await?;
    reply(wire, code).await
}

/// Reads one reply with all its lines.
async fn reply(wire: &mut Wire, code: &str) -> Result<()> {
    loop {
        let text = String::from_utf8_lossy(wire.input.bytes()).into_owned();
        let last = text.lines().last().unwrap_or_default();
        if text.ends_with("\r\n") && last.as_bytes().get(3) == Some(&b' ') {
            ensure!(last.starts_with(code), "{code} was due, and came: {text:?}");
            let count = wire.input.bytes().len();
            wire.input.take(count);
            return Ok(());
        }
        wire.read(PATIENCE).await.context(code.to_owned())?;
    }
}

/// KiB of resident memory, when the relay has come to rest.
fn resident(world: &World) -> Result<u64> {
    let relay = world.relay.id();
    let mut taken = usage::processor_time(relay)?;
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = usage::processor_time(relay)?;
        if now.saturating_sub(taken) <= Duration::from_millis(10) {
            return Ok(usage::memory(relay)?.now_kib);
        }
        taken = now;
    }
}

/// A socket each, here as in the relay.
fn allow_files(crowd: usize) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = crowd as u64 + 200;
    ensure!(
        hard >= wanted,
        "{wanted} open files are needed and {hard} allowed: ulimit -Hn {wanted}"
    );
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}
