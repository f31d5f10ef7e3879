//! A backlog on its way in: one reversed session through the puller, beside Postfix on one connection.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use atrn_tests::process::Output;
use atrn_tests::software::Postfix;
use atrn_tests::world::{ACCOUNT, Puller, World};

use crate::figures::{Row, Samples, Unit, Wanted};
use crate::party::{Arrivals, DOMAIN, Load, Plan, Sink};

const LOAD: Load<'static> = Load {
    sessions: 10,
    octets: 4 << 10,
    domain: DOMAIN,
};

/// Reversed sessions side by side.
const SESSIONS: usize = 4;

pub(super) fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let mut sink = plan.sink()?;
    let mut world = plan.relay(&sink.target(), &[DOMAIN]);
    let postfix = plan.postfix(sink.address())?;
    let messages = plan.amount(5_000, 1_000);
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for _ in 0..plan.runs {
        ours.push(pull(&mut world, &mut sink, messages)?);
        theirs.push(push(&postfix, &mut sink, messages)?);
    }
    let name = "drain, 4 KiB, one connection, to smtp-sink";
    let row = Row::new(name, Unit::PerSecond, ours)
        .beside("Postfix", theirs)
        .wanted(Wanted::RatioAtLeast(2.0))
        .note(format!(
            "{messages} queued; ours over TLS and through the puller"
        ));
    Ok(vec![row, sessions(plan)?])
}

/// Reversed sessions side by side: what the journal and the delivery ids cost, beside a puller without them.
fn sessions(plan: &Plan) -> Result<Row> {
    let mut sink = plan.sink()?;
    let mut world = plan.relay(&sink.target(), &[DOMAIN]);
    let messages = plan.amount(10_000, 2_000);
    let name = format!("drain, 4 KiB, {SESSIONS} sessions, to smtp-sink");
    several_relays(&world.puller);
    let mut before = plan.puller_before.as_ref().map(|program| {
        let mut puller = world.another_puller(ACCOUNT, &[DOMAIN], &sink.target());
        several_relays(&puller);
        puller.set_program(program.clone());
        puller
    });
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for _ in 0..plan.runs {
        let relay = world.relay.smtp_address();
        ours.push(pull_side_by_side(
            relay,
            &mut world.puller,
            &mut sink,
            messages,
        )?);
        if let Some(before) = &mut before {
            theirs.push(pull_side_by_side(relay, before, &mut sink, messages)?);
        }
    }
    let row = Row::new(name, Unit::PerSecond, ours).note(format!("{messages} queued"));
    Ok(match before {
        None => row,
        Some(_) => row
            .beside("puller before", theirs)
            .wanted(Wanted::RatioAtLeast(0.9)),
    })
}

/// The same relay under several names: a session for each.
fn several_relays(puller: &Puller) {
    puller.configure(|settings| {
        let relays = settings
            .table()
            .get_mut("relay")
            .and_then(toml::Value::as_array_mut);
        let relays = relays.expect("a list of relays");
        let one = relays[0].clone();
        relays.clear();
        for number in 1..=SESSIONS {
            let mut relay = one.clone();
            let table = relay.as_table_mut().expect("a table");
            table.insert("name".to_owned(), format!("mx{number}").into());
            table.insert("every".to_owned(), "1h".into());
            relays.push(relay);
        }
    });
}

fn pull_side_by_side(
    relay: SocketAddr,
    puller: &mut Puller,
    sink: &mut Sink,
    messages: usize,
) -> Result<f64> {
    LOAD.send(relay, messages)?;
    let before = sink.counts()?;
    puller.start();
    let arrivals = sink.watch(before, messages)?;
    let code = puller.stop();
    ensure!(code == 0, "the puller ended with {code}:\n{}", puller.log());
    arrivals.rate().context("too few messages to time")
}

/// Our way: the relay holds, the puller asks, the mail comes back on that connection.
fn pull(world: &mut World, sink: &mut Sink, messages: usize) -> Result<f64> {
    LOAD.send(world.relay.smtp_address(), messages)?;
    let before = sink.counts()?;
    world.puller.begin_pull();
    let arrivals = sink.watch(before, messages)?;
    let code = world.puller.pulled();
    ensure!(
        code == 0,
        "the puller ended with {code}:\n{}",
        world.puller.log()
    );
    rate(&arrivals)
}

/// Postfix's way: what it held is released, and goes to its next hop.
fn push(postfix: &Postfix, sink: &mut Sink, messages: usize) -> Result<f64> {
    LOAD.send(postfix.address(), messages)?;
    let before = sink.counts()?;
    expect(postfix.command("postsuper").args(["-H", "ALL"]))?;
    expect(postfix.command("postqueue").arg("-f"))?;
    let arrivals = sink.watch(before, messages)?;
    rate(&arrivals)
}

fn rate(arrivals: &Arrivals) -> Result<f64> {
    // More would be another comparison. Postfix may begin anew once, when its cache does not have the connection yet.
    ensure!(
        arrivals.connections <= 2,
        "{} connections in place of one",
        arrivals.connections
    );
    arrivals.rate().context("too few messages to time")
}

fn expect(command: &mut Command) -> Result<()> {
    let output = Output::within(command, Duration::from_secs(120));
    ensure!(output.code == 0, "{command:?}: {}", output.stderr.trim());
    Ok(())
}
