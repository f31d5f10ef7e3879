//! Who is told what became of a recipient, if anybody.
//!
//! The relay cannot prove that a reverse-path is real, and a report to a forged one makes the relay a source of unwanted mail
//! (backscatter). So a sender is told only where the policy of the domain allows it; the postmaster of the domain
//! hears of the rest.

use atrn_shared::smtp::address::ReversePath;
use atrn_shared::smtp::parameter::Notify;

use crate::config::Reports;

/// What became of a recipient.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// Held longer than its domain allows.
    Expired,
    /// Refused for good.
    Failed,
    /// Handed to a server that gives no confirmations of its own (RFC 3461 §5.2.2).
    Relayed,
}

/// Who is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Addressee {
    /// The postmaster of the domain that the message was for.
    Postmaster,
    /// The reverse-path.
    Sender,
}

/// All that the decision hangs on, beside the recipient.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case<'m> {
    /// What the domain is set to.
    pub(crate) policy: Reports,
    /// Argument of MAIL.
    pub(crate) reverse_path: &'m ReversePath,
    /// SPF or DMARC passed for it.
    pub(crate) sender_verified: bool,
    /// The message is a report itself.
    pub(crate) is_report: bool,
}

/// Whom to tell of one recipient. `notify` is what the sender asked for with it.
pub(crate) fn addressee(case: Case<'_>, notify: Option<Notify>, fate: Fate) -> Option<Addressee> {
    // Reports never beget reports (RFC 5321 §4.5.5, RFC 3464 §2): two servers would never stop telling each other.
    if case.is_report || *case.reverse_path == ReversePath::Null || !is_wanted(notify, fate) {
        return None;
    }
    match (case.policy, fate) {
        (Reports::None, _) => None,
        (Reports::Sender, _) => Some(Addressee::Sender),
        (Reports::VerifiedSender, _) if case.sender_verified => Some(Addressee::Sender),
        // Good news is for who asked for it.
        (Reports::Postmaster | Reports::VerifiedSender, Fate::Relayed) => None,
        (Reports::Postmaster | Reports::VerifiedSender, Fate::Expired | Fate::Failed) => {
            Some(Addressee::Postmaster)
        }
    }
}

/// RFC 3461 §4.1: without NOTIFY a sender wants to hear of failures, and of nothing else.
fn is_wanted(notify: Option<Notify>, fate: Fate) -> bool {
    let (on_success, on_failure) = match notify {
        None => (false, true),
        Some(Notify::Never) => (false, false),
        Some(Notify::On {
            success, failure, ..
        }) => (success, failure),
    };
    match fate {
        Fate::Expired | Fate::Failed => on_failure,
        Fate::Relayed => on_success,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FATES: [Fate; 3] = [Fate::Failed, Fate::Expired, Fate::Relayed];

    fn on(text: &str) -> Option<Notify> {
        let has = |word| text.split(',').any(|each| each == word);
        Some(Notify::On {
            success: has("SUCCESS"),
            failure: has("FAILURE"),
            delay: has("DELAY"),
        })
    }

    /// A letter for each fate: sender, postmaster, nobody.
    fn decided(case: Case<'_>, notify: Option<Notify>) -> String {
        let letter = |fate| match addressee(case, notify, fate) {
            None => '-',
            Some(Addressee::Postmaster) => 'p',
            Some(Addressee::Sender) => 's',
        };
        FATES.map(letter).iter().collect()
    }

    // covers: R3464-1, R3461-1
    #[test]
    fn who_is_told() {
        let sender = ReversePath::from_address("alice@example.net").unwrap();
        use Reports::{None as Nobody, Postmaster, Sender, VerifiedSender};
        for (policy, verified, notify, expected) in [
            (VerifiedSender, false, None, "pp-"),
            (VerifiedSender, true, None, "ss-"),
            (Sender, false, None, "ss-"),
            (Postmaster, true, None, "pp-"),
            (Nobody, true, None, "---"),
            (VerifiedSender, true, Some(Notify::Never), "---"),
            (VerifiedSender, false, Some(Notify::Never), "---"),
            (Sender, false, Some(Notify::Never), "---"),
            (Postmaster, false, Some(Notify::Never), "---"),
            (VerifiedSender, true, on("SUCCESS"), "--s"),
            (VerifiedSender, false, on("SUCCESS"), "---"),
            (Sender, false, on("SUCCESS,FAILURE"), "sss"),
            (Sender, false, on("DELAY"), "---"),
            (Sender, false, on("FAILURE,DELAY"), "ss-"),
            (Postmaster, true, on("SUCCESS,FAILURE"), "pp-"),
            (VerifiedSender, true, on("SUCCESS,FAILURE,DELAY"), "sss"),
            (VerifiedSender, false, on("SUCCESS,FAILURE,DELAY"), "pp-"),
            (Nobody, true, on("SUCCESS,FAILURE,DELAY"), "---"),
        ] {
            let case = Case {
                policy,
                reverse_path: &sender,
                sender_verified: verified,
                is_report: false,
            };
            assert_eq!(decided(case, notify), expected, "{case:?} {notify:?}");
        }
    }

    // covers: R3464-1
    #[test]
    fn reports_never_beget_reports() {
        let sender = ReversePath::from_address("alice@example.net").unwrap();
        let policies = [
            Reports::None,
            Reports::Postmaster,
            Reports::Sender,
            Reports::VerifiedSender,
        ];
        for policy in policies {
            for (reverse_path, is_report) in [(&ReversePath::Null, false), (&sender, true)] {
                for sender_verified in [false, true] {
                    let case = Case {
                        policy,
                        reverse_path,
                        sender_verified,
                        is_report,
                    };
                    for notify in [None, on("SUCCESS,FAILURE,DELAY")] {
                        assert_eq!(decided(case, notify), "---", "{case:?} {notify:?}");
                    }
                }
            }
        }
    }
}
