//! From root to a user that can do nothing but what its files allow.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown, lchown};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use nix::fcntl::OFlag;
use nix::unistd::{
    Gid, Group, Uid, User, getegid, geteuid, getgroups, getresgid, getresuid, setegid, seteuid,
    setgroups, setresgid, setresuid,
};

use super::SandboxConfig;
use super::kernel::{Capability, bound_capabilities, capabilities, keep_capabilities, set_of};
use crate::config::ConfigErrors;

/// A user with a group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Account {
    /// The user's number.
    pub uid: Uid,
    /// The group's number.
    pub gid: Gid,
}

/// Why a process cannot become somebody else.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Only root may.
    #[error("sandbox.user: only root can become {0}; start the program as root, or as that user")]
    NotRoot(String),
    /// The system refused, or did not do what it said.
    #[error("cannot become user {uid}: {reason}")]
    Refused {
        /// Who to become.
        uid: Uid,
        /// What went wrong.
        reason: String,
    },
    /// A directory cannot be handed over.
    #[error("cannot hand {} over to user {uid}: {source}", path.display())]
    HandOver {
        /// What.
        path: PathBuf,
        /// To whom.
        uid: Uid,
        /// What the system says.
        source: io::Error,
    },
}

impl Account {
    /// The account of the settings; `None` where they name no user.
    ///
    /// # Errors
    /// Nobody is called so.
    pub fn of(config: &SandboxConfig) -> Result<Option<Self>, ConfigErrors> {
        let Some(name) = &config.user else {
            return Ok(None);
        };
        let unknown = |key, name: &str| config.problem(key, format!("there is no {key} {name}"));
        let user = find_user(name).ok_or_else(|| unknown("user", name))?;
        let gid = match &config.group {
            None => user.gid,
            Some(group) => find_group(group).ok_or_else(|| unknown("group", group))?,
        };
        Ok(Some(Self { uid: user.uid, gid }))
    }

    /// Whether the process can become it.
    ///
    /// # Errors
    /// [`PrivilegeError::NotRoot`]
    pub fn may_be_taken(self) -> Result<(), PrivilegeError> {
        match geteuid().is_root() || self == Self::own() {
            true => Ok(()),
            false => Err(PrivilegeError::NotRoot(self.name())),
        }
    }

    /// What the system calls the user; else its number.
    #[must_use]
    pub fn name(self) -> String {
        match User::from_uid(self.uid) {
            Ok(Some(user)) => user.name,
            _ => self.uid.to_string(),
        }
    }

    /// Who the process is.
    #[must_use]
    pub fn own() -> Self {
        Self {
            uid: geteuid(),
            gid: getegid(),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

/// By name, or by number: a number has no group of its own unless somebody is called so.
fn find_user(name: &str) -> Option<Account> {
    let number = || {
        let uid = Uid::from_raw(name.parse().ok()?);
        let gid = match User::from_uid(uid) {
            Ok(Some(user)) => user.gid,
            _ => Gid::from_raw(uid.as_raw()),
        };
        Some(Account { uid, gid })
    };
    match User::from_name(name) {
        Ok(Some(user)) => Some(Account {
            uid: user.uid,
            gid: user.gid,
        }),
        _ => number(),
    }
}

fn find_group(name: &str) -> Option<Gid> {
    match Group::from_name(name) {
        Ok(Some(group)) => Some(group.gid),
        _ => name.parse().ok().map(Gid::from_raw),
    }
}

/// Becomes the account, if one is named, and loses every capability either way. There is no way back.
///
/// Who stays root keeps what files of other users need, as its data may belong to another: to read and write, and to give them away.
///
/// # Errors
/// [`PrivilegeError`]
pub fn drop_privileges(account: Option<Account>) -> Result<(), PrivilegeError> {
    let target = account.unwrap_or_else(Account::own);
    let kept = if target.uid.is_root() {
        ROOT_KEEPS
    } else {
        &[]
    };
    bound_capabilities(kept);
    if let Some(account) = account
        && account != Account::own()
    {
        account.may_be_taken()?;
        become_account(account).map_err(|error| refused(account, error))?;
    }
    keep_capabilities(kept).map_err(|error| refused(target, error))?;
    verify(account.is_some(), target, kept)
}

fn refused(account: Account, reason: impl fmt::Display) -> PrivilegeError {
    PrivilegeError::Refused {
        uid: account.uid,
        reason: reason.to_string(),
    }
}

fn become_account(Account { uid, gid }: Account) -> nix::Result<()> {
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

/// What the calls said is looked at once more, and the way back tried: each of them has had systems where it did less.
fn verify(changed: bool, account: Account, kept: &[Capability]) -> Result<(), PrivilegeError> {
    let said = |reason: &str| refused(account, reason);
    let asked = |error: nix::Error| refused(account, error);
    let (user, group) = (getresuid().map_err(asked)?, getresgid().map_err(asked)?);
    let users = [user.real, user.effective, user.saved];
    let groups = [group.real, group.effective, group.saved];
    if changed && (users != [account.uid; 3] || groups != [account.gid; 3]) {
        return Err(said("the change did not reach every id"));
    }
    if changed && !getgroups().map_err(asked)?.is_empty() {
        return Err(said("other groups remain"));
    }
    if !account.uid.is_root()
        && setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok()
    {
        return Err(said("the way back to root is open"));
    }
    let wanted = set_of(kept);
    let (permitted, effective) = capabilities().map_err(|error| refused(account, error))?;
    if (permitted | effective) & !wanted != 0 {
        return Err(said("capabilities remain"));
    }
    Ok(())
}

/// Hands a directory over to an account, with everything below it; how many things that were. Where the directory itself is the
/// account's already, only files of root in it are, which a command left there that root ran; and none that has another name: the user may have put
/// a link there, for root to give away what it points to.
///
/// For root, at a start with a user of its own: it finds what it wrote as root.
///
/// # Errors
/// [`PrivilegeError::HandOver`], with the first thing that cannot be handed over. The directory itself is the last.
pub fn make_over(directory: &Path, account: Account) -> Result<usize, PrivilegeError> {
    let failed = |path: &Path, source| PrivilegeError::HandOver {
        path: path.to_owned(),
        uid: account.uid,
        source,
    };
    let (uid, gid) = (account.uid.as_raw(), account.gid.as_raw());
    let own = fs::symlink_metadata(directory).map_err(|source| failed(directory, source))?;
    if own.uid() == uid && own.is_dir() && uid != 0 {
        return make_over_files(directory, account).map_err(|source| failed(directory, source));
    }
    if own.uid() == uid || !own.is_dir() {
        return Ok(0);
    }
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(path) = waiting.pop() {
        let metadata = fs::symlink_metadata(&path).map_err(|source| failed(&path, source))?;
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).map_err(|source| failed(&path, source))?;
            for entry in entries {
                waiting.push(entry.map_err(|source| failed(&path, source))?.path());
            }
        } else if own.uid() != 0 && metadata.nlink() > 1 {
            // A link to a file of somebody else, made by who had the directory until now.
            return Err(failed(
                &path,
                io::Error::other("it has other names; copy it, or give it away by hand"),
            ));
        }
        found.push(path);
    }
    for path in found.iter().rev() {
        lchown(path, Some(uid), Some(gid)).map_err(|source| failed(path, source))?;
    }
    Ok(found.len())
}

/// Each is given away by its descriptor: a path may come to lead elsewhere between the look and the deed.
fn make_over_files(directory: &Path, account: Account) -> io::Result<usize> {
    let is_roots = |found: &fs::Metadata| found.is_file() && found.uid() == 0 && found.nlink() == 1;
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut given = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.metadata().is_ok_and(|found| is_roots(&found)) {
            continue;
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(flags.bits());
        let file = file.open(entry.path())?;
        if is_roots(&file.metadata()?) {
            fchown(
                &file,
                Some(account.uid.as_raw()),
                Some(account.gid.as_raw()),
            )?;
            given += 1;
        }
    }
    Ok(given)
}

/// Does something as another user, without root's other groups, and comes back: what root makes in a directory of that user is to be that user's.
///
/// # Errors
/// When the process cannot become that user, or not come back.
pub fn acting_as<T>(
    account: Option<Account>,
    act: impl FnOnce() -> T,
) -> Result<T, PrivilegeError> {
    let own = Account::own();
    let Some(account) = account.filter(|account| *account != own) else {
        return Ok(act());
    };
    account.may_be_taken()?;
    let groups = getgroups().map_err(|error| refused(own, error))?;
    setgroups(&[])
        .and_then(|()| setegid(account.gid))
        .and_then(|()| seteuid(account.uid))
        .map_err(|error| refused(account, error))?;
    let done = act();
    seteuid(own.uid)
        .and_then(|()| setegid(own.gid))
        .and_then(|()| setgroups(&groups))
        .map_err(|error| refused(own, error))?;
    Ok(done)
}

/// CAP_CHOWN, CAP_DAC_OVERRIDE and CAP_FOWNER of capabilities(7).
const ROOT_KEEPS: &[Capability] = &[Capability(0), Capability(1), Capability(3)];
