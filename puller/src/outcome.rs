//! How a pull ended: what it means for the exit code, and for the next pull.

use std::fmt;

use atrn_shared::cli::ExitCode;
use atrn_shared::log::peer;
use atrn_shared::odmr::customer::{self, Missing};
use atrn_shared::sasl::ClientError;
use serde::{Deserialize, Serialize};

use crate::reversed::{End, Tally};

/// How a pull ended, with the reason in words where it was not well.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "result", content = "reason", rename_all = "snake_case")]
pub enum Outcome {
    /// Everything but ATRN was done, as asked.
    Checked,
    /// 450: not for us, or not now.
    Denied(String),
    /// What is inside cannot be written down, so nothing is taken.
    JournalDown(String),
    /// 4yz: the relay says later.
    Later(String),
    /// The connection or the reversed session broke.
    Broken(String),
    /// Our own settings are of no use.
    Misconfigured(String),
    /// 453: there was none.
    NoMail,
    /// The peer does not offer ATRN, or breaks the protocol.
    Protocol(String),
    /// The session went to its end.
    Pulled,
    /// 5yz, no trust, no login: somebody must look at it.
    Refused(String),
    /// We were told to stop.
    Stopped,
    /// The target is down; ATRN was not sent.
    TargetDown(String),
    /// No connection to the relay.
    Unreachable(String),
}

/// What an outcome asks of the schedule (R2645-16).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Severity {
    /// Go on as usual.
    Fine,
    /// Try again, with back-off.
    Retry,
    /// An alarm: try again after long, for somebody must act.
    Alarm,
}

impl Outcome {
    /// The exit code of `pull`: the one place where design section 7 is written down.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Checked | Self::NoMail | Self::Pulled => ExitCode::Success,
            Self::Unreachable(_) => ExitCode::RelayUnreachable,
            Self::TargetDown(_) => ExitCode::TargetDown,
            Self::JournalDown(_) => ExitCode::Failed,
            Self::Later(_) | Self::Broken(_) | Self::Stopped => ExitCode::TryLater,
            Self::Protocol(_) => ExitCode::Protocol,
            Self::Denied(_) | Self::Refused(_) => ExitCode::Refused,
            Self::Misconfigured(_) => ExitCode::Config,
        }
    }

    /// What it asks of the schedule.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::Checked | Self::NoMail | Self::Pulled | Self::Stopped => Severity::Fine,
            Self::Denied(_)
            | Self::JournalDown(_)
            | Self::Later(_)
            | Self::Broken(_)
            | Self::TargetDown(_)
            | Self::Unreachable(_) => Severity::Retry,
            Self::Misconfigured(_) | Self::Protocol(_) | Self::Refused(_) => Severity::Alarm,
        }
    }

    /// The reason, where it was not well.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Checked | Self::NoMail | Self::Pulled | Self::Stopped => None,
            Self::Denied(reason)
            | Self::JournalDown(reason)
            | Self::Later(reason)
            | Self::Broken(reason)
            | Self::Misconfigured(reason)
            | Self::Protocol(reason)
            | Self::Refused(reason)
            | Self::TargetDown(reason)
            | Self::Unreachable(reason) => Some(reason),
        }
    }

    /// A word for tables.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Checked => "checked",
            Self::Denied(_) => "denied",
            Self::JournalDown(_) => "journal down",
            Self::Later(_) => "later",
            Self::Broken(_) => "broken",
            Self::Misconfigured(_) => "misconfigured",
            Self::NoMail => "no mail",
            Self::Protocol(_) => "protocol",
            Self::Pulled => "pulled",
            Self::Refused(_) => "refused",
            Self::Stopped => "stopped",
            Self::TargetDown(_) => "target down",
            Self::Unreachable(_) => "unreachable",
        }
    }

    /// What the asking led to, when it was not the reversal.
    pub(crate) fn of_asking(outcome: &customer::Outcome) -> Self {
        use customer::Outcome as Asked;
        match outcome {
            Asked::Authenticated | Asked::Turned => Self::Checked,
            Asked::NoMail => Self::NoMail,
            Asked::Later(reply) => Self::Later(format!("the relay says {reply}")),
            Asked::Refused(reply) if reply.is_transient() => Self::Denied(format!(
                "the relay says {reply}; are the domains those of the account, and is it enabled?"
            )),
            Asked::Refused(reply) => Self::Refused(format!("the relay says {reply}")),
            Asked::NotOffered(missing, reply) => {
                Self::Protocol(not_offered(*missing, reply.as_ref()))
            }
            Asked::AuthRefused(reply) => Self::Refused(format!(
                "the relay refuses the login: {reply}; check account and secret_file"
            )),
            Asked::AuthFailed(error) => login_failed(*error),
            Asked::Protocol(fault) => Self::Protocol(peer(&fault.to_string()).to_string()),
            Asked::Lost(awaited) => Self::Broken(format!(
                "the relay ended the connection before its answer ({awaited:?})"
            )),
        }
    }

    /// What the reversed session led to.
    pub(crate) fn of_session(end: &End, tally: &Tally) -> Self {
        match end {
            End::Quit => Self::Pulled,
            End::Stopped => Self::Stopped,
            End::JournalLost(error) => Self::JournalDown(error.to_string()),
            End::Closed(reply) => Self::Broken(format!(
                "the relay broke the rules and heard {}",
                peer(reply)
            )),
            End::Lost(error) => Self::Broken(format!(
                "the session broke after {} messages: {error}",
                tally.messages
            )),
            End::TargetLost => Self::Broken(format!(
                "the hand-over target failed after {} messages",
                tally.messages
            )),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason().unwrap_or_else(|| self.word()))
    }
}

fn not_offered(missing: Missing, reply: Option<&atrn_shared::smtp::reply::Reply>) -> String {
    let what = match missing {
        Missing::Ehlo => "EHLO",
        Missing::StartTls => "STARTTLS",
        Missing::Auth => "AUTH",
        Missing::Atrn => "ATRN",
    };
    match reply {
        Some(reply) => format!("the relay does not offer {what}: {reply}; is this its ODMR port?"),
        None => format!("the relay does not offer {what}; is this its ODMR port?"),
    }
}

fn login_failed(error: ClientError) -> Outcome {
    let reason = error.to_string();
    match error {
        ClientError::Credentials(_) => Outcome::Misconfigured(reason),
        ClientError::ServerNotProven => Outcome::Refused(reason),
        ClientError::NoMechanism => Outcome::Refused(format!("{reason}; see weakest_mechanism")),
        ClientError::Iterations | ClientError::Malformed => Outcome::Protocol(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: R2645-16
    #[test]
    fn each_outcome_has_its_exit_code_and_its_weight() {
        let why = String::new;
        for (outcome, code, severity) in [
            (Outcome::Pulled, 0, Severity::Fine),
            (Outcome::NoMail, 0, Severity::Fine),
            (Outcome::Checked, 0, Severity::Fine),
            (Outcome::Stopped, 75, Severity::Fine),
            (Outcome::JournalDown(why()), 1, Severity::Retry),
            (Outcome::Unreachable(why()), 69, Severity::Retry),
            (Outcome::TargetDown(why()), 71, Severity::Retry),
            (Outcome::Later(why()), 75, Severity::Retry),
            (Outcome::Broken(why()), 75, Severity::Retry),
            (Outcome::Denied(why()), 77, Severity::Retry),
            (Outcome::Refused(why()), 77, Severity::Alarm),
            (Outcome::Protocol(why()), 76, Severity::Alarm),
            (Outcome::Misconfigured(why()), 78, Severity::Alarm),
        ] {
            assert_eq!(
                (outcome.exit_code().code(), outcome.severity()),
                (code, severity),
                "{outcome:?}"
            );
        }
    }

    #[test]
    fn an_outcome_reads_back_as_it_was_written() {
        for outcome in [Outcome::Pulled, Outcome::Denied("why".into())] {
            let text = serde_json::to_string(&outcome).unwrap();
            assert_eq!(
                serde_json::from_str::<Outcome>(&text).unwrap(),
                outcome,
                "{text}"
            );
        }
    }
}
