//! A relay's files in a temporary directory, commands on them, and the daemon.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_atrn-relay");

/// How a command ended.
#[derive(Debug, PartialEq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    #[track_caller]
    pub(crate) fn fails(self, code: i32, stderr: &str) {
        let seen = (self.code, self.stderr.trim_end());
        assert_eq!(seen, (code, stderr), "{self:?}");
    }

    pub(crate) fn last_line(&self) -> &str {
        self.stderr.lines().last().unwrap_or_default()
    }
}

/// A relay's files in a directory of their own. `DIR` stands for it in arguments and in output.
pub(crate) struct Setup {
    pub(crate) directory: TempDir,
}

impl Setup {
    pub(crate) fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    /// A relay for example.com on free ports of loopback.
    pub(crate) fn init() -> Self {
        let setup = Self::empty();
        let arguments = [
            "init",
            "--dir",
            "DIR",
            "--hostname",
            "mx1.example.net",
            "--domain",
            "example.com",
        ];
        setup.program(&arguments).ok();
        setup.edit("relay.toml", |text| {
            // Nobody is asked for names.
            let text = text.replace(":2525", ":0").replace(":2366", ":0");
            format!("dns = \"off\"\n{text}")
        });
        setup
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn program(&self, arguments: &[&str]) -> Ended {
        let output = self.command(arguments).output().unwrap();
        let text = |octets: Vec<u8>| {
            let text = String::from_utf8(octets).unwrap();
            text.replace(&self.directory.path().display().to_string(), "DIR")
        };
        Ended {
            code: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let directory = self.directory.path().display().to_string();
        let mut command = Command::new(PROGRAM);
        command.args(
            arguments
                .iter()
                .map(|argument| argument.replace("DIR", &directory)),
        );
        command.stdin(Stdio::null());
        command
            .env_remove("RUST_LOG")
            .env_remove("ATRN_RELAY_CONFIG");
        command
    }

    /// A command with the configuration of this set-up.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Ended {
        self.program(&[&["-c", "DIR/relay.toml"], arguments].concat())
    }

    pub(crate) fn edit(&self, name: &str, change: impl FnOnce(String) -> String) {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        fs::write(self.path(name), change(text)).unwrap();
    }

    pub(crate) fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }

    pub(crate) fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Starts the daemon, and waits until it is ready.
    pub(crate) fn run(&self) -> Daemon {
        let mut command = self.command(&["-c", "DIR/relay.toml", "run"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut daemon = Daemon {
            child,
            log,
            smtp: String::new(),
            odmr: String::new(),
        };
        daemon.wait_until_ready();
        daemon
    }
}

/// A running relay; killed where a test leaves it.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    log: BufReader<ChildStderr>,
    pub(crate) smtp: String,
    pub(crate) odmr: String,
}

impl Daemon {
    /// Reads the log up to the line that names the addresses.
    fn wait_until_ready(&mut self) {
        let mut lines = String::new();
        loop {
            let start = lines.len();
            let read = self.log.read_line(&mut lines).unwrap();
            assert_ne!(read, 0, "not ready:\n{lines}");
            if let Some((_, ready)) = lines[start..].split_once("atrn_relay: ready smtp=") {
                let (smtp, odmr) = ready.trim().split_once(" odmr=").unwrap();
                smtp.clone_into(&mut self.smtp);
                odmr.clone_into(&mut self.odmr);
                return;
            }
        }
    }

    /// Sends a message; returns the last reply.
    pub(crate) fn send(&self, sender: &str, recipients: &[&str], content: &str) -> String {
        let stream = TcpStream::connect(&self.smtp).unwrap();
        let mut replies = BufReader::new(stream.try_clone().unwrap());
        let mut say = |text: &str| {
            (&stream).write_all(text.as_bytes()).unwrap();
            loop {
                let mut reply = String::new();
                assert_ne!(replies.read_line(&mut reply).unwrap(), 0);
                if reply.as_bytes()[3] == b' ' {
                    return reply.trim_end().to_owned();
                }
            }
        };
        say("");
        say("EHLO sender.example.net\r\n");
        say(&format!("MAIL FROM:<{sender}>\r\n"));
        for recipient in recipients {
            let reply = say(&format!("RCPT TO:<{recipient}>\r\n"));
            if !reply.starts_with("250") {
                return reply;
            }
        }
        say("DATA\r\n");
        say(&format!("{content}\r\n.\r\n"))
    }

    /// Ends it by SIGTERM; returns the exit code and what it logged since it was ready.
    pub(crate) fn stop(mut self) -> (i32, String) {
        kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGTERM,
        )
        .unwrap();
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code().unwrap(), log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already, as it should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The queue id in `250 2.0.0 …`.
pub(crate) fn id_in(reply: &str) -> String {
    assert!(reply.starts_with("250 "), "{reply}");
    reply.rsplit(' ').next().unwrap().to_owned()
}
