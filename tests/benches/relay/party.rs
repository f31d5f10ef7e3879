//! Who takes part: our relay and puller, the private Postfix, `smtp-source` and `smtp-sink`.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use atrn_tests::ports::Port;
use atrn_tests::process::{Output, Process};
use atrn_tests::software::{Postfix, Software};
use atrn_tests::world::World;

pub(crate) const DOMAIN: &str = "clientdom.example";
pub(crate) const OTHER_DOMAIN: &str = "otherdom.example";
/// A file system in memory that every Linux has.
const MEMORY: &str = "/dev/shm";
/// Octets of content that one run may send: enough to be seen, and the disk keeps its breath.
const RUN_OCTETS_MAX: usize = 256 << 20;
const RUN_MESSAGES_MAX: usize = 60_000;
/// A closed connection keeps its port for a while, at worst a minute, and there are 28,000: five runs stay below.
const RUN_CONNECTIONS_MAX: usize = 4_000;
/// How long anything may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(600);

/// How much is measured, and where.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) folder: PathBuf,
    pub(crate) quick: bool,
    pub(crate) runs: usize,
    pub(crate) run_length: Duration,
    /// A puller of another build, to compare with.
    pub(crate) puller_before: Option<PathBuf>,
}

impl Plan {
    pub(crate) fn new(folder: &Path, quick: bool) -> Self {
        Self {
            folder: folder.to_owned(),
            quick,
            runs: if quick { 2 } else { 5 },
            run_length: Duration::from_millis(if quick { 700 } else { 1_500 }),
            puller_before: None,
        }
    }

    /// A folder that is in memory, of the same name.
    pub(crate) fn in_memory(&self) -> PathBuf {
        in_memory(&self.folder)
    }

    /// The long amount, or the short one.
    pub(crate) fn amount(&self, long: usize, quick: usize) -> usize {
        if self.quick { quick } else { long }
    }

    /// A relay with one account for all domains, and limits that let one address do all of the work; all else as
    /// it comes, logging and durability included.
    pub(crate) fn relay(&self, target: &str, domains: &[&str]) -> World {
        let mut setup = World::setup()
            .under(&self.folder)
            .relay("smtp.max_connections_per_ip", 1_000)
            .relay("smtp.max_message_size", "100MB")
            .puller("limits.max_message_size", "110MB")
            .target(target);
        for domain in domains {
            setup = setup.domain(domain);
        }
        setup.start()
    }

    /// A Postfix that does what the relay does: it takes mail for every domain, and holds it. What could slow it
    /// down without serving that is off, the limits are lifted, logging and durability stay. What is released goes
    /// to the sink over so many connections, kept from message to message.
    pub(crate) fn postfix(&self, sink: SocketAddr, connections: usize) -> Result<Postfix> {
        let connections = connections.to_string();
        let next_hop = format!("relay:[{}]:{}", sink.ip(), sink.port());
        let settings = [
            ("virtual_mailbox_domains", ""),
            ("relay_domains", "static:all"),
            ("relay_transport", &next_hop),
            (
                "smtpd_recipient_restrictions",
                "check_recipient_access static:HOLD, permit_mynetworks, reject",
            ),
            ("default_process_limit", "200"),
            ("max_use", "10000"),
            ("smtpd_timeout", "300s"),
            ("smtpd_banner", "$myhostname ESMTP"),
            ("initial_destination_concurrency", &connections),
            ("default_destination_concurrency_limit", &connections),
            ("relay_destination_concurrency_limit", &connections),
            ("smtp_destination_concurrency_limit", &connections),
        ];
        Postfix::start_with(DOMAIN, &self.folder, &settings).context("Postfix is not installed")
    }

    pub(crate) fn sink(&self) -> Result<Sink> {
        Sink::start(&self.folder)
    }
}

/// The folder in memory that belongs to one on the disk.
pub(crate) fn in_memory(folder: &Path) -> PathBuf {
    Path::new(MEMORY).join(folder.file_name().unwrap_or_default())
}

/// What `smtp-source` is told to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load<'d> {
    pub(crate) sessions: usize,
    pub(crate) octets: usize,
    pub(crate) domain: &'d str,
    pub(crate) connections: Connections,
}

/// What becomes of a sender's connection after a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connections {
    /// It carries the next one.
    Kept,
    /// It ends, and another is opened.
    New,
}

impl Load<'_> {
    /// Sends so many messages; every one must be accepted.
    pub(crate) fn send(self, address: SocketAddr, messages: usize) -> Result<Duration> {
        self.send_from("sender@source.example", address, messages)
    }

    /// The same, with this reverse-path.
    pub(crate) fn send_from(
        self,
        reverse_path: &str,
        address: SocketAddr,
        messages: usize,
    ) -> Result<Duration> {
        let program = Software::SmtpSource.find().context("smtp-source")?;
        let mut command = Command::new(program);
        command
            .args(["-C", "10", "-f", reverse_path])
            .args(["-s", &self.sessions.min(messages).to_string()])
            .args(["-m", &messages.to_string()])
            .args(["-l", &self.octets.to_string()])
            .args(["-t", &format!("user@{}", self.domain)])
            .args((self.connections == Connections::Kept).then_some("-d"))
            .arg(address.to_string());
        let started = Instant::now();
        let output = Output::within(&mut command, PATIENCE);
        let took = started.elapsed();
        ensure!(output.code == 0, "smtp-source: {}", output.stderr.trim());
        Ok(took)
    }

    /// Messages a second, over so many.
    pub(crate) fn rate(self, address: SocketAddr, messages: usize) -> Result<f64> {
        let took = self.send(address, messages)?;
        Ok(messages as f64 / took.as_secs_f64())
    }

    /// How many messages make a run of the planned length, by a short run before.
    pub(crate) fn fitting(self, plan: &Plan, address: SocketAddr) -> Result<usize> {
        let messages_max = match self.connections {
            Connections::Kept => RUN_MESSAGES_MAX,
            Connections::New => RUN_CONNECTIONS_MAX,
        };
        let most = (RUN_OCTETS_MAX / self.octets).clamp(8, messages_max);
        let trial = (self.sessions * 20).clamp(40, most.max(40)).min(most);
        let took = self.send(address, trial)?;
        let fitting = trial as f64 * plan.run_length.as_secs_f64() / took.as_secs_f64();
        Ok((fitting as usize).clamp(trial, most))
    }
}

/// An `smtp-sink` that counts what it gets.
#[derive(Debug)]
pub(crate) struct Sink {
    process: RefCell<Process>,
    port: Port,
    counts: PathBuf,
}

/// What a sink has counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connections: usize,
    pub(crate) messages: usize,
}

/// When messages arrived at a sink.
#[derive(Debug)]
pub(crate) struct Arrivals {
    /// How many had arrived, and when that was seen.
    seen: Vec<(Instant, usize)>,
    /// On how many connections.
    pub(crate) connections: usize,
}

impl Sink {
    fn start(folder: &Path) -> Result<Self> {
        let program = Software::SmtpSink.find().context("smtp-sink")?;
        let port = Port::reserve();
        let counts = folder.join(format!("sink-{}", port.number()));
        let mut command = Command::new(program);
        command.args(["-c", "-4"]);
        if nix::unistd::geteuid().is_root() {
            command.args(["-u", "nobody"]);
        }
        command.arg(port.address().to_string()).arg("1000");
        let mut process = Process::start("smtp-sink", &mut command, &counts);
        process.wait_until("it answers", || TcpStream::connect(port.address()).is_ok());
        Ok(Self {
            process: RefCell::new(process),
            port,
            counts,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// As `[handover] target` has it.
    pub(crate) fn target(&self) -> String {
        format!("smtp://{}", self.address())
    }

    pub(crate) fn counts(&self) -> Result<Counts> {
        let mut file = File::open(&self.counts)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(200)))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        // Each is `sess=1 quit=0 mesg=7` and a carriage return; the last one may be half written.
        let number = |text: &str, name: &str| {
            let (_, rest) = text.rsplit_once(name)?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let mut whole = text.split_inclusive('\r').rev();
        let last = whole.find_map(|part| {
            Some(Counts {
                connections: number(part, "sess=")?,
                messages: number(part.strip_suffix('\r')?, "mesg=")?,
            })
        });
        Ok(last.unwrap_or_default())
    }

    /// Watches until so many more messages have come than before.
    pub(crate) fn watch(&self, before: Counts, messages: usize) -> Result<Arrivals> {
        let mut arrivals = Arrivals {
            seen: Vec::new(),
            connections: 0,
        };
        let end = Instant::now() + PATIENCE;
        let mut last = 0;
        while last < messages {
            let counts = self.counts()?;
            let count = counts.messages.saturating_sub(before.messages);
            if count > last {
                arrivals.seen.push((Instant::now(), count));
                arrivals.connections = counts.connections - before.connections;
                last = count;
            }
            ensure!(
                Instant::now() < end,
                "{last} of {messages} messages came to smtp-sink"
            );
            ensure!(self.process.borrow_mut().is_running(), "smtp-sink ended");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(arrivals)
    }
}

impl Arrivals {
    /// Messages a second from the first to the last.
    pub(crate) fn rate(&self) -> Option<f64> {
        let (first, last) = (self.seen.first()?, self.seen.last()?);
        let time = last.0.duration_since(first.0).as_secs_f64();
        (time > 0.0).then(|| (last.1 - first.1) as f64 / time)
    }
}
