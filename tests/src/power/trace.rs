//! A program under strace, and what it did to files and connections, call by call in one order.
//!
//! A call has two moments: it is *begun* when the program enters the kernel and *done* when it comes back. strace holds
//! a thread at both, so whatever one thread does because of another stands behind it in the trace, however many
//! threads there are.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use memchr::memmem;

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

/// How strace marks a call during which another thread did something.
const UNFINISHED: &str = " <unfinished ...>";

/// One system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) begun: Moment,
    /// The moment it came back, and with what; `None` when the program was killed in it.
    pub(super) done: Option<(Moment, i64)>,
    pub(super) name: String,
    /// As they are written: with `-xx` no string has a comma in it.
    arguments: Vec<String>,
}

/// A call that is not over yet.
#[derive(Debug)]
struct Begun<'a> {
    moment: Moment,
    name: &'a str,
    arguments: &'a str,
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
        traced.env(name, value.unwrap_or_default());
    }
    traced
}

/// Reads a trace. Its first moment is `first`.
///
/// # Errors
/// When a line is not as strace writes them: what cannot be read cannot be left out either.
pub(super) fn read(text: &str, first: Moment) -> Result<Vec<Call>, String> {
    let mut calls: Vec<Call> = Vec::new();
    let mut unfinished: HashMap<&str, Begun<'_>> = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let moment = first + 2 * number;
        let (task, event) = line.split_once(' ').ok_or_else(|| unreadable(line))?;
        let event = event.trim_start();
        if event.starts_with("+++") || event.starts_with("---") {
            continue;
        }
        let (begun, rest) = if let Some(rest) = event.strip_prefix("<... ") {
            let begun = unfinished.remove(task).ok_or_else(|| unreadable(line))?;
            let rest = rest.split_once(" resumed>");
            (begun, rest.ok_or_else(|| unreadable(line))?.1)
        } else {
            let (name, rest) = event.split_once('(').ok_or_else(|| unreadable(line))?;
            let arguments = rest.strip_suffix(UNFINISHED);
            let begun = Begun {
                moment,
                name,
                arguments: arguments.unwrap_or_default(),
            };
            if arguments.is_some() {
                unfinished.insert(task, begun);
                continue;
            }
            (begun, rest)
        };
        let call = begun.ended(rest, moment + 1);
        calls.push(call.ok_or_else(|| unreadable(line))?);
    }
    calls.extend(
        unfinished
            .into_values()
            .map(|begun| begun.call(begun.arguments, None)),
    );
    calls.sort_by_key(|call| call.begun);
    Ok(calls)
}

/// The first moment behind a trace.
pub(super) fn moments(text: &str) -> usize {
    2 * text.lines().count()
}

impl Begun<'_> {
    /// With what stands behind the beginning: `"\x61", 1) = 1`.
    fn ended(self, rest: &str, moment: Moment) -> Option<Call> {
        let (arguments, result) = rest.rsplit_once(" = ")?;
        let arguments = arguments.trim_end().strip_suffix(')')?;
        let arguments = arguments.strip_suffix(UNFINISHED).unwrap_or(arguments);
        let word = result.split(' ').next()?;
        let done = match word {
            // It never came back: the program was killed in it.
            "?" => None,
            // A place in memory, or flags; nobody asks for them.
            word if word.starts_with("0x") => Some((moment, i64::MAX)),
            word => Some((moment, word.parse().ok()?)),
        };
        Some(self.call(&[self.arguments, arguments].concat(), done))
    }

    fn call(&self, arguments: &str, done: Option<(Moment, i64)>) -> Call {
        Call {
            begun: self.moment,
            done,
            name: self.name.to_owned(),
            arguments: split(arguments),
        }
    }
}

/// The single arguments. Traces are long, and mostly strings: so the search is a library's, which is always optimised.
fn split(arguments: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut from = 0;
    for at in memmem::find_iter(arguments.as_bytes(), ", ") {
        words.push(arguments[from..at].to_owned());
        from = at + 2;
    }
    words.push(arguments[from..].to_owned());
    words
}

fn unreadable(line: &str) -> String {
    let shown: String = line.chars().take(200).collect();
    format!("a line of the trace that cannot be read: {shown}")
}

impl Call {
    /// An argument as it is written.
    pub(super) fn word(&self, index: usize) -> &str {
        self.arguments.get(index).map_or("", String::as_str)
    }

    pub(super) fn number(&self, index: usize) -> Result<i64, String> {
        let word = self.word(index);
        word.parse()
            .map_err(|_| format!("argument {index} is no number: {word}"))
    }

    pub(super) fn has_flag(&self, index: usize, flag: &str) -> bool {
        self.word(index).split('|').any(|word| word == flag)
    }

    /// The octets of a string argument, as `-xx` writes them.
    pub(super) fn octets(&self, index: usize) -> Result<Vec<u8>, String> {
        unhex(self.word(index)).ok_or_else(|| format!("argument {index} is no whole string"))
    }

    /// The octets of a list of buffers, in order.
    pub(super) fn buffers(&self) -> Result<Vec<u8>, String> {
        let mut all = Vec::new();
        for word in &self.arguments {
            // `[{iov_base="\x61"` or the same inside a message.
            if let Some((_, quoted)) = word.split_once("iov_base=") {
                all.extend(unhex(quoted).ok_or("a buffer is no whole string")?);
            }
        }
        Ok(all)
    }
}

/// `"\x61\x62"`; strace puts dots behind one that it has cut off, which is an error here.
fn unhex(quoted: &str) -> Option<Vec<u8>> {
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    let mut octets = Vec::with_capacity(inner.len() / 4);
    // A plain loop: this is where the time goes in a build that is not optimised.
    let mut at = 0;
    while at + 3 < inner.len() {
        let (high, low) = (
            DIGITS[inner[at + 2] as usize],
            DIGITS[inner[at + 3] as usize],
        );
        if inner[at] != b'\\' || inner[at + 1] != b'x' || high > 15 || low > 15 {
            return None;
        }
        octets.push(high << 4 | low);
        at += 4;
    }
    (at == inner.len()).then_some(octets)
}

/// The value of each hexadecimal digit; 255 is none.
const DIGITS: [u8; 256] = {
    let mut digits = [255; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    digits
};

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
