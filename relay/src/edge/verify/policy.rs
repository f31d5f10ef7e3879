//! What becomes of a message after what was found: a pure decision (RFC 7489 §6.6.2, RFC 7208 §8, RFC 7372).

use atrn_shared::smtp::reply::Reply;

use super::findings::{Findings, Policy, Result8601, is_same};
use crate::config::Authentication;
use crate::names::SpfResult;

/// Whether the message is taken.
///
/// # Errors
/// The refusal. It is transient wherever another answer of DNS might have let the message in: nothing is refused for good
/// because of a name server in trouble.
pub(super) fn decide(authentication: Authentication, findings: &Findings) -> Result<(), Reply> {
    if authentication != Authentication::Enforce {
        return Ok(());
    }
    let dmarc = &findings.dmarc;
    match (dmarc.judged.result, dmarc.policy) {
        (Result8601::Pass, _) => Ok(()),
        (Result8601::TempError, None | Some(Policy::Reject)) => Err(later(findings)),
        (Result8601::Fail, Some(Policy::Reject)) => Err(Reply::new(
            550,
            "5.7.1",
            "The author's domain disowns this message (DMARC)",
        )),
        (Result8601::PermError | Result8601::Policy, _) => Err(Reply::new(
            550,
            "5.7.1",
            "Cannot tell who is the author of this message",
        )),
        (_, Some(_)) => Ok(()),
        (_, None) => by_spf(findings),
    }
}

/// The author's domain has no policy, so that of the reverse-path speaks for itself. A signature of the author's domain
/// outweighs it: that is mail which somebody passed on.
fn by_spf(findings: &Findings) -> Result<(), Reply> {
    let of_author = |result| {
        let author = findings.dmarc.author.as_deref().unwrap_or_default();
        findings.dkim.iter().any(|signature| {
            signature.judged.result == result && is_same(&signature.domain, author)
        })
    };
    if of_author(Result8601::Pass) {
        return Ok(());
    }
    match findings.spf.result {
        SpfResult::TempError => Err(later(findings)),
        SpfResult::Fail if of_author(Result8601::TempError) => Err(later(findings)),
        SpfResult::Fail => Err(Reply::new(
            550,
            "5.7.23",
            "The sender's domain does not let this host send for it (SPF)",
        )),
        _ => Ok(()),
    }
}

fn later(findings: &Findings) -> Reply {
    let enhanced = match findings.spf.result {
        SpfResult::TempError => "4.7.24",
        _ => "4.7.0",
    };
    Reply::new(
        451,
        enhanced,
        "Cannot verify the sender now, try again later",
    )
}

/// RFC 7505 §4.2.
pub(super) fn null_mx() -> Reply {
    Reply::new(
        550,
        "5.7.27",
        "The sender's domain takes no mail, so nobody could answer (null MX)",
    )
}

#[cfg(test)]
mod tests {
    use super::super::findings::{Dmarc, Judged, Signature};
    use super::*;
    use crate::names::{SpfAnswer, SpfIdentity};

    use Result8601::{Fail, Neutral, None as Nothing, Pass, PermError, TempError};

    fn findings(
        spf: SpfResult,
        dkim: &[(Result8601, &str)],
        dmarc: (Result8601, Option<Policy>),
    ) -> Findings {
        let signature = |(result, domain): &(Result8601, &str)| Signature {
            judged: Judged::plain(*result),
            domain: (*domain).to_owned(),
            selector: "s".into(),
            beginning: "b".into(),
        };
        Findings {
            spf: SpfAnswer {
                result: spf,
                domain: "sender.example".into(),
                identity: SpfIdentity::MailFrom,
            },
            dkim: dkim.iter().map(signature).collect(),
            dmarc: Dmarc {
                judged: Judged::plain(dmarc.0),
                author: Some("author.example".into()),
                policy: dmarc.1,
            },
            arc: None,
            client: "192.0.2.1".parse().unwrap(),
        }
    }

    #[track_caller]
    fn enforced(findings: &Findings) -> String {
        decide(Authentication::Enforce, findings).map_or_else(
            |reply| {
                let text = reply.to_string();
                text.split(' ').take(2).collect::<Vec<_>>().join(" ")
            },
            |()| "taken".to_owned(),
        )
    }

    #[test]
    fn only_enforce_refuses() {
        let worst = findings(SpfResult::Fail, &[], (Fail, Some(Policy::Reject)));
        assert!(decide(Authentication::Annotate, &worst).is_ok());
        assert!(decide(Authentication::Off, &worst).is_ok());
        assert!(decide(Authentication::Enforce, &worst).is_err());
    }

    #[test]
    fn the_policy_of_the_author_decides() {
        for (dmarc, policy, expected) in [
            (Pass, Some(Policy::Reject), "taken"),
            (Fail, Some(Policy::Reject), "550 5.7.1"),
            (Fail, Some(Policy::Quarantine), "taken"),
            (Fail, Some(Policy::None), "taken"),
            (TempError, Some(Policy::Reject), "451 4.7.0"),
            (TempError, Some(Policy::Quarantine), "taken"),
            (TempError, Some(Policy::None), "taken"),
            (TempError, None, "451 4.7.0"),
            (PermError, None, "550 5.7.1"),
            (Result8601::Policy, None, "550 5.7.1"),
        ] {
            // Whatever SPF says, the policy of the author is what counts.
            for spf in [SpfResult::None, SpfResult::Fail, SpfResult::SoftFail] {
                let found = findings(spf, &[], (dmarc, policy));
                assert_eq!(enforced(&found), expected, "{dmarc:?} {policy:?} {spf:?}");
            }
        }
    }

    #[test]
    fn without_a_policy_spf_decides_unless_the_author_signed() {
        const AUTHOR: &str = "Author.example";
        for (spf, dkim, expected) in [
            (SpfResult::Pass, &[][..], "taken"),
            (SpfResult::None, &[], "taken"),
            (SpfResult::Neutral, &[], "taken"),
            (SpfResult::SoftFail, &[], "taken"),
            (SpfResult::PermError, &[], "taken"),
            (SpfResult::Fail, &[], "550 5.7.23"),
            (SpfResult::TempError, &[], "451 4.7.24"),
            (SpfResult::Fail, &[(Pass, AUTHOR)], "taken"),
            (SpfResult::TempError, &[(Pass, AUTHOR)], "taken"),
            (SpfResult::Fail, &[(TempError, AUTHOR)], "451 4.7.0"),
            (SpfResult::Fail, &[(Neutral, AUTHOR)], "550 5.7.23"),
            (SpfResult::Fail, &[(Pass, "other.example")], "550 5.7.23"),
            (
                SpfResult::Fail,
                &[(TempError, "other.example")],
                "550 5.7.23",
            ),
        ] {
            let found = findings(spf, dkim, (Nothing, None));
            assert_eq!(enforced(&found), expected, "{spf:?} {dkim:?}");
        }
    }

    #[test]
    fn trouble_of_a_name_server_is_no_verdict_of_a_domain() {
        let found = findings(SpfResult::TempError, &[], (TempError, Some(Policy::Reject)));
        assert_eq!(enforced(&found), "451 4.7.24");
    }
}
