//! EHLO keywords: what a server offers, and what a client understood of an offer.

use super::reply::Reply;

/// The extensions that a server named in its EHLO reply.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Extensions {
    /// `ATRN` (RFC 2645)
    pub atrn: bool,
    /// `AUTH` with its mechanisms in the order given, upper case (RFC 4954)
    pub auth: Vec<String>,
    /// `CHUNKING` (RFC 3030)
    pub chunking: bool,
    /// `XDELIVERYID`, an extension of our own between relay and puller (R-DUP)
    pub delivery_id: bool,
    /// `DSN` (RFC 3461)
    pub dsn: bool,
    /// `8BITMIME` (RFC 6152)
    pub eight_bit_mime: bool,
    /// `ENHANCEDSTATUSCODES` (RFC 2034)
    pub enhanced_status_codes: bool,
    /// `PIPELINING` (RFC 2920)
    pub pipelining: bool,
    /// `SIZE` (RFC 1870), with its limit; `Some(0)` is "no fixed limit".
    pub size: Option<u64>,
    /// `SMTPUTF8` (RFC 6531)
    pub smtputf8: bool,
    /// `STARTTLS` (RFC 3207)
    pub starttls: bool,
    /// `XWAIT`, an extension of our own between relay and puller: ATRN may wait so many seconds for mail.
    pub wait: Option<u64>,
}

impl Extensions {
    /// Reads a positive EHLO reply. Unknown keywords are ignored, and so is the first line, the host name.
    #[must_use]
    pub fn parse(reply: &Reply) -> Self {
        let mut extensions = Self::default();
        for line in reply.lines().iter().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let Some(keyword) = words.next() else {
                continue;
            };
            match keyword.to_ascii_uppercase().as_str() {
                "8BITMIME" => extensions.eight_bit_mime = true,
                "ATRN" => extensions.atrn = true,
                "AUTH" => extensions.auth = words.map(str::to_ascii_uppercase).collect(),
                "CHUNKING" => extensions.chunking = true,
                "DSN" => extensions.dsn = true,
                "ENHANCEDSTATUSCODES" => extensions.enhanced_status_codes = true,
                "PIPELINING" => extensions.pipelining = true,
                "SIZE" => {
                    extensions.size = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0))
                }
                "SMTPUTF8" => extensions.smtputf8 = true,
                "STARTTLS" => extensions.starttls = true,
                "XDELIVERYID" => extensions.delivery_id = true,
                // An offer that does not say how long is none that we know.
                "XWAIT" => {
                    extensions.wait = words
                        .next()
                        .and_then(|seconds| seconds.parse().ok())
                        .filter(|seconds| *seconds > 0);
                }
                _ => {}
            }
        }
        extensions
    }

    /// The EHLO reply that makes this offer.
    #[must_use]
    pub fn reply(&self, hostname: &str) -> Reply {
        let mut lines = vec![hostname.to_owned()];
        let mut offer = |on: bool, keyword: &str| {
            if on {
                lines.push(keyword.to_owned());
            }
        };
        offer(self.pipelining, "PIPELINING");
        if let Some(limit) = self.size {
            offer(true, &format!("SIZE {limit}"));
        }
        offer(self.starttls, "STARTTLS");
        if !self.auth.is_empty() {
            offer(true, &format!("AUTH {}", self.auth.join(" ")));
        }
        offer(self.atrn, "ATRN");
        if let Some(seconds) = self.wait {
            offer(true, &format!("XWAIT {seconds}"));
        }
        offer(self.enhanced_status_codes, "ENHANCEDSTATUSCODES");
        offer(self.eight_bit_mime, "8BITMIME");
        offer(self.dsn, "DSN");
        offer(self.smtputf8, "SMTPUTF8");
        offer(self.chunking, "CHUNKING");
        offer(self.delivery_id, "XDELIVERYID");
        Reply::multiline(250, lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::reply::parse_reply;

    #[test]
    fn an_offer_is_understood_as_it_was_made() {
        let offer = Extensions {
            atrn: true,
            auth: vec!["CRAM-MD5".into(), "SCRAM-SHA-256".into()],
            chunking: true,
            delivery_id: true,
            dsn: true,
            eight_bit_mime: true,
            enhanced_status_codes: true,
            pipelining: true,
            size: Some(50_000_000),
            smtputf8: true,
            starttls: true,
            wait: Some(240),
        };
        let mut octets = Vec::new();
        offer.reply("mx1.example.net").write(&mut octets);
        let (reply, _) = parse_reply(&octets).unwrap().unwrap();
        assert_eq!(Extensions::parse(&reply), offer);
    }

    #[test]
    fn keywords_count_in_any_case_and_the_host_name_does_not() {
        let (reply, _) =
            parse_reply(b"250-PIPELINING\r\n250-size\r\n250-X-NEW a\r\n250 starttls\r\n")
                .unwrap()
                .unwrap();
        let understood = Extensions::parse(&reply);
        let expected = Extensions {
            size: Some(0),
            starttls: true,
            ..Extensions::default()
        };
        assert_eq!(understood, expected);
    }

    #[test]
    fn a_wait_is_offered_in_seconds_or_not_at_all() {
        for (line, expected) in [
            ("xwait 240", Some(240)),
            ("XWAIT 1 more", Some(1)),
            ("XWAIT", None),
            ("XWAIT 0", None),
            ("XWAIT -1", None),
            ("XWAIT 4m", None),
            ("XWAIT=240", None),
            ("XWAIT 99999999999999999999", None),
        ] {
            let octets = format!("250-relay.example\r\n250 {line}\r\n");
            let (reply, _) = parse_reply(octets.as_bytes()).unwrap().unwrap();
            assert_eq!(Extensions::parse(&reply).wait, expected, "{line:?}");
        }
    }
}
