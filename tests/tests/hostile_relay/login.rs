//! Up to the answer to ATRN: the relay is the server, and is believed nothing.

use std::io;

use super::evil::{Evil, Script, Start, claim};

const MANY: usize = 1_000_000;

pub(crate) const SCRIPTS: &[Script] = &[
    Script::new("silence", Start::InTls, |_| Ok(())),
    Script::new("silence-before-tls", Start::BeforeTls, |_| Ok(())),
    Script::new("endless-greeting-line", Start::InTls, |evil| {
        evil.send("220 ")?;
        evil.flood("x", 200_000_000)
    }),
    Script::new("endless-greeting-lines", Start::InTls, |evil| {
        evil.flood("220-more\r\n", 20 * MANY)
    }),
    Script::new("banner-flood", Start::InTls, |evil| {
        evil.flood("220 evil.example ready\r\n", MANY)?;
        evil.never_heard("AUTH")
    }),
    Script::new("drip", Start::InTls, |evil| {
        evil.send("220 ")?;
        evil.drip(b'x')
    }),
    Script::new("drip-of-lines", Start::InTls, |evil| {
        evil.send("220 evil.example\r\n")?;
        evil.line()?;
        evil.send("250-")?;
        evil.drip(b'x')
    }),
    Script::new("greeting-250", Start::InTls, |evil| {
        evil.send("250 welcome\r\n")?;
        evil.never_heard("AUTH")
    }),
    Script::new("http", Start::InTls, |evil| {
        evil.send("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n<html>")
    }),
    Script::new("binary", Start::InTls, |evil| {
        let octets: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        evil.send(octets)
    }),
    Script::new("bare-lf", Start::InTls, |evil| {
        evil.send("220 evil.example\n250 ok\n")
    }),
    Script::new("terminal", Start::InTls, |evil| {
        evil.send("554 \x1b[2J\x1b]0;owned\x07 \r2026-01-01T00:00:00Z  INFO atrn_relay: forged\u{202e}\u{2028}\r\n")
    }),
    Script::new("wrong-certificate", Start::WrongCertificate, |_| Ok(())),
    Script::new("no-tls-at-all", Start::BeforeTls, |evil| {
        evil.send("220 evil.example ODMR ready\r\n250-AUTH PLAIN\r\n250 ATRN\r\n")
    }),
    Script::new("half-a-handshake", Start::BeforeTls, |evil| {
        // A record as long as can be said, of a handshake that is longer than that.
        evil.send(b"\x16\x03\x03\x40\x00\x02\xff\xff\xff")?;
        evil.flood([0_u8], 200_000_000)
    }),
    Script::new("drip-of-handshake", Start::BeforeTls, |evil| {
        evil.send(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xf0")?;
        evil.drip(0)
    }),
    Script::new("starttls-stripped", Start::TlsLater, |evil| {
        evil.send("220 evil.example\r\n")?;
        evil.answer(
            "EHLO ",
            "250-evil.example\r\n250-AUTH CRAM-MD5 PLAIN\r\n250 ATRN\r\n",
        )?;
        let line = evil.line()?;
        claim(line == "QUIT", &line)
    }),
    Script::new("starttls-refused", Start::TlsLater, |evil| {
        starttls(evil, "454 4.7.0 not now\r\n")?;
        let line = evil.line()?;
        claim(line == "QUIT", &line)
    }),
    Script::new("starttls-injected", Start::TlsLater, |evil| {
        starttls(
            evil,
            "220 go ahead\r\n250-evil.example\r\n250-AUTH CRAM-MD5 PLAIN\r\n250 ATRN\r\n",
        )
    }),
    Script::new("starttls-in-clear", Start::TlsLater, |evil| {
        starttls(evil, "250 go on in clear\r\n")
    }),
    Script::new("ehlo-flood", Start::InTls, |evil| {
        evil.send("220 evil.example\r\n")?;
        evil.line()?;
        evil.flood("250-X\r\n", 20 * MANY)
    }),
    Script::new("behind-ehlo", Start::InTls, |evil| {
        evil.send("220 evil.example\r\n")?;
        evil.answer(
            "EHLO ",
            "250-evil.example\r\n250-AUTH CRAM-MD5\r\n250 ATRN\r\n235 welcome\r\n250 go\r\n",
        )?;
        evil.listen();
        evil.never_heard("AUTH")
    }),
    Script::new("plain-only", Start::InTls, |evil| {
        evil.greet("PLAIN LOGIN")?;
        let line = evil.line()?;
        claim(line == "QUIT", &line)
    }),
    Script::new("plain-in-clear", Start::Clear, |evil| {
        evil.greet("PLAIN")?;
        let line = evil.line()?;
        claim(line == "QUIT", &line)
    }),
    Script::new("challenges-without-end", Start::InTls, |evil| {
        evil.greet("CRAM-MD5")?;
        evil.may_end();
        for _ in 0..MANY {
            evil.line()?;
            evil.send("334 PGFAYj4=\r\n")?;
        }
        Ok(())
    }),
    Script::new("long-challenge", Start::InTls, |evil| {
        evil.greet("CRAM-MD5")?;
        evil.line()?;
        evil.send("334 ")?;
        evil.flood("QUFB", 20 * MANY)
    }),
    Script::new("no-base64", Start::InTls, |evil| {
        evil.greet("CRAM-MD5")?;
        evil.answer("AUTH", "334 !!!!\r\n")?;
        evil.answer("*", "501 cancelled\r\n")?;
        let line = evil.line()?;
        claim(line == "QUIT", &line)
    }),
    // Every further round would cost half an hour.
    Script::new("iterations", Start::InTls, |evil| {
        evil.greet("SCRAM-SHA-256")?;
        let nonce = scram_nonce(&evil.line()?)?;
        let challenge = base64(&format!("r={nonce}evil,s=QSXCR+Q6sek8bf92,i=4000000000"));
        evil.send(format!("334 {challenge}\r\n"))?;
        evil.answer("*", "501 cancelled\r\n")
    })
    .weakest("SCRAM-SHA-256"),
    Script::new("one-iteration", Start::InTls, |evil| {
        evil.greet("SCRAM-SHA-256")?;
        let nonce = scram_nonce(&evil.line()?)?;
        let challenge = base64(&format!("r={nonce}evil,s=QSXCR+Q6sek8bf92,i=1"));
        evil.send(format!("334 {challenge}\r\n"))?;
        evil.answer("*", "501 cancelled\r\n")
    })
    .weakest("SCRAM-SHA-256"),
    Script::new("success-without-proof", Start::InTls, |evil| {
        evil.greet("SCRAM-SHA-256")?;
        evil.answer("AUTH", "235 2.7.0 welcome\r\n")?;
        evil.listen();
        evil.never_heard("ATRN")
    })
    .weakest("SCRAM-SHA-256"),
    Script::new("weaker-than-agreed", Start::InTls, |evil| {
        evil.greet("CRAM-MD5 PLAIN")?;
        let line = evil.line()?;
        claim(line == "QUIT", &line)
    })
    .weakest("SCRAM-SHA-256"),
    Script::new("behind-235", Start::InTls, |evil| {
        evil.greet("CRAM-MD5")?;
        evil.answer("AUTH", "334 PGFAYj4=\r\n")?;
        evil.line()?;
        evil.send("235 welcome\r\n250 reversing\r\nEHLO evil.example\r\n")?;
        evil.listen();
        evil.never_heard("220 ")
    }),
    Script::new("behind-250", Start::InTls, |evil| {
        evil.welcome()?;
        evil.answer(
            "ATRN",
            "250 reversing\r\nEHLO evil.example\r\nMAIL FROM:<>\r\n",
        )?;
        evil.listen();
        evil.never_heard("220 ")
    }),
    Script::new("atrn-354", Start::InTls, |evil| {
        evil.welcome()?;
        evil.answer("ATRN", "354 go ahead\r\n")?;
        evil.listen();
        evil.never_heard("220 ")
    }),
    Script::new("atrn-garbage", Start::InTls, |evil| {
        evil.welcome()?;
        evil.answer("ATRN", "25x reversing\r\n")
    }),
    Script::new("atrn-lines", Start::InTls, |evil| {
        evil.welcome()?;
        evil.line()?;
        evil.flood("250-reversing\r\n", 20 * MANY)
    }),
    Script::new("atrn-codes-differ", Start::InTls, |evil| {
        evil.welcome()?;
        evil.answer("ATRN", "250-reversing\r\n453 or not\r\n")
    }),
    Script::new("no-mail-flood", Start::InTls, |evil| {
        evil.welcome()?;
        evil.line()?;
        evil.flood("453 no mail\r\n", 20 * MANY)
    }),
    Script::new("goodbye-flood", Start::InTls, |evil| {
        evil.welcome()?;
        evil.answer("ATRN", "453 no mail\r\n")?;
        evil.flood("221-bye\r\n", 20 * MANY)
    }),
    Script::new("goodbye-never", Start::InTls, |evil| {
        evil.welcome()?;
        evil.answer("ATRN", "453 no mail\r\n")?;
        let line = evil.line()?;
        claim(line == "QUIT", &line)?;
        evil.drip(b'2')
    }),
    Script::new("close-notify", Start::InTls, |evil| {
        evil.send("220 evil.example\r\n")?;
        evil.line()?;
        evil.stream().finish_sending();
        Ok(())
    }),
];

fn starttls(evil: &mut Evil, reply: &str) -> io::Result<()> {
    evil.send("220 evil.example\r\n")?;
    evil.answer(
        "EHLO ",
        "250-evil.example\r\n250-STARTTLS\r\n250-AUTH CRAM-MD5\r\n250 ATRN\r\n",
    )?;
    evil.answer("STARTTLS", reply)
}

/// The client's nonce, out of its first message.
fn scram_nonce(line: &str) -> io::Result<String> {
    use base64::Engine as _;
    let encoded = line.rsplit(' ').next().unwrap_or_default();
    let message = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .unwrap_or_default();
    let message = String::from_utf8_lossy(&message).into_owned();
    let nonce = message.split_once("r=").map(|(_, nonce)| nonce.to_owned());
    nonce.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, line.to_owned()))
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
