//! Content that is meant to fill, to slow down, or to become two.

use std::io;

use super::evil::{Evil, Script, Start, claim};

/// Messages of these scripts that are for us, and arrive.
pub(crate) const FOR_US: usize = 3;

pub(crate) const SCRIPTS: &[Script] = &[
    turned("endless-message", |evil| {
        data(evil, "Subject: must never arrive\r\n\r\n")?;
        evil.flood("must never arrive\r\n", 50_000_000)
    }),
    turned("endless-line-of-text", |evil| {
        data(evil, "Subject: must never arrive\r\n\r\n")?;
        evil.flood("x", 200_000_000)
    }),
    turned("endless-header-line", |evil| {
        data(evil, "Subject: must never arrive")?;
        evil.flood("x", 200_000_000)
    }),
    turned("endless-header-section", |evil| {
        data(evil, "")?;
        evil.flood("X-Bomb: must never arrive\r\n", 50_000_000)
    }),
    turned("a-header-line-of-a-mebibyte", |evil| {
        let bomb = format!(
            "X-Bomb: {}\r\nSubject: must never arrive\r\n\r\nx\r\n.\r\n",
            "x".repeat(1 << 20)
        );
        refused(evil, &bomb, "55")
    }),
    turned("headers-of-a-mebibyte", |evil| {
        let bomb = format!(
            "{}Subject: must never arrive\r\n\r\nx\r\n.\r\n",
            "X: 1234567890123456\r\n".repeat(60_000)
        );
        refused(evil, &bomb, "55")
    }),
    turned("a-hundred-thousand-headers", |evil| {
        // As many as fit are the corporate server's business.
        data(evil, "Subject: for us\r\n")?;
        evil.ask(format!("{}\r\nx\r\n.\r\n", "X:\r\n".repeat(100_000)), "250")?;
        evil.ask("QUIT\r\n", "221")
    }),
    turned("a-loop", |evil| {
        let bomb = format!(
            "{}Subject: must never arrive\r\n\r\nx\r\n.\r\n",
            "Received: from a by b\r\n".repeat(200)
        );
        refused(evil, &bomb, "554 5.4.6")
    }),
    turned("a-message-in-a-message", |evil| {
        refused(
            evil,
            "Subject: must never arrive\r\n\r\nx\n.\nMAIL FROM:<>\r\nRCPT TO:<user@foreign.example>\r\nDATA\r\nmust never arrive\r\n.\r\n",
            "550 5.6.0",
        )
    }),
    turned("bare-cr-in-a-chunk", |evil| {
        begin(evil)?;
        evil.ask(
            "BDAT 28 LAST\r\nmust never arrive\r.\rQUIT\r\n\r\n",
            "550 5.6.0",
        )?;
        evil.ask("QUIT\r\n", "221")
    }),
    turned("drip-of-content", |evil| {
        data(evil, "Subject: must never arrive\r\n\r\n")?;
        evil.drip(b'x')
    }),
    turned("drip-of-lines-of-content", |evil| {
        data(evil, "Subject: must never arrive\r\n\r\n")?;
        evil.drip(b'\n')
    }),
    turned("drip-of-a-chunk", |evil| {
        begin(evil)?;
        evil.send("BDAT 100000 LAST\r\nSubject: must never arrive\r\n\r\n")?;
        evil.drip(b'x')
    }),
    turned("silence-in-content", |evil| {
        data(evil, "Subject: must never arrive\r\n\r\n")
    }),
    turned("silence-in-a-chunk", |evil| {
        begin(evil)?;
        evil.send("BDAT 100000 LAST\r\nSubject: must never arrive\r\n\r\n")
    }),
    turned("content-nobody-asked-for", |evil| {
        begin(evil)?;
        evil.send("DATA\r\nSubject: must never arrive\r\n\r\nx\r\n.\r\n")?;
        let line = evil.reply()?;
        claim(line.starts_with("503"), &line)
    }),
    turned("a-chunk-that-overflows", |evil| {
        overflow(evil, "18446744073709551615 LAST", "552")
    }),
    turned("a-chunk-beyond-all-numbers", |evil| {
        overflow(evil, "99999999999999999999 LAST", "501")
    }),
    turned("a-negative-chunk", |evil| overflow(evil, "-1 LAST", "501")),
    turned("a-chunk-in-hexadecimal", |evil| {
        overflow(evil, "0x10 LAST", "501")
    }),
    turned("chunks-that-overflow-together", |evil| {
        begin(evil)?;
        evil.ask("BDAT 4\r\nx: y", "250")?;
        evil.ask("BDAT 18446744073709551614 LAST\r\n", "552")
    }),
    turned("a-chunk-above-the-limit", |evil| {
        overflow(evil, "1100000 LAST", "552")
    }),
    turned("chunks-above-the-limit", |evil| {
        begin(evil)?;
        let chunk = format!(
            "BDAT 65536\r\n{}",
            "must never arrive\r\n"
                .repeat(65_536 / 19 + 1)
                .get(..65_536)
                .unwrap_or_default()
        );
        for _ in 0..1_000 {
            evil.send(&chunk)?;
            let line = evil.reply()?;
            if line.starts_with("552") {
                return Ok(());
            }
        }
        claim(false, "it took them all")
    }),
    turned("empty-chunks", |evil| {
        begin(evil)?;
        evil.commands("BDAT 0\r\n", 1_000_000)?;
        claim(false, "it listened to all of it")
    }),
    turned("crumbs", |evil| {
        begin(evil)?;
        evil.commands("BDAT 1\r\nx", 1_000_000)?;
        claim(false, "it listened to all of it")
    }),
    turned("chunks-without-anybody", |evil| {
        evil.commands("BDAT 1\r\nx", 1_000_000)?;
        claim(false, "it listened to all of it")
    }),
    turned("large-chunks-without-anybody", |evil| {
        // Of a sender that was refused, so that the chunks are no errors of their own.
        evil.ask("MAIL FROM:<a@source.example>\r\n", "250")?;
        evil.ask("RCPT TO:<user@foreign.example>\r\n", "550")?;
        evil.commands(&format!("BDAT 600\r\n{}", "x".repeat(600)), 1_000_000)?;
        claim(false, "it listened to all of it")
    }),
    turned("hung-up-in-content", |evil| {
        data(evil, "Subject: must never arrive\r\n\r\nx\r\n")?;
        evil.stream().switch().off();
        Ok(())
    }),
    turned("closed-in-content", |evil| {
        data(evil, "Subject: must never arrive\r\n\r\nx\r\n")?;
        evil.stream().finish_sending();
        Ok(())
    }),
    turned("closed-in-a-chunk", |evil| {
        begin(evil)?;
        evil.send("BDAT 50 LAST\r\nSubject: must never arrive\r\n\r\n")?;
        evil.stream().finish_sending();
        Ok(())
    }),
    turned("dots", |evil| {
        data(evil, "Subject: for us\r\n\r\n")?;
        evil.ask(format!("{}.\r\n", "..\r\n".repeat(200_000)), "250")?;
        evil.ask("QUIT\r\n", "221")
    }),
    turned("all-octets", |evil| {
        begin(evil)?;
        let octets: Vec<u8> = (0..=255).filter(|octet| !b"\r\n".contains(octet)).collect();
        let content = [&b"Subject: for us\r\n\r\n"[..], &octets.repeat(100)].concat();
        let chunk = [
            format!("BDAT {} LAST\r\n", content.len()).as_bytes(),
            &content,
        ]
        .concat();
        evil.ask(chunk, "250")?;
        evil.ask("QUIT\r\n", "221")
    }),
];

const fn turned(name: &'static str, play: fn(&mut Evil) -> io::Result<()>) -> Script {
    Script::new(name, Start::Turned, play)
}

fn begin(evil: &mut Evil) -> io::Result<()> {
    evil.ask("MAIL FROM:<a@source.example> BODY=8BITMIME\r\n", "250")?;
    evil.ask("RCPT TO:<user@example.org>\r\n", "250")
}

fn data(evil: &mut Evil, content: &str) -> io::Result<()> {
    begin(evil)?;
    evil.ask("DATA\r\n", "354")?;
    evil.send(content)
}

fn refused(evil: &mut Evil, framed: &str, reply: &str) -> io::Result<()> {
    begin(evil)?;
    evil.ask("DATA\r\n", "354")?;
    evil.ask(framed, reply)?;
    evil.ask("QUIT\r\n", "221")
}

/// Nobody knows what follows, so nothing does.
fn overflow(evil: &mut Evil, octets: &str, reply: &str) -> io::Result<()> {
    begin(evil)?;
    evil.ask(format!("BDAT {octets}\r\n"), reply)
}
