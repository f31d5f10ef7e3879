//! Thousands of pullers in instant mode, as light as they can be: each logs in, asks with XWAIT, says yes to all
//! that comes, and waits for more. They keep nothing and journal nothing; the relay is what is measured.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use atrn_shared::tls::{Alpn, ClientTls, Trust};
use atrn_shared::wire::Wire;
use atrn_tests::peer;
use rustls::pki_types::ServerName;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

/// Logins at a time.
const LOGINS_AT_ONCE: usize = 32;
/// How long a step may take while all of them log in.
const PATIENCE: Duration = Duration::from_secs(120);

/// An account, and its secret.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) account: String,
    pub(crate) secret: Arc<str>,
}

/// All of them; they hang up when this is dropped.
#[derive(Debug)]
pub(crate) struct Pullers {
    arrivals: Receiver<Arrival>,
    shared: Arc<Shared>,
    // Last: its tasks end with it.
    _runtime: Runtime,
}

/// A message that a puller has whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) puller: usize,
    pub(crate) at: Instant,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    tls: ClientTls,
    /// The longest silence that they ask for.
    wait: Duration,
    logins: Semaphore,
    asked: AtomicUsize,
    /// Sessions that the relay has turned, or said another word to.
    addressed: AtomicUsize,
    ended: Mutex<Option<String>>,
}

impl Pullers {
    /// One for each login. Returns when all have asked for mail.
    pub(crate) fn start(address: SocketAddr, logins: Vec<Login>, wait: Duration) -> Result<Self> {
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        let shared = Arc::new(Shared {
            address,
            tls: ClientTls::new(&Trust::Anyone, None, Alpn::Smtp)?,
            wait,
            logins: Semaphore::new(LOGINS_AT_ONCE),
            asked: AtomicUsize::new(0),
            addressed: AtomicUsize::new(0),
            ended: Mutex::new(None),
        });
        let (arrived, arrivals) = channel();
        let all = logins.len();
        for (number, login) in logins.into_iter().enumerate() {
            let (shared, arrived) = (Arc::clone(&shared), arrived.clone());
            runtime.spawn(async move {
                let ended = run(&shared, number, &login, arrived).await;
                let ended = ended.map_or_else(|error| format!("{error:#}"), |()| "221".to_owned());
                let mut first = shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(format!("{}: {ended}", login.account));
            });
        }
        let pullers = Self {
            arrivals,
            shared,
            _runtime: runtime,
        };
        while pullers.shared.asked.load(Ordering::Relaxed) < all {
            pullers.all_are_there()?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(pullers)
    }

    /// The next message that any of them has.
    pub(crate) fn next(&self) -> Result<Arrival> {
        let arrival = self.arrivals.recv_timeout(Duration::from_secs(30));
        self.all_are_there()?;
        arrival.context("a message did not come to a puller")
    }

    /// Sessions to which the relay has said something since their ATRN.
    pub(crate) fn addressed(&self) -> usize {
        self.shared.addressed.load(Ordering::Relaxed)
    }

    /// Fails when a session has ended: it would not be counted with those that idle.
    pub(crate) fn all_are_there(&self) -> Result<()> {
        let ended = self
            .shared
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ensure!(
            ended.is_none(),
            "a puller's session ended: {}",
            ended.as_deref().unwrap_or_default()
        );
        Ok(())
    }
}

async fn run(
    shared: &Shared,
    number: usize,
    login: &Login,
    arrived: Sender<Arrival>,
) -> Result<()> {
    let permit = shared.logins.acquire().await?;
    let mut line = Line::connect(shared).await?;
    line.log_in(login).await?;
    let wait = shared.wait.as_secs();
    line.say(&format!("ATRN XWAIT={wait}"));
    line.flush().await?;
    drop(permit);
    shared.asked.fetch_add(1, Ordering::Relaxed);
    // Longer than the relay may be silent.
    let answer = line.read(shared.wait + PATIENCE).await?;
    shared.addressed.fetch_add(1, Ordering::Relaxed);
    ensure!(answer.starts_with("250"), "ATRN was answered with {answer}");
    line.say("220 puller.example ESMTP");
    loop {
        line.flush().await?;
        let command = line.read(shared.wait + PATIENCE).await?;
        match line.answer(&command).await? {
            Said::Command => {}
            Said::Message => {
                let at = Instant::now();
                // Whoever counts may have gone.
                arrived.send(Arrival { puller: number, at }).ok();
            }
            Said::Goodbye => return line.flush().await,
        }
    }
}

enum Said {
    Command,
    Message,
    Goodbye,
}

/// The puller's end of a connection.
struct Line {
    wire: Wire,
    output: Vec<u8>,
}

impl Line {
    async fn connect(shared: &Shared) -> Result<Self> {
        let name = ServerName::try_from("relay.example.net")?;
        let wire = Wire::connect(&[shared.address], PATIENCE).await?;
        let wire = wire.connect_tls(&shared.tls, name, PATIENCE).await?;
        Ok(Self {
            wire,
            output: Vec::new(),
        })
    }

    /// By CRAM-MD5: thousands of them at a time should not wait for the work that others make on purpose.
    async fn log_in(&mut self, login: &Login) -> Result<()> {
        self.reply("220").await?;
        self.say("EHLO puller.example");
        self.reply("250").await?;
        self.say("AUTH CRAM-MD5");
        let challenge = self.reply("334").await?;
        let challenge = challenge.get(4..).unwrap_or_default();
        self.say(&peer::cram_md5(challenge, &login.account, &login.secret));
        self.reply("235").await?;
        Ok(())
    }

    async fn reply(&mut self, code: &str) -> Result<String> {
        self.flush().await?;
        loop {
            let line = self.read(PATIENCE).await?;
            ensure!(line.starts_with(code), "{code} was due, and came: {line}");
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line);
            }
        }
    }

    async fn answer(&mut self, command: &str) -> Result<Said> {
        let verb = command.split(' ').next().unwrap_or_default();
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => self.say(
                "250-puller.example\r\n250-PIPELINING\r\n250-SIZE\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
                 250-CHUNKING\r\n250 ENHANCEDSTATUSCODES",
            ),
            "BDAT" => {
                let mut words = command.split(' ').skip(1);
                let octets = words.next().unwrap_or_default().parse()?;
                self.skip(octets).await?;
                self.say("250 2.0.0 Ok");
                if words.next().is_some() {
                    return Ok(Said::Message);
                }
            }
            "MAIL" | "RCPT" | "RSET" | "NOOP" => self.say("250 2.0.0 Ok"),
            "QUIT" => {
                self.say("221 2.0.0 Bye");
                return Ok(Said::Goodbye);
            }
            _ => bail!("the relay said {command:?}"),
        }
        Ok(Said::Command)
    }

    fn say(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(self.wire.write(&mut self.output, PATIENCE).await?)
    }

    /// The next line, without its end.
    async fn read(&mut self, wait: Duration) -> Result<String> {
        loop {
            let end = memchr::memmem::find(self.wire.input.bytes(), b"\r\n");
            if let Some(end) = end {
                let line = self.wire.input.take(end + 2);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.wire.input.release();
            self.wire.read(wait).await?;
        }
    }

    async fn skip(&mut self, mut octets: usize) -> Result<()> {
        loop {
            octets -= self.wire.input.take(octets).len();
            if octets == 0 {
                return Ok(());
            }
            self.wire.read(PATIENCE).await?;
        }
    }
}
