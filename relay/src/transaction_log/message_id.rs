//! Finds the Message-ID of content as it passes, in pieces of any size, and keeps no more of it than that.

/// Octets of the header section that are looked at: it stands near the front of all mail that has one.
const HEADER_OCTETS_MAX: usize = 64 * 1024;
/// Octets of a line that are looked at. RFC 5322 §2.1.1 allows 998.
const LINE_OCTETS_MAX: usize = 998;
/// Octets of a Message-ID that are kept.
const ID_OCTETS_MAX: usize = 255;

const NAME: &[u8] = b"message-id:";

/// Looks at the header section of one message.
#[derive(Debug, Default)]
pub struct MessageId {
    seen: usize,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// The value so far; there while the field goes on.
    value: Option<Vec<u8>>,
    is_over: bool,
}

impl MessageId {
    /// Looks at the next piece of the content.
    pub fn look(&mut self, part: &[u8]) {
        let mut rest = part;
        while !self.is_over {
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.gather(rest);
                self.count(rest.len());
                return;
            };
            let (line, behind) = rest.split_at(end + 1);
            if self.line.is_empty() {
                self.on_line(line);
            } else {
                self.gather(line);
                let line = std::mem::take(&mut self.line);
                self.on_line(&line);
            }
            self.count(line.len());
            rest = behind;
        }
    }

    /// What was found, without the blanks of a folded field.
    #[must_use]
    pub fn found(&self) -> Option<String> {
        let value = self.value.as_ref()?;
        let kept = value.iter().filter(|octet| !octet.is_ascii_whitespace());
        let kept: Vec<_> = kept.copied().take(ID_OCTETS_MAX).collect();
        let id = String::from_utf8_lossy(&kept).into_owned();
        Some(id).filter(|id| !id.is_empty())
    }

    fn gather(&mut self, piece: &[u8]) {
        let room = LINE_OCTETS_MAX.saturating_sub(self.line.len());
        self.line.extend_from_slice(&piece[..room.min(piece.len())]);
    }

    fn on_line(&mut self, line: &[u8]) {
        let is_folded = matches!(line.first(), Some(b' ' | b'\t'));
        match &mut self.value {
            Some(value) if is_folded => {
                let room = LINE_OCTETS_MAX.saturating_sub(value.len());
                value.extend_from_slice(&line[..room.min(line.len())]);
            }
            // The field is whole; a second one of the name is no better than the first.
            Some(_) => self.is_over = true,
            None if matches!(line, b"\r\n" | b"\n") => self.is_over = true,
            None => {
                let name = line.get(..NAME.len());
                if name.is_some_and(|name| name.eq_ignore_ascii_case(NAME)) {
                    let value = &line[NAME.len()..];
                    self.value = Some(value[..value.len().min(LINE_OCTETS_MAX)].to_vec());
                }
            }
        }
    }

    fn count(&mut self, octets: usize) {
        self.seen += octets;
        if self.is_over || self.seen > HEADER_OCTETS_MAX {
            self.is_over = true;
            self.line = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(content: &[u8], piece: usize) -> Option<String> {
        let mut message_id = MessageId::default();
        for part in content.chunks(piece) {
            message_id.look(part);
        }
        message_id.found()
    }

    #[test]
    fn it_is_found_in_any_split() {
        let long = format!("X: {}\r\nMessage-ID: <late@x>\r\n\r\n", "y".repeat(3_000));
        for (content, expected) in [
            (
                "Message-ID: <a@b.example>\r\n\r\nbody",
                Some("<a@b.example>"),
            ),
            (
                "From: x\r\nMESSAGE-id:<a@b>\r\nTo: y\r\n\r\n",
                Some("<a@b>"),
            ),
            (
                "Message-ID:\r\n <folded@b>\r\n\t\r\nTo: y\r\n\r\n",
                Some("<folded@b>"),
            ),
            (
                "Message-ID: <one@b>\r\nMessage-ID: <two@b>\r\n\r\n",
                Some("<one@b>"),
            ),
            ("Message-ID: <unfinished@b>", None),
            ("Message-ID:\r\n\r\n", None),
            ("To: y\r\n\r\nMessage-ID: <body@b>\r\n", None),
            ("Resent-Message-ID: <a@b>\r\n\r\n", None),
            ("", None),
            (&long, Some("<late@x>")),
        ] {
            for piece in [1, 2, 7, 4096] {
                assert_eq!(
                    find(content.as_bytes(), piece).as_deref(),
                    expected,
                    "{content:?} by {piece}"
                );
            }
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let id = format!("Message-ID: <{}>\r\n\r\n", "x".repeat(900));
        assert_eq!(find(id.as_bytes(), 100).unwrap().len(), ID_OCTETS_MAX);
        let mut message_id = MessageId::default();
        for _ in 0..1_000 {
            message_id.look(&[b'x'; 4096]);
            assert!(message_id.line.len() <= LINE_OCTETS_MAX);
        }
        message_id.look(b"\r\nMessage-ID: <too@late>\r\n\r\n");
        assert_eq!(message_id.found(), None);
        let mut folded = MessageId::default();
        folded.look(b"Message-ID: <a@b>\r\n");
        for _ in 0..1_000 {
            folded.look(b" more\r\n");
        }
        assert!(folded.value.unwrap().len() <= LINE_OCTETS_MAX);
    }
}
