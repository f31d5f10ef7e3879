//! Clients of other people: fetchmail pulls, swaks and msmtp send.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::Software;
use crate::certs::write_private;
use crate::process::Output;

/// fetchmail in ODMR mode, set up for one relay.
#[derive(Debug)]
pub struct Fetchmail {
    command: Command,
    _folder: TempDir,
}

impl Fetchmail {
    /// Sets it up; nothing when it is not installed. `server` is the provider, `target` the
    /// SMTP server that gets the mail, `ssl` TLS from the first octet.
    #[must_use]
    pub fn new(
        server: SocketAddr,
        login: (&str, &str),
        domain: &str,
        target: SocketAddr,
    ) -> Option<Self> {
        Self::with_options(server, login, domain, target, "")
    }

    /// The same, over TLS from the first octet, the certificate unchecked.
    #[must_use]
    pub fn with_tls(
        server: SocketAddr,
        login: (&str, &str),
        domain: &str,
        target: SocketAddr,
    ) -> Option<Self> {
        Self::with_options(server, login, domain, target, "ssl no sslcertck")
    }

    fn with_options(
        server: SocketAddr,
        (account, secret): (&str, &str),
        domain: &str,
        target: SocketAddr,
        options: &str,
    ) -> Option<Self> {
        let program = Software::Fetchmail.find()?;
        let folder = tempfile::tempdir().expect("a folder");
        let settings = format!(
            "set no syslog\n\
             poll \"{}\" protocol odmr service {} no dns timeout 60\n\
             \x20 user \"{account}\" password \"{secret}\" smtphost {}/{} \
             fetchdomains {domain} {options}\n",
            server.ip(),
            server.port(),
            target.ip(),
            target.port(),
        );
        let file = folder.path().join("fetchmailrc");
        write_private(&file, &settings);
        let mut command = Command::new(program);
        command.arg("-f").arg(&file).args(["-v", "-v", "--pidfile"]);
        command
            .arg(folder.path().join("pid"))
            .env("HOME", folder.path());
        command
            .env("FETCHMAILHOME", folder.path())
            .env("LC_ALL", "C");
        Some(Self {
            command,
            _folder: folder,
        })
    }

    /// Polls once.
    #[track_caller]
    pub fn poll(&mut self) -> Output {
        Output::within(&mut self.command, Duration::from_secs(300))
    }
}

/// Sends a message with swaks; nothing when it is missing. Options as on its command line.
#[track_caller]
#[must_use]
pub fn swaks(server: SocketAddr, recipient: &str, options: &[&str]) -> Option<Output> {
    let program = Software::Swaks.find()?;
    let mut command = Command::new(program);
    command.args([
        "--server",
        &server.ip().to_string(),
        "--port",
        &server.port().to_string(),
    ]);
    command.args(["--from", "sender@source.example", "--to", recipient]);
    command
        .args(["--helo", "client.source.example"])
        .args(options);
    Some(Output::of(&mut command))
}

/// Sends a message with msmtp over STARTTLS; nothing when it is missing.
///
/// # Panics
/// When it cannot be run.
#[track_caller]
#[must_use]
pub fn msmtp(server: SocketAddr, recipient: &str, content: &[u8]) -> Option<Output> {
    use std::io::Write as _;

    let program = Software::Msmtp.find()?;
    let folder = tempfile::tempdir().expect("a folder");
    let message = folder.path().join("message");
    let mut file = std::fs::File::create(&message).expect("a file");
    file.write_all(content).expect("the message is written");
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("exec \"$@\" < \"$0\"")
        .arg(&message)
        .arg(program);
    command.args([
        "--host",
        &server.ip().to_string(),
        "--port",
        &server.port().to_string(),
    ]);
    command.args([
        "--tls=on",
        "--tls-starttls=on",
        "--tls-certcheck=off",
        "--auth=off",
    ]);
    command.args([
        "--domain=client.source.example",
        "--from=sender@source.example",
        recipient,
    ]);
    Some(Output::of(&mut command))
}
