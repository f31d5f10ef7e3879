//! What the puller's replies mean for each recipient: all policy on refusals, as pure functions.
//!
//! A reply that is not understood never gets here: it is a fault of the link, which frees the delivery
//! with nothing changed (OWN-7a).

use atrn_shared::dialogue::PartVerdict;
use atrn_shared::smtp::reply::Reply;

use crate::queue::Outcome;

/// The outcome for each recipient, in order.
pub(super) fn outcomes(
    envelope: &PartVerdict,
    recipients: usize,
    content: Option<&Reply>,
) -> Vec<Outcome> {
    if let Some(reply) = envelope.mail.as_ref().filter(|reply| !reply.is_positive()) {
        return vec![refused(reply); recipients];
    }
    let some_accepted = envelope.accepted() > 0;
    let verdicts = envelope.recipients.iter().map(|reply| match reply {
        reply if reply.is_positive() => content.map_or(Outcome::Released, of_content),
        // "One recipient at a time" is no verdict on the others: they go in the next transaction
        // (RFC 5321 §4.5.3.1.10).
        reply if is_too_many(reply) && some_accepted => Outcome::Released,
        reply => refused(reply),
    });
    let mut outcomes: Vec<_> = verdicts.collect();
    // What was not asked, because it had become pointless, has no verdict.
    outcomes.resize(recipients, Outcome::Released);
    outcomes
}

fn of_content(reply: &Reply) -> Outcome {
    if reply.is_positive() {
        Outcome::Delivered
    } else {
        refused(reply)
    }
}

fn refused(reply: &Reply) -> Outcome {
    if reply.is_permanent() {
        Outcome::Failed(reply.clone())
    } else {
        Outcome::Deferred(reply.clone())
    }
}

fn is_too_many(reply: &Reply) -> bool {
    let enhanced = reply.enhanced().map(|code| (code.subject, code.detail));
    reply.code() == 452 && enhanced.is_none_or(|code| code == (5, 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(code: u16) -> Reply {
        Reply::bare(code, "text")
    }

    fn decide(mail: u16, recipients: &[u16], content: Option<u16>) -> String {
        let envelope = PartVerdict {
            mail: Some(reply(mail)),
            recipients: recipients.iter().map(|code| reply(*code)).collect(),
            data: None,
        };
        let content = content.map(reply);
        let letter = |outcome: &Outcome| match outcome {
            Outcome::Deferred(_) => 'd',
            Outcome::Delivered => '+',
            Outcome::Failed(_) => 'f',
            Outcome::Released => '.',
        };
        outcomes(&envelope, 3, content.as_ref())
            .iter()
            .map(letter)
            .collect()
    }

    // covers: OWN-7, OWN-8, OWN-9
    #[test]
    fn each_recipient_ends_as_the_replies_say() {
        for (mail, recipients, content, expected) in [
            (250, &[250, 250, 250][..], Some(250), "+++"),
            (250, &[250, 450, 550], Some(250), "+df"),
            (250, &[250, 450, 550], Some(451), "ddf"),
            (250, &[250, 450, 550], Some(554), "fdf"),
            (250, &[450, 550, 450], Some(554), "dfd"),
            (450, &[], None, "ddd"),
            (450, &[503, 503, 503], Some(503), "ddd"),
            (550, &[503, 503, 503], Some(503), "fff"),
            (250, &[550, 550, 550], None, "fff"),
            (250, &[250, 251, 559], Some(259), "++f"),
            // LMTP inside: one recipient in each transaction, the others at once behind it.
            (250, &[250, 452, 452], Some(250), "+.."),
            (250, &[452, 452, 452], Some(554), "ddd"),
        ] {
            assert_eq!(
                decide(mail, recipients, content),
                expected,
                "{mail} {recipients:?} {content:?}"
            );
        }
    }

    // covers: OWN-2
    #[test]
    fn without_a_verdict_nothing_is_decided() {
        assert_eq!(decide(250, &[250, 250, 250], None), "...");
        assert_eq!(decide(250, &[250], None), "...");
    }
}
