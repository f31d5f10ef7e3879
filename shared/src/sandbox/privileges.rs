//! From root to a user that can do nothing but what its files allow.

use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use nix::unistd::{
    Gid, Group, Uid, User, geteuid, getgroups, getresgid, getresuid, setgroups, setresgid,
    setresuid,
};

use super::SandboxConfig;
use super::kernel::{Capability, capabilities, keep_capabilities};

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
    /// Nobody is called so.
    #[error("sandbox.{key}: there is no {key} {name}")]
    Unknown {
        /// `user` or `group`.
        key: &'static str,
        /// What was looked for.
        name: String,
    },
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
    /// [`PrivilegeError::Unknown`]
    pub fn of(config: &SandboxConfig) -> Result<Option<Self>, PrivilegeError> {
        let Some(name) = &config.user else {
            return Ok(None);
        };
        let unknown = |key, name: &str| PrivilegeError::Unknown {
            key,
            name: name.to_owned(),
        };
        let user = find_user(name).ok_or_else(|| unknown("user", name))?;
        let gid = match &config.group {
            None => user.gid,
            Some(group) => find_group(group).ok_or_else(|| unknown("group", group))?,
        };
        Ok(Some(Self { uid: user.uid, gid }))
    }

    /// Who the process is.
    #[must_use]
    pub fn own() -> Self {
        Self {
            uid: geteuid(),
            gid: nix::unistd::getegid(),
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
    if let Some(account) = account
        && account != Account::own()
    {
        if !geteuid().is_root() {
            return Err(PrivilegeError::NotRoot(account.uid.to_string()));
        }
        become_account(account).map_err(|error| refused(account, error))?;
    }
    let kept = if target.uid.is_root() {
        ROOT_KEEPS
    } else {
        &[]
    };
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
    let wanted = kept
        .iter()
        .fold(0, |all, Capability(number)| all | 1_u64 << number);
    let (permitted, effective) = capabilities().map_err(|error| refused(account, error))?;
    if (permitted | effective) & !wanted != 0 {
        return Err(said("capabilities remain"));
    }
    Ok(())
}

/// Hands a directory over to an account, with everything below it that belongs to somebody else. Links are not followed.
///
/// Only for root: at its first start with a user of its own, a program finds what it wrote as root.
///
/// # Errors
/// [`PrivilegeError::HandOver`], with the first thing that cannot be handed over.
pub fn make_over(directory: &Path, account: Account) -> Result<usize, PrivilegeError> {
    let failed = |path: &Path, source| PrivilegeError::HandOver {
        path: path.to_owned(),
        uid: account.uid,
        source,
    };
    let (uid, gid) = (account.uid.as_raw(), account.gid.as_raw());
    let mut changed = 0;
    let mut waiting = vec![directory.to_owned()];
    while let Some(path) = waiting.pop() {
        let found = fs::symlink_metadata(&path).map_err(|source| failed(&path, source))?;
        if (found.uid(), found.gid()) != (uid, gid) {
            lchown(&path, Some(uid), Some(gid)).map_err(|source| failed(&path, source))?;
            changed += 1;
        }
        if found.is_dir() {
            let entries = fs::read_dir(&path).map_err(|source| failed(&path, source))?;
            for entry in entries {
                waiting.push(entry.map_err(|source| failed(&path, source))?.path());
            }
        }
    }
    Ok(changed)
}

/// CAP_CHOWN, CAP_DAC_OVERRIDE and CAP_FOWNER of capabilities(7).
const ROOT_KEEPS: &[Capability] = &[Capability(0), Capability(1), Capability(3)];
