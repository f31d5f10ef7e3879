//! Files and TCP ports, by Landlock.
//!
//! What is handled is written for fixed versions of the interface, so that a newer kernel refuses what it was told to refuse
//! and nothing that was not looked at. Version 4 holds what a promise rests on; the others come on top where they are.

use std::mem;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
};

use super::kernel::NoLandlock;
use super::{Enforcement, Rules};

/// The version without which the sandbox is not what it is called.
const NEEDED: u32 = 4;

/// What the promises rest on, by the version that brought it.
const PARTS: [(u32, &str); 2] = [
    (3, "the truncation of files (Landlock 3, Linux 6.2)"),
    (NEEDED, "TCP ports (Landlock 4, Linux 6.7)"),
];

/// What is taken where it is there.
const EXTRAS: [(u32, &str); 2] = [
    (5, "control of devices (Landlock 5, Linux 6.10)"),
    (
        6,
        "signals and abstract sockets of other processes (Landlock 6, Linux 6.12)",
    ),
];

/// What the kernel lacks of what is needed.
pub(super) fn lacking(found: Result<u32, NoLandlock>) -> Vec<String> {
    match found {
        Ok(abi) => later_than(abi, &PARTS),
        Err(reason) => vec![reason.to_string()],
    }
}

/// What the kernel lacks of the rest. Where there is no Landlock, that was said.
pub(super) fn absent_extras(found: Result<u32, NoLandlock>) -> Vec<String> {
    found.map_or_else(|_| Vec::new(), |abi| later_than(abi, &EXTRAS))
}

fn later_than(abi: u32, parts: &[(u32, &str)]) -> Vec<String> {
    parts
        .iter()
        .filter(|(needed, _)| abi < *needed)
        .map(|(_, part)| (*part).to_owned())
        .collect()
}

/// Restricts the calling thread.
pub(super) fn restrict(rules: &Rules, enforcement: Enforcement) -> Result<(), String> {
    let level = match enforcement {
        Enforcement::Required => CompatLevel::HardRequirement,
        Enforcement::BestEffort | Enforcement::Off => CompatLevel::BestEffort,
    };
    apply(rules, level).map_err(|error| format!("Landlock: {error}"))
}

fn apply(rules: &Rules, level: CompatLevel) -> Result<(), RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(level)
        .handle_access(AccessFs::from_all(ABI::V4))?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::IoctlDev)?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .set_compatibility(level)
        .add_rules(path_beneath_rules(&rules.read, reading()))?
        .add_rules(path_beneath_rules(&rules.write, reading() | writing()))?;
    pin(rules.read.iter());
    for port in &rules.connect {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    ruleset.restrict_self()?;
    Ok(())
}

/// A rule is about an inode, and those of /proc are made anew when the kernel has forgotten them: an open descriptor keeps it from that.
fn pin<'p>(paths: impl Iterator<Item = &'p PathBuf>) {
    let in_proc = paths.filter(|path| path.starts_with("/proc"));
    in_proc
        .filter_map(|path| PathFd::new(path).ok())
        .for_each(mem::forget);
}

/// Without `Execute`: nothing is ever started.
fn reading() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

/// Files and directories. Nobody needs device nodes, sockets, pipes or symbolic links later.
fn writing() -> BitFlags<AccessFs> {
    AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}
