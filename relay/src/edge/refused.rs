//! Refusals as they are summed up for the admin: by reason, in a few words that are the same each time.

use std::net::IpAddr;

use atrn_shared::smtp::reply::Reply;

use super::Edge;

/// Reasons by the reply: its codes and the beginning of its text. The first that fits counts.
const REASONS: [(u16, &str, &str, &str); 19] = [
    (550, "5.7.1", "Relaying denied", "relaying"),
    (550, "5.7.1", "The author", "DMARC"),
    (550, "5.7.1", "Cannot tell", "no author"),
    (550, "5.7.23", "", "SPF"),
    (550, "5.7.27", "", "sender domain takes no mail"),
    (550, "5.1.1", "", "unknown recipient"),
    (554, "5.7.1", "", "listed (DNSBL)"),
    (554, "5.4.6", "", "mail loop"),
    (451, "4.7.1", "", "greylisted"),
    (452, "4.2.2", "", "quota of the domain"),
    (452, "4.3.1", "", "no room on the disk"),
    (451, "4.3.0", "", "queue not available"),
    (452, "4.5.3", "", "too many recipients"),
    (552, "", "", "too large"),
    (421, "4.7.0", "Too many", "too many errors or commands"),
    (451, "", "", "cannot verify the sender now"),
    (500, "", "", "no command"),
    (501, "", "", "syntax"),
    (502, "", "", "command not offered"),
];

impl Edge {
    /// Counts a refusal.
    pub(super) fn refused(&self, reply: &Reply, address: IpAddr) {
        self.activity.refused(reply.code());
        self.audit.refused("edge", reason(reply), address);
    }
}

fn reason(reply: &Reply) -> &'static str {
    let enhanced = reply.enhanced().map(|enhanced| enhanced.to_string());
    let enhanced = enhanced.as_deref().unwrap_or_default();
    let text = reply.lines().first().map_or("", |line| line.as_ref());
    let found = REASONS.iter().find(|(code, class, beginning, _)| {
        reply.code() == *code
            && (class.is_empty() || enhanced == *class)
            && text.starts_with(beginning)
    });
    match found {
        Some((.., reason)) => reason,
        None if reply.code() == 503 => "command out of order",
        None if reply.is_transient() => "other, for now",
        None => "other, for good",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_summed_up_by_reason() {
        for (code, enhanced, text, expected) in [
            (550, "5.7.1", "Relaying denied: this host …", "relaying"),
            (550, "5.7.1", "The author's domain disowns this", "DMARC"),
            (451, "4.7.1", "Come back later", "greylisted"),
            (
                451,
                "4.4.3",
                "Cannot verify",
                "cannot verify the sender now",
            ),
            (503, "5.5.1", "MAIL first", "command out of order"),
            (555, "5.5.4", "Not offered", "other, for good"),
            (450, "4.9.9", "What", "other, for now"),
        ] {
            assert_eq!(reason(&Reply::new(code, enhanced, text)), expected);
        }
        assert_eq!(reason(&Reply::bare(500, "What")), "no command");
    }
}
