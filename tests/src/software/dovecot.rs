//! A private Dovecot that takes mail over LMTP, by TCP and by a Unix socket, into Maildirs.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{Software, maildir, with_crlf};
use crate::ports::Port;
use crate::process::{Process, read_lossy};

/// A running private instance.
#[derive(Debug)]
pub struct Dovecot {
    _process: Process,
    port: Port,
    folder: TempDir,
}

impl Dovecot {
    /// Starts one that takes mail for every user; nothing when Dovecot is not installed.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_with(|folder| {
            format!(
                "userdb {{
  driver = static
  args = uid={NOBODY} gid={NOBODY} home={folder}/mail/%n allow_all_users=yes
}}"
            )
        })
    }

    /// Starts one that takes mail for these users only, each with a quota where a number of octets is given; nothing
    /// when Dovecot is not installed.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn for_users(users: &[(&str, Option<u64>)]) -> Option<Self> {
        let line = |(name, quota): &(&str, Option<u64>)| {
            let rule = quota.map(|octets| format!("userdb_quota_rule=*:bytes={octets}"));
            format!("{name}:::::::{}\n", rule.unwrap_or_default())
        };
        let lines: String = users.iter().map(line).collect();
        Self::start_with(|folder| {
            std::fs::write(format!("{folder}/users"), lines).expect("users");
            format!(
                "userdb {{
  driver = passwd-file
  args = username_format=%n {folder}/users
  override_fields = uid={NOBODY} gid={NOBODY} home={folder}/mail/%n
}}
protocol lmtp {{
  mail_plugins = quota
}}
plugin {{
  quota = count:User quota
  quota_vsizes = yes
}}"
            )
        })
    }

    fn start_with(users: impl FnOnce(&str) -> String) -> Option<Self> {
        use std::os::unix::fs::PermissionsExt as _;

        let program = Software::Dovecot.find()?;
        let folder = tempfile::Builder::new()
            .prefix("atrn-dovecot-")
            .tempdir()
            .expect("a folder");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("chmod");
        let mail = folder.path().join("mail");
        std::fs::create_dir(&mail).expect("a folder");
        std::os::unix::fs::chown(&mail, Some(NOBODY), Some(NOBODY)).expect("chown");
        let port = Port::reserve();
        let config = folder.path().join("dovecot.conf");
        let users = users(&folder.path().display().to_string());
        let text = configuration(folder.path(), &port, &users);
        std::fs::write(&config, text).expect("dovecot.conf");

        let log = folder.path().join("stderr");
        let mut command = Command::new(program);
        command.arg("-F").arg("-c").arg(&config);
        let mut process = Process::start("dovecot", &mut command, &log);
        let own_log = folder.path().join("log");
        let socket = folder.path().join("run/lmtp");
        process.wait_until("it answers", || {
            let up = std::net::TcpStream::connect(port.address()).is_ok() && socket.exists();
            let fatal = read_lossy(&own_log).contains("Fatal:");
            assert!(!fatal, "Dovecot does not start: {}", read_lossy(&own_log));
            up
        });
        Some(Self {
            _process: process,
            port,
            folder,
        })
    }

    /// Its TCP address, as `[handover] target` has it.
    #[must_use]
    pub fn target(&self) -> String {
        format!("lmtp://{}", self.port.address())
    }

    /// Its Unix socket, as `[handover] target` has it.
    #[must_use]
    pub fn unix_target(&self) -> String {
        format!(
            "lmtp+unix:{}",
            self.folder.path().join("run/lmtp").display()
        )
    }

    /// What it has delivered to a user, with CRLF line ends.
    #[must_use]
    pub fn delivered(&self, user: &str) -> Vec<Vec<u8>> {
        maildir(&self.home(user).join("Maildir"))
            .iter()
            .map(|content| with_crlf(content))
            .collect()
    }

    /// The home of a user, which is made with the first mail.
    #[must_use]
    pub fn home(&self, user: &str) -> PathBuf {
        self.folder.path().join("mail").join(user)
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> String {
        read_lossy(&self.folder.path().join("log"))
    }
}

/// Debian's `nobody`: mail is delivered under this user.
const NOBODY: u32 = 65_534;

/// Its disk is not what is tested: it need not wait for it.
fn configuration(folder: &Path, port: &Port, users: &str) -> String {
    let base: PathBuf = folder.join("run");
    let (folder, base) = (folder.display(), base.display());
    let number = port.number();
    format!(
        "protocols = lmtp
base_dir = {base}
state_dir = {folder}/state
log_path = {folder}/log
listen = 127.0.0.1
ssl = no
mail_location = maildir:~/Maildir
mail_fsync = never
mail_home = {folder}/mail/%n
first_valid_uid = 1
first_valid_gid = 1
mail_uid = {NOBODY}
mail_gid = {NOBODY}
auth_username_format = %Ln
lmtp_add_received_header = no
postmaster_address = postmaster@example.org
passdb {{
  driver = static
  args = nopassword=y
}}
{users}
service lmtp {{
  process_min_avail = 1
  unix_listener lmtp {{
    mode = 0666
  }}
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {number}
  }}
}}
"
    )
}
