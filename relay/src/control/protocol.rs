//! Requests and replies: one JSON document a line, both ways.
//!
//! A request is answered by any number of lines with data and then one of [`Reply::Done`] or
//! [`Reply::Error`]; an end without it is a broken connection.

use std::net::IpAddr;
use std::path::PathBuf;

use atrn_shared::smtp::address::Domain;
use serde::{Deserialize, Serialize};

use crate::activity::{AccountActivity, ConfigurationState, Snapshot};
use crate::limits::{BanStatus, LimitsStatus};
use crate::names::Health;
use crate::queue::backup::{Manifest, Progress};
use crate::queue::{
    Action, Changed, Disk, DomainTotal, Filter, Item, Message, QueueId, Selection, StatsBy,
    StatsRow,
};
use crate::transaction_log::LogState;

/// The version of this protocol. Command line and daemon are installed together, but one of them may not have been
/// restarted yet.
pub const VERSION: u32 = 1;

/// A request as it is sent.
#[derive(Debug, Deserialize, Serialize)]
pub struct Asked {
    /// [`VERSION`]
    pub version: u32,
    /// What is asked; read only where the version is ours.
    #[serde(flatten)]
    pub request: serde_json::Value,
}

/// What can be asked.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// A copy of the queue: any number of [`Reply::Progress`], and one [`Reply::BackedUp`].
    Backup {
        /// The directory that it goes to, as the relay names it.
        to: PathBuf,
    },
    /// Who is banned at this moment: one [`Reply::Bans`].
    Bans,
    /// The content of a message, as [`Reply::Content`]s.
    Cat {
        /// The message.
        id: QueueId,
    },
    /// An admin's action: one [`Reply::Changed`].
    Change {
        /// What to do.
        action: Action,
        /// To which deliveries.
        selection: Selection,
        /// Only say what would be done.
        dry_run: bool,
    },
    /// Ends deliveries, and reports where that is due: one [`Reply::Changed`].
    End {
        /// How.
        ending: Ending,
        /// Why, in words; `None` where there is nothing to say.
        reason: Option<String>,
        /// Which deliveries.
        selection: Selection,
        /// Only say what would be done.
        dry_run: bool,
    },
    /// End a ban, or all of them: one [`Reply::Lifted`].
    Lift {
        /// Whose; `None`: all.
        address: Option<IpAddr>,
    },
    /// Deliveries that match, oldest first, as [`Reply::Item`]s.
    List {
        /// Which.
        filter: Filter,
        /// How many at most.
        limit: Option<u64>,
    },
    /// Look at the configuration files again: one [`Reply::Reloaded`].
    Reload,
    /// All of one message: a [`Reply::Message`].
    Show {
        /// The message.
        id: QueueId,
    },
    /// Deliveries by age: one [`Reply::Stats`].
    Stats {
        /// And by what else.
        by: StatsBy,
    },
    /// How the relay is doing: one [`Reply::Status`].
    Status,
}

/// How an admin ends deliveries.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// As if they had been refused for good.
    Bounce,
    /// As if their time were over.
    Expire,
}

/// One line of an answer.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Backup`].
    BackedUp(Manifest),
    /// To [`Request::Bans`].
    Bans(Vec<BanStatus>),
    /// To [`Request::Change`] and [`Request::End`].
    Changed(Changed),
    /// The next octets of a content, in base64.
    Content(String),
    /// All has been said.
    Done,
    /// It cannot be answered; ends the answer.
    Error(Refused),
    /// The next delivery of a list.
    Item(Box<Item>),
    /// To [`Request::Lift`]: how many there were.
    Lifted(u64),
    /// To [`Request::Show`].
    Message(Box<Message>),
    /// How far a copy has come.
    Progress(Progress),
    /// To [`Request::Reload`]; `None` when it takes longer than anybody should wait.
    Reloaded(Option<ConfigurationState>),
    /// To [`Request::Stats`].
    Stats(Vec<StatsRow>),
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// What is wrong with the answer that was given.
    Warning(String),
}

/// Why a request is not answered.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// What the caller may do about it.
    pub kind: ErrorKind,
    /// For the operator.
    pub text: String,
}

/// Kinds of [`Refused`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Another version, or no request of this one.
    Invalid,
    /// It is not in the queue.
    NotFound,
    /// The queue cannot do it now.
    Unavailable,
}

/// How the relay is doing.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    /// Whether the daemon answers; without it only the queue and the configuration are known.
    pub running: bool,
    /// Of the program that answers.
    pub version: String,
    /// The relay's name.
    pub hostname: Domain,
    /// The daemon's process.
    pub pid: Option<u32>,
    /// What it does and did.
    #[serde(flatten)]
    pub activity: Option<Snapshot>,
    /// What it held off.
    #[serde(default)]
    pub limits: Option<LimitsStatus>,
    /// How look-ups go; `None`: they are off.
    #[serde(default)]
    pub names: Option<Health>,
    /// How the transaction log does; `None`: it is not kept.
    #[serde(default)]
    pub transaction_log: Option<LogState>,
    /// Deliveries that sessions hold.
    pub leased: u64,
    /// The disk under the queue; `None` where it does not say, or there is no queue yet.
    pub disk: Option<Disk>,
    /// Every domain that is configured or has mail.
    pub domains: Vec<DomainStatus>,
    /// Every configured account.
    pub accounts: Vec<AccountStatus>,
}

/// A domain in [`Status`].
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DomainStatus {
    /// Whether new mail is accepted for it.
    pub configured: bool,
    /// Octets that are held for it at most.
    pub max_queue_size: Option<u64>,
    /// Messages that are held for it at most.
    pub max_queue_messages: Option<u64>,
    /// What is in the queue.
    #[serde(flatten)]
    pub total: DomainTotal,
}

/// An account in [`Status`].
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct AccountStatus {
    /// Its name.
    pub account: String,
    /// Whose mail it may pull.
    pub domains: Vec<Domain>,
    /// It may not pull just now.
    pub disabled: bool,
    /// What it did since the start.
    #[serde(flatten)]
    pub activity: AccountActivity,
}

impl Refused {
    pub(super) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { kind, text }
    }
}

impl Request {
    /// The line that asks this, with its line end.
    #[must_use]
    pub fn line(&self) -> String {
        let request = serde_json::to_value(self).expect("requests have string keys only");
        line(&Asked {
            version: VERSION,
            request,
        })
    }

    /// Reads the line of a request.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with words for the operator.
    pub fn parse(line: &[u8]) -> Result<Self, Refused> {
        let invalid = |text: String| Refused::new(ErrorKind::Invalid, text);
        let asked: Asked = serde_json::from_slice(line)
            .map_err(|error| invalid(format!("not a request: {error}")))?;
        if asked.version != VERSION {
            return Err(invalid(format!(
                "the running relay speaks version {VERSION} of the control protocol, this command version {}; restart the relay",
                asked.version
            )));
        }
        serde_json::from_value(asked.request)
            .map_err(|error| invalid(format!("not a request: {error}")))
    }
}

/// A line with its end.
pub(super) fn line<T: Serialize>(value: &T) -> String {
    let mut text = serde_json::to_string(value).expect("these types have string keys only");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_back_from_their_lines() {
        let id = "00000000001";
        for (json, expected) in [
            (r#"{"request":"status"}"#, "Status".to_owned()),
            (r#"{"request":"reload"}"#, "Reload".to_owned()),
            (
                &*format!(r#"{{"request":"cat","id":"{id}"}}"#),
                "Cat { id: QueueId(1) }".to_owned(),
            ),
            (
                r#"{"request":"list","filter":{"state":"held","larger_than":5},"limit":7}"#,
                "List { filter: Filter { domain: None, state: Some(Held), sender: None, recipient: None, \
                 received_before: None, larger_than: Some(5) }, limit: Some(7) }"
                    .to_owned(),
            ),
            (
                &*format!(
                    r#"{{"request":"change","action":"hold","selection":{{"ids":["{id}.2"]}},"dry_run":true}}"#
                ),
                "Change { action: Hold, selection: Ids([Delivery { message: QueueId(1), number: 2 }]), dry_run: true }"
                    .to_owned(),
            ),
        ] {
            let request: Request = serde_json::from_str(json).unwrap();
            assert_eq!(format!("{request:?}"), expected);
            let again = Request::parse(request.line().trim_end().as_bytes()).unwrap();
            assert_eq!(format!("{again:?}"), expected);
        }
    }

    #[test]
    fn what_is_no_request_of_ours_is_named() {
        for (line, expected) in [
            ("", "not a request: EOF"),
            ("{}", "not a request: missing field `version`"),
            (
                r#"{"version":2,"request":"from the future"}"#,
                "the running relay speaks version 1 of the control protocol, this command version 2; restart the relay",
            ),
            (
                r#"{"version":1,"request":"zap"}"#,
                "not a request: unknown variant `zap`",
            ),
            (
                r#"{"version":1,"request":"cat","id":"?"}"#,
                "not a request: not a queue id",
            ),
            (
                r#"{"version":1,"request":"list","filter":{"stat":"held"}}"#,
                "not a request: unknown field `stat`",
            ),
        ] {
            let refused = Request::parse(line.as_bytes()).unwrap_err();
            assert_eq!(refused.kind, ErrorKind::Invalid);
            assert!(refused.text.starts_with(expected), "{line}: {refused}");
        }
    }
}
