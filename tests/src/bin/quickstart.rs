//! `cargo quickstart`: both programs at work on this machine, in a minute.
//!
//! Builds them, sets both up in a temporary folder by their own command lines, sends real messages to the relay, pulls
//! them with the puller into a Maildir, compares every octet, and cleans up.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use atrn_tests::certs::write_private;
use atrn_tests::message::{self, Message};
use atrn_tests::ports::Port;
use atrn_tests::process::{Output, Process};
use atrn_tests::sender::{Framing, Sender};
use atrn_tests::software::maildir;
use atrn_tests::world::{PULLER, RELAY, Settings, program};
use clap::Parser;
use tempfile::TempDir;

const DOMAIN: &str = "example.com";
const RECIPIENT: &str = "you@example.com";
const ACCOUNT: &str = "corp";

/// Set up a relay and a puller on this machine, send mail through them, and show every step.
#[derive(Debug, Parser)]
#[command(name = "cargo quickstart")]
struct Options {
    /// Leave both programs running, and say how to stop them.
    #[arg(long)]
    keep: bool,
    /// Take the programs as they are: for the test of this program, which runs beside others that use them.
    #[arg(long, hide = true)]
    no_build: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if !options.no_build {
        build()?;
    }
    let begun = Instant::now();
    let mut demonstration = Demonstration::set_up()?;
    demonstration.start_relay();
    let sent = demonstration.send_mail();
    demonstration.show_queue()?;
    demonstration.pull()?;
    demonstration.compare(&sent)?;
    demonstration.show_queue()?;
    say(&format!(
        "All of it took {:.1} s.",
        begun.elapsed().as_secs_f64()
    ));
    if options.keep {
        demonstration.keep();
    } else {
        demonstration.show_next();
    }
    Ok(())
}

/// Builds both programs in the profile that this one was built in.
fn build() -> Result<()> {
    say("Building atrn-relay and atrn-puller …");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["build", "--quiet", "--package", RELAY, "--package", PULLER]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.status().context("cargo cannot be started")?;
    ensure!(status.success(), "the programs do not build");
    Ok(())
}

/// Both programs, their files, and the Maildir that stands for the corporate mail server.
struct Demonstration {
    // Dropped in this order: the relay first, then its files.
    relay: Option<Process>,
    folder: TempDir,
    smtp: Port,
    odmr: Port,
}

impl Demonstration {
    /// What an administrator does on both hosts: `init`, `account add`, `init`.
    fn set_up() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("atrn-quickstart-")
            .tempdir()?;
        let (smtp, odmr) = (Port::reserve(), Port::reserve());
        let demonstration = Self {
            relay: None,
            folder,
            smtp,
            odmr,
        };
        title("Set-up: the relay in the DMZ");
        let relay = demonstration.path("relay").display().to_string();
        let made = demonstration
            .relay(&[
                "init",
                "--dir",
                &relay,
                "--hostname",
                "relay.quickstart.example",
                "--domain",
                DOMAIN,
                "--json",
            ])?
            .json();
        let pin = made["pin"].as_str().context("init --json prints a pin")?;
        say(&format!("  certificate pin {pin}"));
        demonstration.listen_on_free_ports();
        let added = demonstration
            .relay(&["account", "add", ACCOUNT, "--domain", DOMAIN, "--json"])?
            .json();
        let secret = added["secret"]
            .as_str()
            .context("account add --json prints a secret")?;

        title("Set-up: the puller inside");
        let puller = demonstration.path("puller").display().to_string();
        let address = demonstration.odmr.address().to_string();
        let target = format!("maildir:{}", demonstration.maildir().display());
        let made = demonstration
            .puller(&[
                "init",
                "--dir",
                &puller,
                "--hostname",
                "puller.quickstart.example",
                "--relay",
                &address,
                "--pin",
                pin,
                "--account",
                ACCOUNT,
                "--domain",
                DOMAIN,
                "--handover",
                &target,
                "--json",
            ])?
            .json();
        let file = made["secret_file"]
            .as_str()
            .context("init --json names the secret's file")?;
        write_private(Path::new(file), secret);
        Settings::edit(&demonstration.path("puller/puller.toml"), |settings| {
            settings.set(
                "data_dir",
                demonstration.path("puller/data").display().to_string(),
            );
        });
        Ok(demonstration)
    }

    /// Nobody's port 2525 is taken away.
    fn listen_on_free_ports(&self) {
        Settings::edit(&self.path("relay/relay.toml"), |settings| {
            settings
                .set("smtp.listen", vec![self.smtp.address().to_string()])
                .set("odmr.listen", vec![self.odmr.address().to_string()]);
        });
    }

    fn start_relay(&mut self) {
        title("The relay starts, and holds what it is sent");
        say(&format!("$ {RELAY} run"));
        let log = self.path("relay.log");
        let mut process = Process::start(RELAY, self.command(RELAY).arg("run"), &log);
        for address in [self.smtp.address(), self.odmr.address()] {
            process.wait_until("its listeners answer", || {
                std::net::TcpStream::connect(address).is_ok()
            });
        }
        say(&format!(
            "  SMTP on {}, ODMR inside TLS on {}",
            self.smtp.address(),
            self.odmr.address()
        ));
        self.relay = Some(process);
    }

    /// Messages of different kinds, by SMTP with STARTTLS, half of them by BDAT.
    fn send_mail(&self) -> Vec<(&'static str, Vec<u8>)> {
        title("Somebody on the Internet sends mail");
        let kinds = vec![
            ("plain text", message::plain(1)),
            ("8-bit UTF-8", message::eight_bit()),
            ("lines with leading dots", message::dots()),
            ("a line of 20,000 octets", message::long_line(20_000)),
            ("an attachment of 5 MB", message::big(5_000_000)),
        ];
        let mut sender = Sender::connect_starttls(self.smtp.address());
        for (number, (kind, content)) in kinds.iter().enumerate() {
            let framing = if number % 2 == 0 {
                Framing::Data
            } else {
                Framing::Bdat(100_000)
            };
            let reply = sender.send_framed(&Message::new(RECIPIENT, content.clone()), framing);
            say(&format!("  {kind}: {} octets, {reply}", content.len()));
        }
        sender.quit();
        kinds
    }

    fn show_queue(&self) -> Result<()> {
        title("The queue of the relay");
        let output = self.relay(&["queue", "list"])?;
        say(output.stdout.trim_end());
        Ok(())
    }

    fn pull(&self) -> Result<()> {
        title("The puller connects out, says ATRN, the roles reverse, mail flows in");
        let output = self.puller(&["pull"])?;
        say(output.stdout.trim_end());
        Ok(())
    }

    /// Every message, octet for octet, apart from the trace fields on top.
    fn compare(&self, sent: &[(&'static str, Vec<u8>)]) -> Result<()> {
        title("In the Maildir, octet for octet");
        let mut arrived = maildir(&self.maildir());
        ensure!(
            arrived.len() == sent.len(),
            "{} messages sent, {} arrived",
            sent.len(),
            arrived.len()
        );
        for (kind, content) in sent {
            let found = arrived
                .iter()
                .position(|one| message::without_trace(one) == content);
            let one = arrived.swap_remove(
                found.with_context(|| format!("{kind}: is not there as it was sent"))?,
            );
            let fields = message::trace(&one).matches("Received:").count();
            say(&format!(
                "  {kind}: {} octets identical, {fields} trace fields on top",
                content.len()
            ));
        }
        Ok(())
    }

    /// Leaves everything running, with the puller as a daemon beside the relay.
    fn keep(mut self) {
        let puller = Process::start(
            PULLER,
            self.command(PULLER).arg("run"),
            &self.path("puller.log"),
        );
        let relay = self.relay.take();
        title("Both are left running; mail comes as it arrives");
        self.commands_to_try();
        let relay_id = relay.as_ref().map(Process::id).unwrap_or_default();
        say("\nTo stop them and remove everything:");
        say(&format!(
            "  kill {relay_id} {}; rm -r {}",
            puller.id(),
            self.folder.path().display()
        ));
        relay.into_iter().for_each(Process::detach);
        puller.detach();
        self.folder.disable_cleanup(true);
    }

    fn show_next(&self) {
        title("To try next");
        say("  cargo quickstart --keep      the same, left running");
        say("  cargo test --workspace       every test");
        say("  README.md                    the first real set-up of both sides");
    }

    fn commands_to_try(&self) {
        let relay = self.config(RELAY);
        let puller = self.config(PULLER);
        let (relay, puller) = (relay.display(), puller.display());
        let (relay_program, puller_program) = (program(RELAY), program(PULLER));
        let (relay_program, puller_program) = (relay_program.display(), puller_program.display());
        let address = self.smtp.address();
        say(&format!("  swaks --server {address} --to {RECIPIENT}"));
        say(&format!("  {relay_program} -c {relay} status"));
        say(&format!("  {relay_program} -c {relay} queue list"));
        say(&format!(
            "  {relay_program} -c {relay} domain add example.org"
        ));
        say(&format!("  {puller_program} -c {puller} check"));
        say(&format!("  {puller_program} -c {puller} status"));
        say(&format!("  ls {}/new", self.maildir().display()));
    }

    /// Shows a command of the relay, and runs it.
    fn relay(&self, arguments: &[&str]) -> Result<Output> {
        self.shown(RELAY, arguments)
    }

    fn puller(&self, arguments: &[&str]) -> Result<Output> {
        self.shown(PULLER, arguments)
    }

    fn shown(&self, name: &str, arguments: &[&str]) -> Result<Output> {
        say(&format!("$ {name} {}", arguments.join(" ")));
        let output = Output::of(self.command(name).args(arguments));
        ensure!(
            output.code == 0,
            "{name} ended with {}:\n{}{}",
            output.code,
            output.stdout,
            output.stderr
        );
        Ok(output)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command.arg("--config").arg(self.config(name));
        command
    }

    fn config(&self, name: &str) -> PathBuf {
        self.path(if name == RELAY {
            "relay/relay.toml"
        } else {
            "puller/puller.toml"
        })
    }

    fn maildir(&self) -> PathBuf {
        self.path("Maildir")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn title(text: &str) {
    say(&format!("\n== {text}"));
}

fn say(text: &str) {
    use std::io::Write as _;
    // Whoever closed our standard output wants to hear no more.
    writeln!(std::io::stdout(), "{text}").ok();
}
