//! Postfix's `smtp-source`: many messages over many sessions, told apart by their `Message-Id`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use super::{SmtpSink, Software};
use crate::message::without_trace;
use crate::process::Output;

/// What `smtp-source` is asked to send.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Messages in all.
    pub messages: usize,
    /// Sessions side by side, each of which stays connected.
    pub sessions: usize,
    /// Octets of body.
    pub octets: usize,
}

impl Load {
    /// Sends it; all messages must be accepted. False when `smtp-source` is missing.
    ///
    /// # Panics
    /// When a message is refused.
    #[track_caller]
    #[must_use]
    pub fn send(self, address: SocketAddr, recipient: &str) -> bool {
        let Some(program) = Software::SmtpSource.find() else {
            return false;
        };
        let mut command = Command::new(program);
        command.args([
            "-d",
            "-C",
            "10",
            "-f",
            "sender@source.example",
            "-t",
            recipient,
        ]);
        command.args([
            "-m",
            &self.messages.to_string(),
            "-s",
            &self.sessions.to_string(),
        ]);
        command
            .args(["-l", &self.octets.to_string()])
            .arg(address.to_string());
        let output = Output::within(&mut command, Duration::from_secs(300));
        assert_eq!(
            output.code, 0,
            "smtp-source: {}{}",
            output.stdout, output.stderr
        );
        true
    }

    /// Fails unless these are all messages of the load, each once and octet for octet, apart from the trace fields.
    ///
    /// # Panics
    /// With the first message that is not as it should be.
    #[track_caller]
    pub fn assert_arrived(self, contents: &[Vec<u8>], recipient: &str) {
        assert_eq!(contents.len(), self.messages, "messages that arrived");
        let sample = self.sample(recipient);
        let mut ids = BTreeSet::new();
        for content in contents {
            let message = Numbered::read(content);
            assert_eq!(
                message.anonymous, sample.anonymous,
                "a message that was changed"
            );
            assert!(ids.insert(message.id.clone()), "{} came twice", message.id);
        }
    }

    /// One such message, as it comes to somebody who is sent it directly.
    fn sample(self, recipient: &str) -> Numbered {
        let mut sink = SmtpSink::start(&[]).expect("smtp-sink comes with smtp-source");
        let one = Self {
            messages: 1,
            sessions: 1,
            ..self
        };
        assert!(one.send(sink.address(), recipient));
        Numbered::read(&sink.wait_for_messages(1)[0].content)
    }
}

/// Fails unless the messages of each sending session came in the order in which that session sent them.
///
/// # Panics
/// With the session whose messages overtook each other.
#[track_caller]
pub fn assert_order_of_sessions(contents: &[Vec<u8>]) {
    let mut sessions: BTreeMap<String, i32> = BTreeMap::new();
    for content in contents {
        // `<process.session.left@host>`: the messages that are left to be sent, so it counts down.
        let id = Numbered::read(content).id;
        let mut parts = id.trim_start_matches('<').split(['.', '@']);
        let (_, session, left) = (parts.next(), parts.next(), parts.next());
        let session = session.expect("a session in the id").to_owned();
        let left =
            u32::from_str_radix(left.expect("a number in the id"), 16).expect("a hex number");
        // It goes on below zero, when the sessions end.
        let left = left.cast_signed();
        if let Some(previous) = sessions.insert(session.clone(), left) {
            assert!(
                left < previous,
                "session {session}: {left} came after {previous}"
            );
        }
    }
}

/// A message apart from what makes it unique.
#[derive(Debug)]
struct Numbered {
    id: String,
    anonymous: String,
}

impl Numbered {
    fn read(content: &[u8]) -> Self {
        let text = String::from_utf8_lossy(without_trace(content)).into_owned();
        let mut numbered = Self {
            id: String::new(),
            anonymous: String::new(),
        };
        for line in text.split_inclusive("\r\n") {
            if let Some(id) = line
                .strip_prefix("Message-Id: ")
                .filter(|_| numbered.id.is_empty())
            {
                numbered.id = id.trim_end().to_owned();
            } else if !line.starts_with("Date: ") {
                numbered.anonymous.push_str(line);
            }
        }
        assert!(!numbered.id.is_empty(), "a message without an id: {text}");
        numbered
    }
}
