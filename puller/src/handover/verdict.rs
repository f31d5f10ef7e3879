//! What the relay hears of the target's replies: the verdict, and nothing that describes the network inside (OWN-8).

use atrn_shared::smtp::reply::Reply;

/// The end of a transaction.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// For the relay.
    pub reply: Reply,
    /// What the target said, for the log.
    pub said: Reply,
}

impl Verdict {
    /// The link broke under it.
    pub(crate) fn link_lost() -> Self {
        Self::ours(link_lost())
    }

    /// We are about to end, and nobody would wait for the target's word.
    pub(crate) fn too_late() -> Self {
        Self::ours(Reply::new(451, "4.3.2", "Shutting down"))
    }

    /// A verdict of our own.
    pub(crate) fn ours(reply: Reply) -> Self {
        Self {
            said: reply.clone(),
            reply,
        }
    }
}

/// Names by which the network inside could be known, and which are cut out of what the target says.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<String>);

impl Names {
    /// The target's name in the settings, and the one that it greets with.
    pub(super) fn new(host: Option<&str>, greeting: &Reply) -> Self {
        let text = greeting.text();
        let own = text.split(' ').next();
        // A single label (`mail`, `localhost`) tells nothing, and is part of other words.
        let names = host
            .into_iter()
            .chain(own)
            .filter(|name| name.contains(['.', ':']));
        Self(names.map(str::to_ascii_lowercase).collect())
    }

    /// The reply as the relay may see it: same first digit, own words where it is positive, cleaned words where
    /// somebody must be told why.
    pub(super) fn verdict(&self, said: &Reply, positive: &Reply) -> Reply {
        if said.is_positive() {
            return positive.clone();
        }
        if said.code() == 551 {
            // Its text is an address that was never meant for the outside (R5321-31).
            return Reply::new(550, "5.1.6", "The mailbox has moved");
        }
        let verdict = said.as_verdict();
        let text = verdict.text();
        let clean = self.without_names(&text);
        if clean == text {
            return verdict;
        }
        let enhanced = verdict.enhanced().map(|code| code.to_string());
        Reply::new(
            verdict.code(),
            enhanced.as_deref().unwrap_or_default(),
            clean,
        )
    }

    fn without_names(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        for name in &self.0 {
            // No name is in the replacement, so this comes to an end.
            while let Some(position) = clean.to_ascii_lowercase().find(name) {
                clean.replace_range(position..position + name.len(), "(host)");
            }
        }
        clean
    }
}

/// To MAIL.
pub(super) fn sender_ok() -> Reply {
    Reply::new(250, "2.1.0", "Sender ok")
}

/// To RCPT.
pub(super) fn recipient_ok() -> Reply {
    Reply::new(250, "2.1.5", "Recipient ok")
}

/// To DATA.
pub(super) fn go_ahead() -> Reply {
    Reply::bare(354, "Go ahead; end with a dot on a line of its own")
}

/// To the end of the content.
pub(super) fn taken() -> Reply {
    Reply::new(250, "2.0.0", "Message handed over")
}

/// The link to the target broke under a transaction.
pub(super) fn link_lost() -> Reply {
    Reply::new(
        451,
        "4.4.2",
        "The connection to the mail server inside broke",
    )
}

/// The target wants us to prove who we are, or to encrypt.
pub(super) fn locked_out() -> Reply {
    Reply::new(451, "4.7.0", "The mail server inside does not let us in")
}

/// There is no link to the target.
pub(super) fn unreachable() -> Reply {
    Reply::new(451, "4.4.1", "The mail server inside cannot be reached")
}

#[cfg(test)]
mod tests {
    use atrn_shared::smtp::reply::parse_reply;

    use super::*;

    fn verdict(said: &str) -> String {
        let greeting = Reply::bare(220, "Mail7.Corp.Local ESMTP Exchange 15.2");
        let names = Names::new(Some("10.1.2.3"), &greeting);
        let (said, _) = parse_reply(said.as_bytes()).unwrap().unwrap();
        names.verdict(&said, &taken()).to_string()
    }

    // covers: OWN-8
    #[test]
    fn the_verdict_passes_and_the_network_inside_does_not_show() {
        for (said, expected) in [
            (
                "250 2.0.0 queued at mail7.corp.local\r\n",
                "250 2.0.0 Message handed over",
            ),
            (
                "251 will forward to x@secret.example\r\n",
                "250 2.0.0 Message handed over",
            ),
            ("550 5.1.1 no such user\r\n", "550 5.1.1 no such user"),
            ("550-first\r\n550 second\r\n", "550 5.0.0 first second"),
            (
                "551 5.1.6 try x@secret.example\r\n",
                "550 5.1.6 The mailbox has moved",
            ),
            (
                "452 4.2.2 full (MAIL7.corp.local, [10.1.2.3])\r\n",
                "452 4.2.2 full ((host), [(host)])",
            ),
            ("554 gr\u{f6}\u{df}er \u{7}\r\n", "554 5.0.0 gr??er ?"),
        ] {
            assert_eq!(verdict(said), expected, "{said}");
        }
    }

    // covers: OWN-8
    #[test]
    fn a_verdict_is_one_line_of_at_most_512_octets() {
        let said = format!("550-{0}\r\n550 {0}\r\n", "x".repeat(900));
        let (said, _) = parse_reply(said.as_bytes()).unwrap().unwrap();
        let mut octets = Vec::new();
        Names::default().verdict(&said, &taken()).write(&mut octets);
        assert_eq!(
            (
                octets.len(),
                octets.iter().filter(|octet| **octet == b'\n').count()
            ),
            (512, 1)
        );
    }
}
