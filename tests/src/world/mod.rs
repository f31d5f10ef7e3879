//! A relay and a puller as real processes, in a temporary folder, on loopback, set up by their
//! own command lines. Whatever happens, nothing is left running and nothing is left on disk;
//! when a test fails, the logs of both are printed.
//!
//! ```no_run
//! # use atrn_tests::{inside::Inside, message::{self, Message}, world::World};
//! let inside = Inside::smtp();
//! let world = World::setup().target(&inside.target()).start();
//! world.send(&[Message::new("user@example.org", message::plain(1))]);
//! world.puller.pull().expect_code(0);
//! assert_eq!(inside.messages().len(), 1);
//! ```

mod programs;
mod puller;
mod queue;
mod relay;
mod settings;

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

pub use programs::{PULLER, RELAY, program};
pub use puller::{Puller, PullerSetup};
pub use relay::{Relay, Tls};
pub use settings::Settings;

use crate::dns::Dns;
use crate::message::Message;
use crate::sender;

/// The name of the relay.
pub const RELAY_NAME: &str = "relay.example.net";
/// The name of the puller.
pub const PULLER_NAME: &str = "puller.example.org";
/// The domain that a world has unless it is told otherwise.
pub const DOMAIN: &str = "example.org";
/// The account that a world has unless it is told otherwise.
pub const ACCOUNT: &str = "corp";

/// The two programs and their folder.
#[derive(Debug)]
pub struct World {
    // Dropped in this order: programs first, then their files.
    /// The puller of the first account; started only where a test asks for it.
    pub puller: Puller,
    /// The relay, running.
    pub relay: Relay,
    folder: TempDir,
}

/// What a world is made of.
#[derive(Debug)]
#[must_use]
pub struct Setup {
    tls: Tls,
    domains: Vec<String>,
    accounts: Vec<(String, Vec<String>)>,
    relay: Vec<(String, toml::Value)>,
    puller: Vec<(String, toml::Value)>,
    target: String,
    parent: PathBuf,
}

impl World {
    /// A world that begins with one domain, one account, TLS from the first octet, and no
    /// corporate server.
    pub fn setup() -> Setup {
        Setup {
            tls: Tls::Implicit,
            domains: Vec::new(),
            accounts: Vec::new(),
            relay: Vec::new(),
            puller: Vec::new(),
            // Port 9 (discard): nobody is there.
            target: "smtp://127.0.0.1:9".to_owned(),
            parent: std::env::temp_dir(),
        }
    }

    /// The plainest world.
    #[must_use]
    pub fn start() -> Self {
        Self::setup().start()
    }

    /// Sends messages to the relay over one connection; each must be accepted.
    #[track_caller]
    pub fn send(&self, messages: &[Message]) {
        sender::send(self.relay.smtp_address(), messages);
    }

    /// What `queue list --json` shows.
    #[track_caller]
    #[must_use]
    pub fn queue_list(&self) -> Vec<Value> {
        self.relay.queue_list(&[])
    }

    /// A puller for another account, or the same account set up in another way.
    pub fn another_puller(&self, account: &str, domains: &[&str], target: &str) -> Puller {
        PullerSetup::new(account, domains, target).install(self.folder.path(), &self.relay)
    }

    /// The folder that everything is in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the relay\n{}", self.relay.log());
            eprintln!("--- log of the puller\n{}", self.puller.log());
        }
    }
}

impl Setup {
    /// Adds a domain (in place of `example.org`).
    pub fn domain(mut self, name: &str) -> Self {
        self.domains.push(name.to_owned());
        self
    }

    /// Adds an account (in place of `corp`); the world's puller is the first one's.
    pub fn account(mut self, name: &str, domains: &[&str]) -> Self {
        let domains = domains.iter().map(|&domain| domain.to_owned()).collect();
        self.accounts.push((name.to_owned(), domains));
        self
    }

    /// TLS on the ODMR listener.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// A setting of the relay, by its path: `smtp.max_recipients`; `domain.hold_for` is that of every domain.
    pub fn relay(mut self, path: &str, value: impl Into<toml::Value>) -> Self {
        self.relay.push((path.to_owned(), value.into()));
        self
    }

    /// The name server that the relay asks; without one it asks nobody.
    pub fn dns(self, dns: &Dns) -> Self {
        self.relay("dns", dns.settings())
    }

    /// A setting of the puller, by its path: `relay.mode` is that of its only relay.
    pub fn puller(mut self, path: &str, value: impl Into<toml::Value>) -> Self {
        self.puller.push((path.to_owned(), value.into()));
        self
    }

    /// Where the puller hands mail over.
    pub fn target(mut self, target: &str) -> Self {
        target.clone_into(&mut self.target);
        self
    }

    /// Where its folder is made, when it matters on which disk.
    pub fn under(mut self, parent: &Path) -> Self {
        parent.clone_into(&mut self.parent);
        self
    }

    /// Sets both programs up, and starts the relay.
    ///
    /// # Panics
    /// When the relay does not come up.
    #[must_use]
    pub fn start(mut self) -> World {
        if self.domains.is_empty() {
            self.domains.push(DOMAIN.to_owned());
        }
        if self.accounts.is_empty() {
            self.accounts
                .push((ACCOUNT.to_owned(), self.domains.clone()));
        }
        let folder = tempfile::Builder::new()
            .prefix("atrn-")
            .tempdir_in(&self.parent)
            .expect("a folder");
        let mut relay = Relay::init(folder.path(), &self.domains, self.tls);
        for (path, value) in &self.relay {
            match path.strip_prefix("domain.") {
                None => relay.configure(|settings| {
                    settings.set(path, value.clone());
                }),
                Some(key) => self
                    .domains
                    .iter()
                    .for_each(|domain| relay.configure_domain(domain, key, value.clone())),
            }
        }
        for (name, domains) in &self.accounts {
            relay.add_account(name, domains);
        }
        relay.start();
        let (account, domains) = &self.accounts[0];
        let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
        let puller = PullerSetup::new(account, &domains, &self.target)
            .settings(self.puller)
            .install(folder.path(), &relay);
        World {
            puller,
            relay,
            folder,
        }
    }
}
