//! Other people's mail software, from Debian's packages: found where it is installed, run in
//! temporary folders of its own, never the machine's own instance. Where it is missing a test
//! says so aloud and passes; with `ATRN_REQUIRE_INTEROP=1`, as in CI, it fails.

mod clients;
mod dovecot;
mod maildir;
mod postfix;
mod python;
mod smtp_sink;
mod smtp_source;

use std::path::PathBuf;

pub use clients::{Fetchmail, msmtp, swaks};
pub use dovecot::Dovecot;
pub use maildir::{maildir, with_crlf};
pub use postfix::Postfix;
pub use python::read_report;
pub use smtp_sink::{Dumped, SmtpSink};
pub use smtp_source::{Load, assert_order_of_sessions};

/// A program that the harness can use, and the package that it comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Software {
    /// Dovecot with its LMTP server.
    Dovecot,
    /// libfaketime, by its command `faketime`.
    Faketime,
    /// fetchmail.
    Fetchmail,
    /// iproute2, to make hosts of our own (network namespaces).
    Ip,
    /// Small disks of our own: `mount`, as root.
    Mount,
    /// msmtp.
    Msmtp,
    /// nftables, for their packet filters.
    Nft,
    /// The Postfix mail server.
    Postfix,
    /// Python 3.
    Python,
    /// Postfix's test server.
    SmtpSink,
    /// Postfix's test client.
    SmtpSource,
    /// strace, with the right to attach to a program.
    Strace,
    /// swaks.
    Swaks,
}

impl Software {
    /// Where it is, or nothing, with a word on what to install.
    ///
    /// # Panics
    /// When it is missing and `ATRN_REQUIRE_INTEROP` is 1.
    #[must_use]
    pub fn find(self) -> Option<PathBuf> {
        let (program, packages) = self.names();
        let found = self.needs_root().and_then(|()| {
            on_path(program).ok_or_else(|| format!("install it: apt-get install {packages}"))
        });
        match found {
            Ok(path) => Some(path),
            Err(reason) => {
                let required =
                    std::env::var("ATRN_REQUIRE_INTEROP").is_ok_and(|value| value == "1");
                assert!(
                    !required,
                    "{program} is required (ATRN_REQUIRE_INTEROP=1): {reason}"
                );
                // To the process's own stderr: what a passing test prints is not shown.
                say(&format!("SKIPPED: {program} is missing; {reason}\n"));
                None
            }
        }
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Dovecot => ("dovecot", "dovecot-core dovecot-lmtpd"),
            Self::Faketime => ("faketime", "faketime"),
            Self::Fetchmail => ("fetchmail", "fetchmail"),
            Self::Ip => ("ip", "iproute2"),
            Self::Mount => ("mount", "mount"),
            Self::Msmtp => ("msmtp", "msmtp"),
            Self::Nft => ("nft", "nftables"),
            Self::Postfix => ("postfix", "postfix"),
            Self::Python => ("python3", "python3"),
            Self::SmtpSink => ("smtp-sink", "postfix"),
            Self::SmtpSource => ("smtp-source", "postfix"),
            Self::Strace => ("strace", "strace"),
            Self::Swaks => ("swaks", "swaks libnet-ssleay-perl"),
        }
    }

    fn needs_root(self) -> Result<(), String> {
        let is_root = nix::unistd::geteuid().is_root();
        match self {
            Self::Dovecot | Self::Postfix if !is_root => {
                Err("its private instance can only be started by root".to_owned())
            }
            Self::Ip | Self::Nft if !is_root => Err("only root may make hosts".to_owned()),
            Self::Mount if !is_root => Err("only root may mount a small disk".to_owned()),
            Self::Strace if !is_root && is_attaching_restricted() => {
                Err("kernel.yama.ptrace_scope lets only root attach to a program".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Whether Yama (where the kernel has it) keeps users from their own programs.
fn is_attaching_restricted() -> bool {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    scope.is_ok_and(|scope| scope.trim() != "0")
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where an ordinary user's PATH does not lead.
    let system = ["/usr/sbin", "/sbin", "/usr/lib/postfix/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

fn say(text: &str) {
    use std::io::Write as _;
    // `eprint!` would be captured; a closed stderr is nobody's fault.
    std::io::stderr().write_all(text.as_bytes()).ok();
}
