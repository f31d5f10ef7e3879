//! A relay that was captured: it logs the real puller in and turns the connection as it should, and from then on says
//! what a test tells it to.

use std::net::TcpListener;
use std::path::Path;

use tempfile::TempDir;

use crate::peer::Peer;
use crate::world::{ACCOUNT, DOMAIN, Puller, PullerSetup, RELAY_NAME, Tls};

const SECRET: &str = "correct horse battery staple";

/// The relay, and the puller that trusts it.
#[derive(Debug)]
pub struct Captured {
    /// The puller; nothing of it runs until a test starts it.
    pub puller: Puller,
    listener: TcpListener,
    folder: TempDir,
}

impl Captured {
    /// A puller for the usual domain, with more settings by their paths.
    ///
    /// # Panics
    /// When there is no port or no disk.
    #[must_use]
    pub fn new(target: &str, settings: &[(&str, toml::Value)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let mut setup = PullerSetup::new(ACCOUNT, &[DOMAIN], target)
            // What a script can compute.
            .setting("relay.weakest_mechanism", "CRAM-MD5");
        for (path, value) in settings {
            setup = setup.setting(path, value.clone());
        }
        let puller = setup.install_for(folder.path(), &address, Tls::Off, None, SECRET);
        Self {
            puller,
            listener,
            folder,
        }
    }

    /// Begins one pull: the connection where the relay is the client, past EHLO.
    #[track_caller]
    #[must_use]
    pub fn pull(&mut self) -> Peer {
        self.puller.begin_pull();
        self.turn()
    }

    /// The same for a puller that comes by itself.
    #[track_caller]
    #[must_use]
    pub fn turn(&self) -> Peer {
        let mut peer = Peer::accept(&self.listener);
        peer.send(&format!("220 {RELAY_NAME} ODMR ready"));
        peer.expect_command("EHLO ");
        peer.send("250-relay.example.net\r\n250-AUTH CRAM-MD5\r\n250 ATRN");
        peer.expect_command("AUTH CRAM-MD5");
        // Whatever it answers is right.
        peer.send("334 PGFAYj4=");
        peer.line();
        peer.send("235 2.7.0 welcome");
        peer.expect_command("ATRN");
        peer.send("250 2.0.0 reversing");
        peer.expect("220 ");
        peer.ehlo(RELAY_NAME);
        peer
    }

    /// Ends a pull that was begun; its exit code.
    #[track_caller]
    pub fn quit(&mut self, mut peer: Peer) -> i32 {
        peer.ask("QUIT", "221 ");
        self.puller.pulled()
    }

    /// The folder that everything is in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the puller\n{}", self.puller.log());
        }
    }
}
