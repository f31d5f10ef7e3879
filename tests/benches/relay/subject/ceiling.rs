//! What no mail server on this machine can exceed: the syncs of the disk, the loopback with and without TLS, and the
//! tools among themselves.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use atrn_tests::certs::{self, Certificate};
use atrn_tests::stream::Stream;

use crate::figures::{Measured, Row, Samples, Unit};
use crate::party::{Connections, DOMAIN, Load, Plan};

/// As a relay writes: many records of TLS in one call.
const PIECE_OCTETS: usize = 64 << 10;

#[derive(Clone, Copy)]
enum Security {
    None,
    Tls,
}

pub(super) fn measure(plan: &Plan) -> Result<Measured> {
    let samples = |once: &dyn Fn(&Plan) -> Result<f64>| -> Result<Samples> {
        (0..plan.runs).map(|_| once(plan)).collect()
    };
    let bandwidth = Unit::MegabytesPerSecond;
    let mut rows = vec![
        Row::new(
            "4 KiB appended and synced, one after the other",
            Unit::PerSecond,
            samples(&syncs)?,
        )
        .note("the disk"),
        Row::new(
            "loopback, one connection",
            bandwidth,
            samples(&|plan| loopback(plan, Security::None))?,
        )
        .note("both ends on this machine"),
        Row::new(
            "loopback, one connection, TLS 1.3",
            bandwidth,
            samples(&|plan| loopback(plan, Security::Tls))?,
        )
        .note("rustls at both ends"),
    ];
    for (sessions, octets, name) in [
        (50, 4 << 10, "smtp-source to smtp-sink, 4 KiB, 50 sessions"),
        (1, 4 << 10, "smtp-source to smtp-sink, 4 KiB, 1 session"),
        (10, 1 << 20, "smtp-source to smtp-sink, 1 MiB, 10 sessions"),
    ] {
        let load = Load {
            sessions,
            octets,
            domain: DOMAIN,
            connections: Connections::Kept,
        };
        rows.push(Row::new(name, Unit::PerSecond, tools(plan, load)?).note("nothing stored"));
    }
    Ok(rows.into())
}

/// Syncs a second.
fn syncs(plan: &Plan) -> Result<f64> {
    let path = plan.folder.join("syncs");
    let mut file = File::create(&path)?;
    let block = [b'x'; 4 << 10];
    let started = Instant::now();
    let mut count = 0_u32;
    while started.elapsed() < plan.run_length / 2 {
        file.write_all(&block)?;
        file.sync_data()?;
        count += 1;
    }
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(rate)
}

/// MB a second over one connection, as its reader gets them.
fn loopback(plan: &Plan, security: Security) -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let certificate = Certificate::for_name("localhost");
    let length = plan.run_length / 2;
    let sender = std::thread::spawn(move || {
        let (stream, _) = listener.accept()?;
        let stream = Stream::tcp(stream)?;
        let mut stream = match security {
            Security::None => stream,
            Security::Tls => stream.into_tls_server(&certificate.server())?,
        };
        let started = Instant::now();
        while started.elapsed() < length {
            stream.write_all(&[b'x'; PIECE_OCTETS])?;
        }
        stream.finish_sending();
        std::io::Result::Ok(())
    });
    let stream = Stream::tcp(TcpStream::connect(address)?)?;
    let mut stream = match security {
        Security::None => stream,
        Security::Tls => stream.into_tls_client(&certs::trusting_client())?,
    };
    let mut piece = [0; PIECE_OCTETS];
    let (mut octets, started) = (0_usize, Instant::now());
    loop {
        match stream.read(&mut piece)? {
            0 => break,
            count => octets += count,
        }
    }
    let took = started.elapsed().as_secs_f64();
    let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))?;
    sent.context("sending over loopback")?;
    Ok(octets as f64 / 1e6 / took)
}

/// Messages a second from Postfix's sender to Postfix's sink.
fn tools(plan: &Plan, load: Load<'_>) -> Result<Samples> {
    let sink = plan.sink()?;
    let messages = load.fitting(plan, sink.address())?;
    let run = |_| load.rate(sink.address(), messages);
    (0..plan.runs).map(run).collect()
}
