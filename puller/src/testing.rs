//! Peers for the tests of this crate: a corporate server that records and misbehaves by script, and a relay's end of a
//! reversed session.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atrn_shared::config::Address;
use atrn_shared::smtp::address::Domain;
use tempfile::TempDir;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::config::{CONNECTIONS_DEFAULT, HandoverConfig, HandoverTls, Limits, Target};
use crate::flow::Flow;
use crate::handover::Setup;
use crate::journal::Journal;
use crate::reversed::Terms;

pub(crate) mod relay;

/// A test that waits longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a corporate server does.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) lmtp: bool,
    pub(crate) greeting: &'static str,
    pub(crate) keywords: &'static [&'static str],
    /// The answer to commands that begin so; `.` is the end of the data, `` in front of content. The first that fits
    /// counts, and is used up after so many times.
    pub(crate) rules: Vec<(&'static str, Action, usize)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Reply(&'static str),
    /// When it is [released](Corporate::release).
    Hold(&'static str),
    HangUp,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            lmtp: false,
            greeting: "220 mail.corp.local ESMTP secret banner 1.0",
            keywords: &[
                "PIPELINING",
                "SIZE 10000000",
                "8BITMIME",
                "SMTPUTF8",
                "DSN",
                "XCORP secret",
            ],
            rules: Vec::new(),
        }
    }
}

impl Script {
    pub(crate) fn offering(keywords: &'static [&'static str]) -> Self {
        Self {
            keywords,
            ..Self::default()
        }
    }

    pub(crate) fn on(self, command: &'static str, reply: &'static str) -> Self {
        self.rule(command, Action::Reply(reply), usize::MAX)
    }

    pub(crate) fn once(self, command: &'static str, reply: &'static str) -> Self {
        self.rule(command, Action::Reply(reply), 1)
    }

    pub(crate) fn hold_once(self, command: &'static str, reply: &'static str) -> Self {
        self.rule(command, Action::Hold(reply), 1)
    }

    pub(crate) fn hang_up_once(self, command: &'static str) -> Self {
        self.rule(command, Action::HangUp, 1)
    }

    pub(crate) fn rule(mut self, command: &'static str, action: Action, times: usize) -> Self {
        self.rules.push((command, action, times));
        self
    }
}

/// What it saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) sessions: usize,
    pub(crate) ended: usize,
    /// Replies that are held back.
    pub(crate) held: usize,
    /// Command lines, `-` between sessions.
    pub(crate) commands: Vec<String>,
    /// What came in one piece.
    pub(crate) flights: Vec<String>,
    /// Contents that were complete, dots unstuffed.
    pub(crate) messages: Vec<String>,
    /// Contents that were cut off.
    pub(crate) torn: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Corporate {
    pub(crate) target: Target,
    shared: Arc<Shared>,
    _folder: Option<TempDir>,
}

#[derive(Debug)]
struct Shared {
    script: Mutex<Script>,
    record: Mutex<Record>,
    changed: Notify,
    released: Semaphore,
}

impl Corporate {
    pub(crate) async fn start(script: Script) -> Self {
        let lmtp = script.lmtp;
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            record: Mutex::default(),
            changed: Notify::new(),
            released: Semaphore::new(0),
        });
        if lmtp {
            return Self::start_unix(shared);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream, Arc::clone(&serving)));
            }
        });
        let target = Target::Smtp(Address {
            host: address.ip().to_string(),
            port: address.port(),
        });
        Self {
            target,
            shared,
            _folder: None,
        }
    }

    fn start_unix(shared: Arc<Shared>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lmtp");
        let listener = UnixListener::bind(&path).unwrap();
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&serving)));
            }
        });
        Self {
            target: Target::LmtpUnix(path),
            shared,
            _folder: Some(folder),
        }
    }

    pub(crate) fn setup(&self) -> Setup {
        setup(self.target.clone())
    }

    pub(crate) fn record(&self) -> Record {
        self.shared.record.lock().unwrap().clone()
    }

    /// Lets so many replies go that are held back, now or later.
    pub(crate) fn release(&self, replies: usize) {
        self.shared.released.add_permits(replies);
    }

    /// Rewrites the script for what comes from now on.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.shared.script.lock().unwrap());
    }

    /// Waits until what it saw is as it should be.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Record) -> bool) -> Record {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                let record = self.record();
                if holds(&record) {
                    return record;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(record) => record,
            Err(_) => panic!("never {what}: {:#?}", self.record()),
        }
    }
}

/// A target reached in the clear.
pub(crate) fn setup(target: Target) -> Setup {
    Setup::for_tests(HandoverConfig {
        target,
        tls: HandoverTls::Off,
        login: None,
        connections: CONNECTIONS_DEFAULT,
    })
}

impl Shared {
    fn note(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.record.lock().unwrap());
        self.changed.notify_waiters();
    }

    fn action(&self, line: &str, right: &'static str) -> Action {
        let mut script = self.script.lock().unwrap();
        let line = line.to_ascii_uppercase();
        let fits = |(command, _, times): &&mut (&str, Action, usize)| {
            *times > 0 && line.starts_with(&command.to_ascii_uppercase())
        };
        match script.rules.iter_mut().find(fits) {
            Some((_, action, times)) => {
                *times -= 1;
                *action
            }
            None => Action::Reply(right),
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, shared: Arc<Shared>) {
    shared.note(|record| {
        record.sessions += 1;
        record.commands.push("-".to_owned());
    });
    let mut session = Session {
        stream,
        shared: Arc::clone(&shared),
        input: Vec::new(),
        recipients: 0,
    };
    let _ = session.run().await;
    drop(session);
    shared.note(|record| record.ended += 1);
}

struct Session<S> {
    stream: S,
    shared: Arc<Shared>,
    input: Vec<u8>,
    recipients: usize,
}

/// The session is over.
struct Over;

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    async fn run(&mut self) -> Result<(), Over> {
        let (greeting, lmtp) = {
            let script = self.shared.script.lock().unwrap();
            (script.greeting, script.lmtp)
        };
        let action = self.shared.action("GREETING", greeting);
        self.act(action).await?;
        loop {
            let line = self.line().await?;
            self.shared
                .note(|record| record.commands.push(line.clone()));
            let right = match line.split([' ', ':']).next().unwrap_or_default() {
                "EHLO" if !lmtp => "hello",
                "LHLO" if lmtp => "hello",
                "MAIL" => "250 2.1.0 sender at mail.corp.local fine",
                "RCPT" => "250 2.1.5 recipient fine",
                "DATA" if self.recipients == 0 => "554 5.5.1 nobody",
                "DATA" => "354 come on",
                "RSET" | "NOOP" => "250 2.0.0 fine",
                "QUIT" => "221 2.0.0 bye",
                _ => "500 5.5.2 what",
            };
            let action = self.shared.action(&line, right);
            let said = self.act(action).await?;
            match &line[..4] {
                "MAIL" | "RSET" => self.recipients = 0,
                "RCPT" if said.starts_with('2') => self.recipients += 1,
                "QUIT" => return Ok(()),
                "DATA" if said.starts_with('3') => self.content(lmtp).await?,
                _ => {}
            }
        }
    }

    async fn content(&mut self, lmtp: bool) -> Result<(), Over> {
        let mut content = String::new();
        loop {
            let Ok(line) = self.line().await else {
                self.shared.note(|record| record.torn.push(content));
                return Err(Over);
            };
            if line == "." {
                break;
            }
            content += line.strip_prefix('.').unwrap_or(&line);
            content += "\r\n";
            if matches!(self.shared.action("CONTENT", ""), Action::HangUp) {
                return Err(Over);
            }
        }
        for _ in 0..if lmtp { self.recipients } else { 1 } {
            let action = self
                .shared
                .action(".", "250 2.0.0 queued at mail.corp.local as 7");
            let reply = self.reply(action).await?;
            if reply.starts_with('2') {
                self.shared
                    .note(|record| record.messages.push(content.clone()));
            }
            self.say(reply).await?;
        }
        self.recipients = 0;
        Ok(())
    }

    async fn act(&mut self, action: Action) -> Result<&'static str, Over> {
        let reply = self.reply(action).await?;
        self.say(reply).await?;
        Ok(reply)
    }

    /// What is to be said, when it is time.
    async fn reply(&self, action: Action) -> Result<&'static str, Over> {
        match action {
            Action::Reply(reply) => Ok(reply),
            Action::Hold(reply) => {
                self.shared.note(|record| record.held += 1);
                let released = self.shared.released.acquire().await;
                released.map_err(|_| Over)?.forget();
                Ok(reply)
            }
            Action::HangUp => Err(Over),
        }
    }

    async fn say(&mut self, reply: &'static str) -> Result<(), Over> {
        let text = if reply == "hello" {
            let keywords = self.shared.script.lock().unwrap().keywords;
            let lines = keywords
                .iter()
                .map(|keyword| format!("250-{keyword}\r\n"))
                .collect::<String>();
            format!("250-mail.corp.local\r\n{lines}250 HELP\r\n")
        } else {
            format!("{reply}\r\n")
        };
        self.stream
            .write_all(text.as_bytes())
            .await
            .map_err(|_| Over)
    }

    async fn line(&mut self) -> Result<String, Over> {
        loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<_> = self.input.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            let mut piece = vec![0; 1 << 20];
            let count = self.stream.read(&mut piece).await.map_err(|_| Over)?;
            if count == 0 {
                return Err(Over);
            }
            piece.truncate(count);
            self.shared.note(|record| {
                record
                    .flights
                    .push(String::from_utf8_lossy(&piece).into_owned())
            });
            self.input.extend_from_slice(&piece);
        }
    }
}

/// The relay's end of a reversed session.
#[derive(Debug)]
pub(crate) struct RelayEnd<S = UnixStream> {
    stream: BufReader<S>,
}

impl RelayEnd {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// To read and to write at the same time.
    pub(crate) fn into_halves(self) -> (RelayEnd<OwnedReadHalf>, OwnedWriteHalf) {
        let (reads, writes) = self.stream.into_inner().into_split();
        let reads = RelayEnd {
            stream: BufReader::new(reads),
        };
        (reads, writes)
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Sends, and holds the codes of the replies against what they should be.
    #[track_caller]
    pub(crate) fn expect<'a>(
        &'a mut self,
        text: &'a str,
        expected: &'a [&'a str],
    ) -> impl Future<Output = ()> + 'a {
        let place = std::panic::Location::caller();
        async move {
            self.send(text).await;
            let codes = self.codes(expected.len()).await;
            assert_eq!(codes, expected, "{text:?} at {place}");
        }
    }

    /// Takes the greeting and says hello.
    pub(crate) async fn hello(&mut self) -> String {
        assert_eq!(self.reply().await, "220 puller.example.org ESMTP");
        self.send("EHLO relay.example.net\r\n").await;
        self.reply().await
    }
}

impl<S: AsyncRead + Unpin> RelayEnd<S> {
    /// The next reply, all its lines joined; empty at the end of the stream.
    pub(crate) async fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            let read = tokio::time::timeout(PATIENCE, self.stream.read_line(&mut line)).await;
            let count = read.expect("a reply in time").unwrap_or(0);
            reply += line.trim_end();
            if count == 0 || line.as_bytes().get(3) != Some(&b'-') {
                return reply;
            }
            reply += "|";
        }
    }

    /// The codes of so many replies, those with enhanced codes with them.
    pub(crate) async fn codes(&mut self, count: usize) -> Vec<String> {
        let mut codes = Vec::new();
        for _ in 0..count {
            let reply = self.reply().await;
            let words: Vec<_> = reply.split(' ').collect();
            let is_enhanced = words
                .get(1)
                .is_some_and(|word| word.split('.').count() == 3);
            codes.push(words[..if is_enhanced { 2 } else { 1 }].join(" "));
        }
        codes
    }
}

pub(crate) fn terms(journal: Journal) -> Terms {
    Terms {
        hostname: "puller.example.org".to_owned(),
        relay: "mx1".to_owned(),
        session: "5e5510".to_owned(),
        domains: vec![
            Domain::parse("example.org").unwrap(),
            Domain::parse("example.com").unwrap(),
        ],
        limits: Limits {
            max_message_size: 100_000,
            ..Limits::default()
        },
        idle_timeout: Limits::default().reply_timeout,
        journal,
        reports: None,
        flow: Flow::default(),
        stop: CancellationToken::new(),
    }
}

/// A new journal.
pub(crate) fn journal(folder: &TempDir) -> Journal {
    Journal::open(folder.path()).unwrap()
}
