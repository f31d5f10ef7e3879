//! A program under strace, and what it did to files and connections, call by call in one order.
//!
//! A call has two moments: it is *begun* when the program enters the kernel and *done* when it comes back. strace holds
//! a thread at both, so whatever one thread does because of another stands behind it in the trace, however many
//! threads there are.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// A moment of a recording. Everything that happened before a cut has a smaller one.
pub type Moment = usize;

/// What changes files, makes changes durable or carries dialogue; and what could, so that its use is noticed. A
/// question mark lets strace pass over calls that this machine's processor does not have.
const CALLS: &[&str] = &[
    // Descriptors.
    "?open",
    "openat",
    "?openat2",
    "?creat",
    "close",
    "dup",
    "?dup2",
    "dup3",
    "fcntl",
    "lseek",
    // Content.
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "?pwritev2",
    "ftruncate",
    "truncate",
    "fallocate",
    "copy_file_range",
    "sendfile",
    "splice",
    "mmap",
    "?io_uring_enter",
    // Names.
    "?rename",
    "renameat",
    "renameat2",
    "?unlink",
    "unlinkat",
    "?rmdir",
    "?link",
    "linkat",
    "?symlink",
    "symlinkat",
    "?mkdir",
    "mkdirat",
    // Durability.
    "fsync",
    "fdatasync",
    "sync_file_range",
    "syncfs",
    "sync",
    "msync",
    // Dialogue.
    "accept",
    "accept4",
    "connect",
    "sendto",
    "sendmsg",
    "recvfrom",
    "recvmsg",
    "readv",
];

/// One system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) begun: Moment,
    /// The moment it came back, and with what; `None` when the program was killed in it.
    pub(super) done: Option<(Moment, i64)>,
    pub(super) name: String,
    arguments: String,
}

/// The command under strace, which writes into `trace`.
#[must_use]
pub fn under_strace(strace: &Path, command: &Command, trace: &Path, more: &[&str]) -> Command {
    let mut traced = Command::new(strace);
    traced
        // strace itself ignores SIGTERM then, and ends with the program.
        .args([
            "--follow-forks",
            "--seccomp-bpf",
            "-qqq",
            "-xx",
            "--string-limit=4000000",
        ])
        .arg(format!("--trace={}", CALLS.join(",")))
        .arg("--output")
        .arg(trace)
        .args(more)
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        traced.env(name, value.unwrap_or(OsStr::new("")));
    }
    traced
}

/// Reads a trace. Its first moment is `first`.
///
/// # Errors
/// When a line is not as strace writes them: what cannot be read cannot be left out either.
pub(super) fn read(text: &str, first: Moment) -> Result<Vec<Call>, String> {
    let mut calls: Vec<Call> = Vec::new();
    let mut unfinished: HashMap<&str, usize> = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let moment = first + 2 * number;
        let (task, event) = line.split_once(' ').ok_or_else(|| unreadable(line))?;
        let event = event.trim_start();
        if event.starts_with("+++") || event.starts_with("---") {
            continue;
        }
        if let Some(rest) = event.strip_prefix("<... ") {
            let index = unfinished.remove(task).ok_or_else(|| unreadable(line))?;
            let (_, rest) = rest
                .split_once(" resumed>")
                .ok_or_else(|| unreadable(line))?;
            let call = &mut calls[index];
            call.arguments.push_str(rest);
            let whole = std::mem::take(&mut call.arguments);
            (call.arguments, call.done) =
                ended(&whole, moment + 1).ok_or_else(|| unreadable(line))?;
            continue;
        }
        let (name, rest) = event.split_once('(').ok_or_else(|| unreadable(line))?;
        let (arguments, done) = match rest.strip_suffix("<unfinished ...>") {
            Some(arguments) => {
                unfinished.insert(task, calls.len());
                (arguments.trim_end().to_owned(), None)
            }
            None => ended(rest, moment + 1).ok_or_else(|| unreadable(line))?,
        };
        calls.push(Call {
            begun: moment,
            done,
            name: name.to_owned(),
            arguments,
        });
    }
    Ok(calls)
}

/// The first moment behind a trace.
pub(super) fn moments(text: &str) -> usize {
    2 * text.lines().count()
}

/// Arguments and result of `3, "\x61", 1) = 1`.
fn ended(rest: &str, moment: Moment) -> Option<(String, Option<(Moment, i64)>)> {
    let (call, result) = rest.rsplit_once(" = ").unwrap_or((rest, "?"));
    let arguments = call
        .trim_end()
        .trim_end_matches("<unfinished ...>")
        .trim_end();
    let arguments = arguments.strip_suffix(')').unwrap_or(arguments).to_owned();
    let word = result.split_whitespace().next()?;
    let result = match (word, word.strip_prefix("0x")) {
        // It never came back: the program was killed in it.
        ("?", _) => return Some((arguments, None)),
        (_, Some(digits)) => i64::from_str_radix(digits, 16).unwrap_or(i64::MAX),
        (word, None) => word.parse().ok()?,
    };
    Some((arguments, Some((moment, result))))
}

fn unreadable(line: &str) -> String {
    let shown: String = line.chars().take(200).collect();
    format!("a line of the trace that cannot be read: {shown}")
}

impl Call {
    /// An argument as it is written.
    pub(super) fn word(&self, index: usize) -> &str {
        self.arguments.split(", ").nth(index).unwrap_or_default()
    }

    pub(super) fn number(&self, index: usize) -> Result<i64, String> {
        let word = self.word(index);
        word.parse()
            .map_err(|_| format!("{}: no number: {word}", self.name))
    }

    pub(super) fn has_flag(&self, index: usize, flag: &str) -> bool {
        self.word(index).split('|').any(|word| word == flag)
    }

    /// The octets of a string argument, as `-xx` writes them.
    pub(super) fn octets(&self, index: usize) -> Result<Vec<u8>, String> {
        unhex(self.word(index))
            .ok_or_else(|| format!("{}: no string in {:.80}", self.name, self.arguments))
    }

    /// The octets of a list of buffers, in order.
    pub(super) fn buffers(&self) -> Result<Vec<u8>, String> {
        let mut all = Vec::new();
        for part in self.arguments.split("iov_base=").skip(1) {
            let quoted = part.split(", ").next().unwrap_or_default();
            all.extend(
                unhex(quoted).ok_or_else(|| format!("{}: an unreadable buffer", self.name))?,
            );
        }
        Ok(all)
    }
}

/// `"\x61\x62"`; strace puts dots behind one that it has cut off, which is an error here.
fn unhex(quoted: &str) -> Option<Vec<u8>> {
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let parts = inner.as_bytes().chunks(4);
    parts
        .map(|part| match part {
            [b'\\', b'x', high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
            _ => None,
        })
        .collect()
}

fn nibble(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_several_threads_are_put_together() {
        let trace = "11 openat(AT_FDCWD, \"\\x2f\\x61\", O_RDWR|O_CREAT, 0600) = 3\n\
                     11 write(3, \"\\x61\\x00\", 2 <unfinished ...>\n\
                     12 fsync(4 <unfinished ...>\n\
                     11 <... write resumed>)              = 2\n\
                     12 --- SIGTERM {si_signo=SIGTERM} ---\n\
                     12 <... fsync resumed>)              = -1 EIO (Input/output error)\n\
                     13 writev(7, [{iov_base=\"\\x32\", iov_len=1}, {iov_base=\"\\x35\\x30\", iov_len=2}], 2) = 3\n\
                     13 fsync(3)                          = ?\n\
                     11 rename(\"\\x61\", \"\\x62\" <unfinished ...>\n\
                     11 +++ killed by SIGKILL +++\n";
        let calls = read(trace, 100).unwrap();
        let shown: Vec<_> = calls
            .iter()
            .map(|call| (&*call.name, call.begun, call.done))
            .collect();
        let expected = [
            ("openat", 100, Some((101, 3))),
            ("write", 102, Some((107, 2))),
            ("fsync", 104, Some((111, -1))),
            ("writev", 112, Some((113, 3))),
            ("fsync", 114, None),
            ("rename", 116, None),
        ];
        assert_eq!(shown, expected);
        assert_eq!(calls[0].octets(1).unwrap(), b"/a");
        assert!(calls[0].has_flag(2, "O_CREAT") && !calls[0].has_flag(2, "O_TRUNC"));
        assert_eq!(calls[1].octets(1).unwrap(), b"a\0");
        assert_eq!(calls[3].buffers().unwrap(), b"250");
        assert_eq!(calls[5].octets(1).unwrap(), b"b");
        assert_eq!(moments(trace), 20);
    }

    #[test]
    fn what_cannot_be_read_is_no_silence() {
        for line in [
            "11",
            "11 nonsense",
            "11 <... write resumed>) = 1",
            "11 write(1) = what",
        ] {
            assert!(read(line, 0).is_err(), "{line}");
        }
        let cut_off = read("1 write(3, \"\\x61\"..., 2) = 2", 0).unwrap();
        assert!(cut_off[0].octets(1).is_err());
    }
}
