//! A relay that a test plays, in the clear on loopback: it takes connections up to ATRN, and the test goes on from there.

use atrn_shared::config::load;
use atrn_shared::secret::Secret;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{Corporate, PATIENCE};
use crate::config::{Credentials, PullerConfig};
use crate::session::{Pull, Purpose, Rank};

/// The settings of a pull, by way of a file as anybody would write it.
pub(crate) fn pull(address: &str, corporate: &Corporate, purpose: Purpose) -> Pull {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("puller.toml");
    let text = format!(
        "hostname = \"puller.example.org\"\n[[relay]]\nname = \"mx1\"\naddress = \"{address}\"\ntls = \"off\"\naccount = \"corp\"\n\
         secret_file = \"s\"\nweakest_mechanism = \"CRAM-MD5\"\ndomains = [\"example.org\", \"example.com\"]\n\
         [handover]\ntarget = \"maildir:/nowhere\"\n"
    );
    std::fs::write(&path, text).unwrap();
    let config: PullerConfig = load(&path).unwrap().config;
    let relay = config.relays[0].clone();
    Pull {
        hostname: config.hostname.to_string(),
        domains: relay.domains.clone(),
        relay,
        credentials: Credentials {
            secret: Some(Secret::new("tanstaaf".to_owned())),
            remembered: Default::default(),
            identity: None,
            tls: None,
        },
        limits: config.limits,
        handover: corporate.setup(),
        purpose,
        reports: None,
        wait: None,
        rank: Rank::Main,
        stop: CancellationToken::new(),
        needless: CancellationToken::new(),
    }
}

/// A listener, and what it offers.
pub(crate) struct FakeRelay {
    listener: TcpListener,
    pub(crate) address: String,
    /// Whether it waits for mail, and for how many seconds at most.
    pub(crate) offers_wait: Option<u64>,
}

/// A puller that has sent ATRN.
pub(crate) struct Caller {
    stream: BufReader<TcpStream>,
    /// Its ATRN.
    pub(crate) atrn: String,
}

impl FakeRelay {
    pub(crate) async fn start(offers_wait: Option<u64>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self {
            listener,
            address,
            offers_wait,
        }
    }

    /// The next puller, to whom nothing was said yet.
    pub(crate) async fn knocked(&self) -> Caller {
        let wait = tokio::time::timeout(PATIENCE, self.listener.accept());
        let (stream, _) = wait.await.expect("a call in time").unwrap();
        Caller {
            stream: BufReader::new(stream),
            atrn: String::new(),
        }
    }

    /// The next puller, up to its ATRN.
    pub(crate) async fn called(&self) -> Caller {
        let mut caller = self.knocked().await;
        let wait = self
            .offers_wait
            .map(|seconds| format!("250-XWAIT {seconds}\r\n"))
            .unwrap_or_default();
        caller.send("220 r\r\n").await;
        caller.line().await;
        let offer = format!("250-relay.example.net\r\n{wait}250-AUTH CRAM-MD5\r\n250 ATRN\r\n");
        caller.send(&offer).await;
        caller.line().await;
        caller.send("334 PDEuMkByPg==\r\n").await;
        caller.line().await;
        caller.send("235 2.7.0 ok\r\n").await;
        caller.atrn = caller.line().await.expect("ATRN");
        caller
    }

    /// Whether somebody knocks that was not called in yet.
    pub(crate) async fn is_called(&self) -> bool {
        let knocked = tokio::time::timeout(std::time::Duration::ZERO, self.listener.accept());
        knocked.await.is_ok()
    }
}

impl Caller {
    pub(crate) async fn send(&mut self, text: &str) {
        // It may be gone already.
        let _ = self.stream.write_all(text.as_bytes()).await;
    }

    /// The next line; `None` at the end of the connection.
    pub(crate) async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.stream.read_line(&mut line)).await;
        let count = read.expect("a line in time").unwrap_or(0);
        (count > 0).then(|| line.trim_end().to_owned())
    }

    /// Says no mail, and hears what comes behind that.
    pub(crate) async fn no_mail(&mut self) -> Option<String> {
        self.send("453 You have no mail\r\n").await;
        self.line().await
    }

    /// Turns, and says hello.
    pub(crate) async fn turn(&mut self) {
        self.send("250 go\r\n").await;
        let greeting = self.line().await.expect("a greeting");
        assert!(greeting.starts_with("220 "), "{greeting}");
        self.send("EHLO relay.example.net\r\n").await;
        while self.line().await.expect("an offer").starts_with("250-") {}
    }

    /// Sends so many messages without waiting, and hears what becomes of them.
    pub(crate) async fn deliver(&mut self, messages: usize) -> Vec<String> {
        let message =
            "MAIL FROM:<a@sender.example>\r\nRCPT TO:<u@example.com>\r\nBDAT 3 LAST\r\nx\r\n";
        self.send(&message.repeat(messages)).await;
        let mut codes = Vec::new();
        for _ in 0..messages {
            for _ in 0..3 {
                let Some(line) = self.line().await else {
                    return codes;
                };
                codes.push(line[..3].to_owned());
            }
        }
        codes
    }

    /// Delivers, and all of it is taken.
    pub(crate) async fn delivers(&mut self, messages: usize) {
        assert_eq!(self.deliver(messages).await, vec!["250"; 3 * messages]);
    }

    /// The good end.
    pub(crate) async fn quit(mut self) {
        self.send("QUIT\r\n").await;
        let answer = self.line().await;
        assert!(answer.is_some_and(|line| line.starts_with("221 ")));
        assert_eq!(self.line().await, None);
    }
}
