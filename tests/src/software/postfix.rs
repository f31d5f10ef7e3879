//! A private Postfix: its configuration, queue and log in a temporary folder. It takes the
//! corporate server's part, and delivers into a Maildir.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{Software, maildir, with_crlf};
use crate::ports::Port;
use crate::process::{Output, read_lossy, wait_until};

/// A running private instance.
#[derive(Debug)]
pub struct Postfix {
    program: PathBuf,
    port: Port,
    folder: TempDir,
}

impl Postfix {
    /// Starts one that takes mail for the domain; nothing when Postfix is not installed.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(domain: &str) -> Option<Self> {
        Self::start_with(domain, &std::env::temp_dir(), &[])
    }

    /// The same, in a folder under `parent`, with settings of `main.cf` that come in place of the usual ones.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_with(domain: &str, parent: &Path, settings: &[(&str, &str)]) -> Option<Self> {
        let program = Software::Postfix.find()?;
        let folder = tempfile::Builder::new()
            .prefix("atrn-postfix-")
            .tempdir_in(parent)
            .expect("a folder");
        let port = Port::reserve();
        let instance = Self {
            program,
            port,
            folder,
        };
        instance.lay_out();
        let main = replace(&instance.main_cf(domain), settings);
        std::fs::write(instance.path("etc/main.cf"), main).expect("main.cf");
        std::fs::write(instance.path("etc/master.cf"), instance.master_cf()).expect("master.cf");
        let started = instance.postfix("start");
        let address = instance.port.address();
        assert_eq!(
            started.code, 0,
            "Postfix does not start: {}",
            started.stderr
        );
        wait_until("Postfix answers", || {
            std::net::TcpStream::connect(address).is_ok()
        });
        Some(instance)
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

    /// What it has delivered, with CRLF line ends.
    #[must_use]
    pub fn delivered(&self) -> Vec<Vec<u8>> {
        maildir(&self.path("mail/inbox"))
            .iter()
            .map(|content| with_crlf(content))
            .collect()
    }

    /// Waits until so many messages are delivered, and returns them.
    #[track_caller]
    pub fn wait_for_messages(&self, count: usize) -> Vec<Vec<u8>> {
        let new = self.path("mail/inbox/new");
        let end = std::time::Instant::now() + std::time::Duration::from_secs(240);
        while files_in(&new) < count {
            assert!(
                std::time::Instant::now() < end,
                "Postfix delivered {} of {count}:\n{}",
                files_in(&new),
                self.log()
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        self.delivered()
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> String {
        read_lossy(&self.path("maillog"))
    }

    fn lay_out(&self) {
        use std::os::unix::fs::PermissionsExt as _;
        // Postfix's processes run as other users, who must get through.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.folder.path(), open).expect("chmod");
        for name in ["etc/dynamicmaps.cf.d", "queue", "data", "mail"] {
            std::fs::create_dir_all(self.path(name)).expect("a folder");
        }
        std::fs::copy(
            "/etc/postfix/dynamicmaps.cf",
            self.path("etc/dynamicmaps.cf"),
        )
        .ok();
        let chown = Command::new("chown")
            .arg("postfix")
            .arg(self.path("data"))
            .status();
        assert!(chown.is_ok_and(|status| status.success()), "chown postfix");
        std::os::unix::fs::chown(self.path("mail"), Some(NOBODY), Some(NOBODY)).expect("chown");
    }

    fn main_cf(&self, domain: &str) -> String {
        let folder = self.folder.path().display();
        let daemons = Output::of(Command::new("postconf").args(["-d", "-h", "daemon_directory"]));
        let daemons = daemons.stdout.trim().to_owned();
        format!(
            "compatibility_level = 3.6\n\
             queue_directory = {folder}/queue\n\
             data_directory = {folder}/data\n\
             daemon_directory = {daemons}\n\
             maillog_file = {folder}/maillog\n\
             maillog_file_prefixes = {folder}\n\
             myhostname = inside.example\n\
             mydestination =\n\
             inet_interfaces = loopback-only\n\
             inet_protocols = ipv4\n\
             mynetworks = 127.0.0.0/8\n\
             local_recipient_maps =\n\
             alias_maps =\n\
             alias_database =\n\
             virtual_mailbox_domains = {domain}\n\
             virtual_mailbox_base = {folder}/mail\n\
             virtual_mailbox_maps = static:inbox/\n\
             virtual_mailbox_limit = 0\n\
             virtual_minimum_uid = 1\n\
             virtual_uid_maps = static:{NOBODY}\n\
             virtual_gid_maps = static:{NOBODY}\n\
             smtpd_relay_restrictions = permit_mynetworks, reject\n\
             smtpd_recipient_restrictions = permit_mynetworks, reject\n\
             disable_dns_lookups = yes\n\
             smtpd_peername_lookup = no\n\
             message_size_limit = 104857600\n\
             mailbox_size_limit = 0\n\
             queue_minfree = 0\n\
             in_flow_delay = 0\n\
             smtpd_client_connection_count_limit = 0\n\
             smtpd_client_connection_rate_limit = 0\n\
             smtpd_client_message_rate_limit = 0\n\
             smtpd_client_recipient_rate_limit = 0\n\
             smtpd_tls_security_level = none\n\
             biff = no\n"
        )
    }

    fn master_cf(&self) -> String {
        let services = "\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
";
        format!("{} inet n - n - - smtpd\n{services}", self.port.address())
    }

    /// A command of Postfix's that works on this instance, such as `postsuper`.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.program.with_file_name(name));
        command.arg("-c").arg(self.path("etc"));
        command
    }

    fn postfix(&self, command: &str) -> Output {
        Output::of(self.command("postfix").arg(command))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        // `abort` answers before the processes are gone; their folder goes after the master.
        let pid = read_lossy(&self.path("queue/pid/master.pid"));
        Command::new(&self.program)
            .arg("-c")
            .arg(self.path("etc"))
            .arg("abort")
            .output()
            .ok();
        let process = PathBuf::from(format!("/proc/{}", pid.trim()));
        let end = std::time::Instant::now() + crate::process::PATIENCE;
        while !pid.is_empty() && process.exists() && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Debian's `nobody`: mail is delivered under this user.
const NOBODY: u32 = 65_534;

/// The text of `main.cf` with other values, and settings that it did not have.
fn replace(main: &str, settings: &[(&str, &str)]) -> String {
    let name = |line: &str| {
        let (name, _) = line.split_once('=')?;
        Some(name.trim().to_owned())
    };
    let kept = main.lines().filter(|line| {
        name(line).is_none_or(|name| settings.iter().all(|(other, _)| *other != name))
    });
    let new = settings
        .iter()
        .map(|(name, value)| format!("{name} = {value}"));
    kept.map(str::to_owned)
        .chain(new)
        .fold(String::new(), |text, line| text + &line + "\n")
}

fn files_in(folder: &Path) -> usize {
    std::fs::read_dir(folder).map(Iterator::count).unwrap_or(0)
}
