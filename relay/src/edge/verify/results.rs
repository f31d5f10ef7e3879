//! The `Authentication-Results` field (RFC 8601): what was found, for whoever reads the message inside (R8601-1).

use std::net::IpAddr;

use super::findings::{Findings, Judged, Signature};
use crate::names::SpfIdentity;

/// Characters of a line that folding keeps to (RFC 5322 §2.1.1).
const LINE_CHARACTERS: usize = 78;

/// The field with its CRLF, folded.
pub(super) fn header(hostname: &str, findings: &Findings, iprev: Option<Judged>) -> String {
    let mut field = Field::of(hostname);
    spf(&mut field, findings);
    if findings.dkim.is_empty() {
        field.method("dkim", Judged::plain(super::findings::Result8601::None));
    }
    for signature in &findings.dkim {
        dkim(&mut field, signature);
    }
    let dmarc = &findings.dmarc;
    field.method("dmarc", dmarc.judged);
    if let Some(author) = &dmarc.author {
        field.property("header.from", author);
    }
    if let Some(policy) = dmarc.policy {
        field.property("policy.dmarc", policy.word());
    }
    if let Some(arc) = findings.arc {
        field.method("arc", arc);
        field.property("smtp.remote-ip", &literal(findings.client));
    }
    if let Some(iprev) = iprev {
        field.method("iprev", iprev);
        field.property("policy.iprev", &literal(findings.client));
    }
    field.finish()
}

fn spf(field: &mut Field, findings: &Findings) {
    let spf = &findings.spf;
    field.method("spf", Judged::plain(spf.result.into()));
    field.property(
        match spf.identity {
            SpfIdentity::Hello => "smtp.helo",
            SpfIdentity::MailFrom => "smtp.mailfrom",
        },
        &spf.domain,
    );
}

fn dkim(field: &mut Field, signature: &Signature) {
    field.method("dkim", signature.judged);
    field.property("header.d", &signature.domain);
    field.property("header.s", &signature.selector);
    field.property("header.b", &signature.beginning);
}

fn literal(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

/// The field as it grows, word by word.
struct Field {
    text: String,
    line: usize,
}

impl Field {
    fn of(hostname: &str) -> Self {
        let text = format!("Authentication-Results: {hostname}");
        Self {
            line: text.len(),
            text,
        }
    }

    fn method(&mut self, method: &str, judged: Judged) {
        self.text.push_str(";\r\n\t");
        self.line = 1;
        let result = format!("{method}={}", judged.result.word());
        self.line += result.len();
        self.text.push_str(&result);
        if let Some(reason) = judged.reason {
            self.word(&format!("reason=\"{reason}\""));
        }
    }

    fn property(&mut self, name: &str, value: &str) {
        // An empty value would be no value (RFC 8601 §2.2).
        if !value.is_empty() {
            self.word(&format!("{name}={}", quoted(value)));
        }
    }

    fn word(&mut self, word: &str) {
        if self.line + 1 + word.len() > LINE_CHARACTERS {
            self.text.push_str("\r\n\t ");
            self.line = 2;
        } else {
            self.text.push(' ');
            self.line += 1;
        }
        self.text.push_str(word);
        self.line += word.len();
    }

    fn finish(mut self) -> String {
        self.text.push_str("\r\n");
        self.text
    }
}

/// A value as a token, or in quotes where it has what a token cannot have. It comes from the message or from its client:
/// what could end the line or the quotes is left out.
fn quoted(value: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-._@+".contains(letter);
    if value.chars().all(is_plain) {
        return value.to_owned();
    }
    let is_harmless = |letter: &char| letter.is_ascii_graphic() && !"\"\\".contains(*letter);
    let harmless: String = value.chars().filter(is_harmless).collect();
    format!("\"{harmless}\"")
}

#[cfg(test)]
mod tests {
    use super::super::findings::{Dmarc, Policy, Result8601};
    use super::*;
    use crate::names::{SpfAnswer, SpfResult};

    fn findings() -> Findings {
        Findings {
            spf: SpfAnswer {
                result: SpfResult::Pass,
                domain: "sender.example".into(),
                identity: SpfIdentity::MailFrom,
            },
            dkim: Vec::new(),
            dmarc: Dmarc {
                judged: Judged::plain(Result8601::None),
                author: Some("author.example".into()),
                policy: None,
            },
            arc: None,
            client: "192.0.2.1".parse().unwrap(),
        }
    }

    // covers: R8601-1
    #[test]
    fn what_was_found_is_written_down() {
        assert_eq!(
            header("mx.example.net", &findings(), None),
            "Authentication-Results: mx.example.net;\r\n\
             \tspf=pass smtp.mailfrom=sender.example;\r\n\
             \tdkim=none;\r\n\
             \tdmarc=none header.from=author.example\r\n"
        );
        let mut all = findings();
        all.spf.identity = SpfIdentity::Hello;
        all.spf.result = SpfResult::SoftFail;
        all.client = "2001:db8::1".parse().unwrap();
        all.dkim = vec![
            Signature {
                judged: Judged::plain(Result8601::Pass),
                domain: "author.example".into(),
                selector: "2026a".into(),
                beginning: "dGVzdA+/".into(),
            },
            Signature {
                judged: Judged::because(Result8601::Neutral, "the body is not what was signed"),
                domain: "list.example".into(),
                selector: "s".into(),
                beginning: "YWJjZGVm".into(),
            },
        ];
        all.dmarc.judged = Judged::plain(Result8601::Pass);
        all.dmarc.policy = Some(Policy::Reject);
        all.arc = Some(Judged::because(Result8601::Fail, "the chain is broken"));
        let iprev = Judged::plain(Result8601::TempError);
        assert_eq!(
            header("mx.example.net", &all, Some(iprev)),
            "Authentication-Results: mx.example.net;\r\n\
             \tspf=softfail smtp.helo=sender.example;\r\n\
             \tdkim=pass header.d=author.example header.s=2026a header.b=\"dGVzdA+/\";\r\n\
             \tdkim=neutral reason=\"the body is not what was signed\" header.d=list.example\r\n\
             \t header.s=s header.b=YWJjZGVm;\r\n\
             \tdmarc=pass header.from=author.example policy.dmarc=reject;\r\n\
             \tarc=fail reason=\"the chain is broken\" smtp.remote-ip=\"2001:db8::1\";\r\n\
             \tiprev=temperror policy.iprev=\"2001:db8::1\"\r\n"
        );
    }

    #[test]
    fn nothing_of_a_sender_gets_out_of_its_place() {
        for (value, expected) in [
            ("a.example", "a.example"),
            ("a;b", "\"a;b\""),
            ("a\r\nSubject: b", "\"aSubject:b\""),
            ("a\" (b\\", "\"a(b\""),
            ("b\u{fc}cher", "\"bcher\""),
            ("a=b", "\"a=b\""),
        ] {
            assert_eq!(quoted(value), expected);
        }
    }
}
