//! What is in a Maildir, with the line ends that it had on the wire.

use std::path::Path;

/// The messages of a Maildir, `new` and `cur`, in the order of their file names.
///
/// # Panics
/// When a file cannot be read.
#[must_use]
pub fn maildir(path: &Path) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for folder in ["new", "cur"] {
        let Ok(entries) = std::fs::read_dir(path.join(folder)) else {
            continue;
        };
        files.extend(entries.map(|entry| entry.expect("a directory entry").path()));
    }
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read(file).expect("a message is read"))
        .collect()
}

/// LF to CRLF: many stores keep the local line end.
#[must_use]
pub fn with_crlf(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + content.len() / 32);
    let mut previous = 0;
    for &octet in content {
        if octet == b'\n' && previous != b'\r' {
            out.push(b'\r');
        }
        out.push(octet);
        previous = octet;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_become_those_of_the_wire() {
        assert_eq!(with_crlf(b"a\nb\r\n\n"), b"a\r\nb\r\n\r\n");
    }
}
