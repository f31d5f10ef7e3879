//! In the reversed session: the relay is the client, and may offer mail for us, and nothing else.

use std::io;

use super::evil::{Evil, Script, Start, claim};

const MANY: usize = 1_000_000;
/// Messages of these scripts that are for us, and arrive.
pub(crate) const FOR_US: usize = 500 + 1 + 3;

pub(crate) const SCRIPTS: &[Script] = &[
    turned("foreign-recipients", |evil| {
        evil.ask("MAIL FROM:<a@source.example> SMTPUTF8\r\n", "250")?;
        for path in FOREIGN {
            evil.ask(format!("RCPT TO:{path}\r\n"), "5")?;
        }
        evil.ask("BDAT 19 LAST\r\nmust never arrive\r\n", "554")?;
        evil.ask("QUIT\r\n", "221")
    }),
    turned("a-million-foreign-recipients", |evil| {
        evil.ask("MAIL FROM:<a@source.example>\r\n", "250")?;
        evil.commands("RCPT TO:<a@foreign.example>\r\n", MANY)?;
        claim(false, "a million refusals")
    }),
    turned("a-million-recipients", |evil| {
        evil.ask("MAIL FROM:<a@source.example>\r\n", "250")?;
        evil.flood("RCPT TO:<user@example.org>\r\n", MANY)?;
        evil.reply().map(drop)
    }),
    turned("recipients-and-half-of-one", |evil| {
        // There is always a line that is not yet whole.
        evil.send("MAIL FROM:<a@source.example>\r\nRCPT TO:<us")?;
        evil.flood("er@example.org>\r\nRCPT TO:<us", MANY)
    }),
    turned("ours-and-theirs", |evil| {
        evil.ask("MAIL FROM:<a@source.example>\r\n", "250")?;
        evil.ask("RCPT TO:<user@example.org>\r\n", "250")?;
        evil.ask("RCPT TO:<user@foreign.example>\r\n", "550")?;
        evil.ask("BDAT 20 LAST\r\nSubject: for us\r\n\r\nx", "250")?;
        evil.ask("QUIT\r\n", "221")
    }),
    turned("noop-flood", |evil| endless(evil, "NOOP\r\n")),
    turned("rset-flood", |evil| endless(evil, "RSET\r\n")),
    turned("vrfy-flood", |evil| {
        endless(evil, "VRFY user@example.org\r\n")
    }),
    turned("help-flood", |evil| endless(evil, "HELP\r\n")),
    turned("mail-and-rset", |evil| {
        endless(evil, "MAIL FROM:<>\r\nRSET\r\n")
    }),
    turned("mail-with-size", |evil| {
        endless(evil, "MAIL FROM:<> SIZE=99999999999999999999\r\n")
    }),
    turned("nonsense", |evil| endless(evil, "XYZZY\r\n")),
    turned("empty-lines", |evil| endless(evil, "\r\n")),
    turned("hellos", |evil| {
        evil.may_end();
        for _ in 0..MANY {
            evil.ask("EHLO evil.example\r\n", "250")
                .or_else(last_word)?;
        }
        claim(false, "a million hellos")
    }),
    turned("replies", |evil| {
        // As if it were still the server.
        evil.flood("250 ok\r\n", MANY)
    }),
    turned("unread", |evil| {
        // It never takes an answer.
        evil.flood(
            "NOOP\r\nMAIL FROM:<>\r\nRCPT TO:<user@foreign.example>\r\nRSET\r\n",
            MANY,
        )
    }),
    turned("endless-command", |evil| {
        evil.send("NOOP ")?;
        evil.flood("x", 200_000_000)
    }),
    turned("endless-line-in-a-transaction", |evil| {
        evil.ask("MAIL FROM:<a@source.example>\r\n", "250")?;
        evil.send("RCPT TO:<")?;
        evil.flood("x", 200_000_000)
    }),
    turned("drip-of-a-command", |evil| {
        evil.send("NOOP ")?;
        evil.drip(b'x')
    }),
    turned("drip-in-a-transaction", |evil| {
        evil.ask("MAIL FROM:<a@source.example>\r\n", "250")?;
        evil.send("RCPT TO:<")?;
        evil.drip(b'x')
    }),
    turned("slow-recipients", |evil| {
        // Each in its time, and all together never done.
        evil.ask("MAIL FROM:<a@source.example>\r\n", "250")?;
        evil.may_end();
        for _ in 0..MANY {
            evil.ask("RCPT TO:<user@example.org>\r\n", "250")
                .or_else(last_word)?;
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        claim(false, "it waits for ever")
    }),
    turned("silence-after-the-turn", |_| Ok(())),
    turned("silence-in-a-transaction", |evil| {
        evil.ask("MAIL FROM:<a@source.example>\r\n", "250")
    }),
    turned("other-roles", |evil| {
        for (command, reply) in [
            ("ATRN", "502"),
            ("ATRN example.org", "502"),
            ("ATRN foreign.example XWAIT=60", "502"),
            ("TURN", "502"),
            ("ETRN example.org", "502"),
            ("AUTH PLAIN AGNvcnAAc2VjcmV0", "502"),
            ("AUTH CRAM-MD5", "502"),
            ("STARTTLS", "503"),
            ("EXPN user", "502"),
            ("VRFY user@example.org", "252"),
            ("SEND FROM:<>", "502"),
            ("LHLO evil.example", "502"),
            ("DATA", "503"),
            ("RCPT TO:<user@example.org>", "503"),
        ] {
            evil.ask(format!("{command}\r\n"), reply)?;
        }
        evil.ask("QUIT\r\n", "221")
    }),
    turned("behind-the-hello", |evil| {
        evil.send("EHLO evil.example\r\nMAIL FROM:<>\r\n")?;
        let line = evil.reply()?;
        claim(line.starts_with("503"), &line)
    }),
    turned("control-octets", |evil| {
        for line in [
            &b"NOOP\n\r\n"[..],
            b"NO\0OP\r\n",
            b"MAIL FROM:<a@b.example>\nRCPT TO:<user@foreign.example>\r\n",
            b"NOOP \x1b[2J\r\n",
        ] {
            evil.ask(line, "500")?;
        }
        evil.ask("QUIT\r\n", "221")
    }),
    turned("odd-delivery-ids", |evil| {
        for id in [
            "",
            "a b",
            "../../etc/passwd",
            "x\u{e4}",
            "'; DROP TABLE delivery;--",
            &"x".repeat(129),
        ] {
            evil.ask(format!("MAIL FROM:<> XDELIVERYID={id}\r\n"), "5")?;
        }
        evil.ask("QUIT\r\n", "221")
    }),
    turned("one-delivery-id-for-all", |evil| {
        // The first is taken, all others are the first again, whatever is in them.
        let message = |text: &str| {
            let content = format!("Subject: for us\r\n\r\n{text}");
            format!(
                "MAIL FROM:<a@source.example> XDELIVERYID=same\r\nRCPT TO:<user@example.org>\r\nBDAT {} LAST\r\n{content}",
                content.len()
            )
        };
        evil.send(message("the first"))?;
        for _ in 0..3 {
            let line = evil.reply()?;
            claim(line.starts_with("250"), &line)?;
        }
        for _ in 0..100 {
            evil.send(message("must never arrive"))?;
            for expected in ["258", "503", "503"] {
                let line = evil.reply()?;
                claim(line.starts_with(expected), &line)?;
            }
        }
        evil.ask("QUIT\r\n", "221")
    }),
    turned("two-with-one-id-at-once", |evil| {
        let message = "MAIL FROM:<a@source.example> XDELIVERYID=twins\r\nRCPT TO:<user@example.org>\r\nBDAT 19 LAST\r\nSubject: for us\r\n\r\n";
        evil.send(message.repeat(2))?;
        for _ in 0..6 {
            evil.reply()?;
        }
        evil.ask("QUIT\r\n", "221")
    }),
    turned("many-at-once", |evil| {
        // Mail for us is mail for us. It comes as fast as it can, and nobody takes the answers before all is said.
        let message = "MAIL FROM:<a@source.example>\r\nRCPT TO:<user@example.org>\r\nBDAT 20 LAST\r\nSubject: for us\r\n\r\nx";
        evil.flood(message, 500)?;
        for _ in 0..500 * 3 {
            evil.reply()?;
        }
        evil.ask("QUIT\r\n", "221")
    }),
    turned("new-keys-without-end", |evil| {
        evil.may_end();
        for _ in 0..100_000 {
            if let atrn_tests::stream::Stream::TlsServer(stream) = evil.stream() {
                stream
                    .conn
                    .refresh_traffic_keys()
                    .map_err(io::Error::other)?;
            }
            evil.send("")?;
        }
        Ok(())
    }),
    turned("closed-in-one-direction", |evil| {
        evil.send("MAIL FROM:<a@source.example>\r\n")?;
        evil.stream().finish_sending();
        Ok(())
    }),
    turned("hung-up", |evil| {
        evil.send("MAIL FROM:<a@source.example>\r\nRCPT TO:<user@example.org>\r\n")?;
        evil.stream().switch().off();
        Ok(())
    }),
    turned("a-message-for-later", |evil| {
        evil.send("MAIL FROM:<a@source.example>\r\nRCPT TO:<user@example.org>\r\nBDAT 20 LAST\r\nSubject: for us\r\n\r\nx")?;
        for _ in 0..3 {
            evil.reply()?;
        }
        endless(evil, "NOOP\r\n")
    }),
];

/// None of them is ours, whoever reads them.
const FOREIGN: [&str; 14] = [
    "<user@foreign.example>",
    "<user@sub.example.org>",
    "<user@org>",
    "<user@[127.0.0.1]>",
    "<user%foreign.example@example.org>",
    "<foreign.example!user@example.org>",
    "<@example.org:user@foreign.example>",
    "<\"user@foreign.example\"@example.org>",
    "<user@example.org@foreign.example>",
    "<user@еxample.org>",
    "<user＠foreign.example@example.org>",
    "<|cat@example.org>",
    "<-f@example.org>",
    "<user@example.org.>",
];

const fn turned(name: &'static str, play: fn(&mut Evil) -> io::Result<()>) -> Script {
    Script::new(name, Start::Turned, play)
}

/// A million of them, which must not all be heard.
fn endless(evil: &mut Evil, line: &str) -> io::Result<()> {
    evil.commands(line, MANY)?;
    claim(false, "it listened to all of it")
}

/// The last word is not the answer, and then the connection ends.
fn last_word(error: io::Error) -> io::Result<()> {
    let is_last = error.to_string().contains("421");
    Err(if is_last {
        io::ErrorKind::UnexpectedEof.into()
    } else {
        error
    })
}
