//! Postfix's `smtp-sink`, which writes down what it takes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::{Software, with_crlf};
use crate::ports::Port;
use crate::process::Process;

/// Begins each message of the dump; no message of a test contains it.
const MARK: &str = "-----smtp-sink-message-----";

/// A running `smtp-sink` that writes every message to a file.
#[derive(Debug)]
pub struct SmtpSink {
    process: Process,
    port: Port,
    folder: TempDir,
}

/// A message as `smtp-sink` took it.
#[derive(Clone, Debug)]
pub struct Dumped {
    /// The argument of MAIL.
    pub mail: String,
    /// The arguments of RCPT.
    pub recipients: Vec<String>,
    /// The content, without the fields that smtp-sink itself puts on top.
    pub content: Vec<u8>,
}

impl SmtpSink {
    /// Starts one on a free port; nothing when it is not installed.
    #[must_use]
    pub fn start(options: &[&str]) -> Option<Self> {
        let program = Software::SmtpSink.find()?;
        let folder = tempfile::tempdir().expect("a folder");
        let port = Port::reserve();
        let mut command = Command::new(program);
        command
            .args(["-4", "-S", &format!("{MARK}\\n"), "-D", "dump"])
            .args(options);
        if nix::unistd::geteuid().is_root() {
            // It insists on another user, who must be able to write the dump.
            command.args(["-u", "nobody"]);
            std::os::unix::fs::chown(folder.path(), Some(65_534), Some(65_534)).expect("chown");
        }
        command
            .arg(port.address().to_string())
            .arg("1000")
            .current_dir(folder.path());
        let log = folder.path().join("log");
        let mut process = Process::start("smtp-sink", &mut command, &log);
        process.wait_until("it answers", || {
            std::net::TcpStream::connect(port.address()).is_ok()
        });
        Some(Self {
            process,
            port,
            folder,
        })
    }

    /// Its address, as `[handover] target` has it.
    #[must_use]
    pub fn target(&self) -> String {
        format!("smtp://{}", self.port.address())
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The messages taken so far, in the order of their coming on a single connection.
    #[must_use]
    pub fn messages(&self) -> Vec<Dumped> {
        let dump = std::fs::read(self.dump()).unwrap_or_default();
        let mark = format!("{MARK}\n");
        split(&dump, mark.as_bytes())
            .into_iter()
            .map(Dumped::parse)
            .collect()
    }

    /// Waits until so many messages are written.
    #[track_caller]
    pub fn wait_for_messages(&mut self, count: usize) -> Vec<Dumped> {
        let dump = self.dump();
        self.process
            .wait_until("the expected number of messages", || {
                let dump = std::fs::read(&dump).unwrap_or_default();
                split(&dump, MARK.as_bytes()).len() >= count
            });
        self.messages()
    }

    fn dump(&self) -> PathBuf {
        self.folder.path().join("dump")
    }
}

impl Dumped {
    fn parse(dump: &[u8]) -> Self {
        let mut mail = String::new();
        let mut recipients = Vec::new();
        let mut rest = dump;
        while let Some(end) = rest.iter().position(|&octet| octet == b'\n') {
            let line = String::from_utf8_lossy(&rest[..end]).into_owned();
            if let Some(argument) = line.strip_prefix("X-Mail-Args: ") {
                argument.clone_into(&mut mail);
            } else if let Some(argument) = line.strip_prefix("X-Rcpt-Args: ") {
                recipients.push(argument.to_owned());
            } else if !line.starts_with("X-") {
                break;
            }
            rest = &rest[end + 1..];
        }
        // smtp-sink's own Received field has three lines; an empty line ends the dump.
        for _ in 0..3 {
            let end = rest
                .iter()
                .position(|&octet| octet == b'\n')
                .map_or(rest.len(), |at| at + 1);
            rest = &rest[end..];
        }
        let content = with_crlf(rest.strip_suffix(b"\n").unwrap_or(rest));
        Self {
            mail,
            recipients,
            content,
        }
    }
}

fn split<'a>(dump: &'a [u8], mark: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut rest = dump;
    while let Some(begin) = find(rest, mark) {
        rest = &rest[begin + mark.len()..];
        parts.push(&rest[..find(rest, mark).unwrap_or(rest.len())]);
    }
    parts
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    let first = *what.first()?;
    let mut from = 0;
    while let Some(at) = text.get(from..)?.iter().position(|&octet| octet == first) {
        let at = from + at;
        if text[at..].starts_with(what) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}
