//! What the puller's replies mean for each recipient: all policy on refusals, as pure functions.
//!
//! A reply that is not understood never gets here: it is a fault of the link, which frees the delivery
//! with nothing changed (OWN-7a).

use atrn_shared::dialogue::PartVerdict;
use atrn_shared::smtp::reply::Reply;

use crate::queue::Outcome;

/// What the puller said to one delivery.
#[derive(Debug)]
pub(super) struct Judged {
    /// The outcome for each recipient, in order.
    pub(super) outcomes: Vec<Outcome>,
    /// How many of them the puller said it had delivered to before (R-DUP).
    pub(super) already: usize,
}

impl Judged {
    /// The same refusal for everybody.
    pub(super) fn refused(reply: &Reply, recipients: usize) -> Self {
        Self {
            outcomes: vec![refused(reply); recipients],
            already: 0,
        }
    }
}

/// The outcome for each recipient. `content` is the reply to the end of the content, or to the command that it was
/// refused with.
pub(super) fn judge(envelope: &PartVerdict, recipients: usize, content: Option<&Reply>) -> Judged {
    if envelope.is_already_delivered() {
        return Judged {
            outcomes: vec![Outcome::Delivered; recipients],
            already: recipients,
        };
    }
    if let Some(reply) = envelope.mail.as_ref().filter(|reply| !reply.is_positive()) {
        return Judged::refused(reply, recipients);
    }
    let has_already = |reply: &&Reply| envelope.has_already(reply);
    let already = envelope.recipients.iter().filter(has_already).count();
    let some_taken = envelope.accepted() + already > 0;
    let verdicts = envelope.recipients.iter().map(|reply| match reply {
        // Whatever became of the content: it was not for this recipient.
        reply if has_already(&reply) => Outcome::Delivered,
        reply if reply.is_positive() => content.map_or(Outcome::Released, of_content),
        // "One recipient at a time" is no verdict on the others: they go in the next transaction
        // (RFC 5321 §4.5.3.1.10).
        reply if is_too_many(reply) && some_taken => Outcome::Released,
        reply => refused(reply),
    });
    let mut outcomes: Vec<_> = verdicts.collect();
    // What was not asked, because it had become pointless, has no verdict.
    outcomes.resize(recipients, Outcome::Released);
    Judged { outcomes, already }
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

    fn envelope(mail: u16, recipients: &[u16]) -> PartVerdict {
        PartVerdict {
            mail: Some(reply(mail)),
            recipients: recipients.iter().map(|code| reply(*code)).collect(),
            data: None,
            named: true,
        }
    }

    fn letters(outcomes: &[Outcome]) -> String {
        let letter = |outcome: &Outcome| match outcome {
            Outcome::Deferred(_) => 'd',
            Outcome::Delivered => '+',
            Outcome::Expired(_) => 'x',
            Outcome::Failed(_) => 'f',
            Outcome::Released => '.',
        };
        outcomes.iter().map(letter).collect()
    }

    fn decide(mail: u16, recipients: &[u16], content: Option<u16>) -> String {
        let content = content.map(reply);
        letters(&judge(&envelope(mail, recipients), 3, content.as_ref()).outcomes)
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

    // covers: R-DUP
    #[test]
    fn what_the_puller_has_already_is_delivered() {
        for (mail, recipients, content, expected, already) in [
            // To MAIL: nothing behind it counts, sent in the same flight or not.
            (258, &[503, 503, 503][..], Some(503), "+++", 3),
            (258, &[], None, "+++", 3),
            // To RCPT: the content was not for them.
            (250, &[258, 250, 250], Some(250), "+++", 1),
            (250, &[258, 250, 250], Some(451), "+dd", 1),
            (250, &[258, 250, 550], Some(554), "+ff", 1),
            (250, &[258, 258, 258], Some(554), "+++", 3),
            (250, &[258, 258, 258], None, "+++", 3),
            (250, &[258, 450, 550], Some(554), "+df", 1),
            (250, &[258, 250, 250], None, "+..", 1),
            // One recipient at a time, and the first is done with.
            (250, &[258, 452, 452], Some(554), "+..", 1),
            (250, &[258, 250, 452], Some(250), "++.", 1),
            (550, &[258, 258, 258], Some(503), "fff", 0),
        ] {
            let content = content.map(reply);
            let judged = judge(&envelope(mail, recipients), 3, content.as_ref());
            let seen = (letters(&judged.outcomes), judged.already);
            assert_eq!(
                seen,
                (expected.to_owned(), already),
                "{mail} {recipients:?}"
            );
        }
    }

    /// It is some 2yz of a server that does not know our extension (R5321-24).
    // covers: R-DUP, R5321-24
    #[test]
    fn of_a_puller_that_heard_no_delivery_id_258_is_a_plain_yes() {
        let plain = |mail, recipients: &[u16], content: u16| {
            let envelope = PartVerdict {
                named: false,
                ..envelope(mail, recipients)
            };
            letters(&judge(&envelope, 3, Some(&reply(content))).outcomes)
        };
        assert_eq!(plain(258, &[250, 250, 250], 451), "ddd");
        assert_eq!(plain(250, &[258, 250, 250], 451), "ddd");
        assert_eq!(plain(258, &[258, 258, 258], 250), "+++");
    }

    // covers: OWN-2
    #[test]
    fn without_a_verdict_nothing_is_decided() {
        assert_eq!(decide(250, &[250, 250, 250], None), "...");
        assert_eq!(decide(250, &[250], None), "...");
    }
}
