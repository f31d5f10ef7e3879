//! Drives the sending side of SMTP or LMTP over a wire: one greeting, one hello, message after message.
//!
//! It keeps the order of commands, the deadlines of RFC 5321 §4.5.3.2 and the pipelining that the peer
//! allows. It decides nothing: verdicts go to the caller, and a [`LinkFault`] says that there is no verdict.

use rustls_pki_types::ServerName;

use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::client::{Awaited, Client, Dialect, Fault};
use crate::smtp::limits::ClientTimeouts;
use crate::smtp::parameter::{MailParameters, RcptParameters};
use crate::smtp::reply::Reply;
use crate::tls::ClientTls;
use crate::wire::{Wire, WireError};

/// Octets of content that are gathered before they are written.
const BLOCK_OCTETS: usize = 64 * 1024;

/// The connection gave no verdict: whatever was under way is as if it had not been tried (R5321-26).
#[derive(Debug, thiserror::Error)]
pub enum LinkFault {
    /// The peer broke the protocol.
    #[error(transparent)]
    Protocol(#[from] Fault),
    /// The peer ends the session (421), or refused what must succeed before mail can flow.
    #[error("the peer said {0}")]
    Unavailable(Reply),
    /// The connection broke, or nothing came in time.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// The envelope of one message, as it is sent.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// MAIL
    pub reverse_path: ReversePath,
    /// What goes with MAIL; only what the peer offers is sent.
    pub parameters: MailParameters,
    /// RCPT, in order.
    pub recipients: Vec<(ForwardPath, RcptParameters)>,
}

/// What the peer said to an envelope.
#[derive(Clone, Debug)]
pub struct EnvelopeVerdict {
    /// To MAIL.
    pub mail: Reply,
    /// To each RCPT, in order.
    pub recipients: Vec<Reply>,
    /// To DATA; absent where content goes by BDAT, or where DATA was not worth sending.
    pub data: Option<Reply>,
}

impl EnvelopeVerdict {
    /// Recipients that were accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        if !self.mail.is_positive() {
            return 0;
        }
        self.recipients
            .iter()
            .filter(|reply| reply.is_positive())
            .count()
    }

    /// Whether the peer waits for the content of DATA.
    #[must_use]
    pub fn awaits_content(&self) -> bool {
        self.data.as_ref().is_some_and(Reply::is_intermediate)
    }
}

/// As much of a transaction as is known at a time, for senders that pass on what another one sends them:
/// the commands go out in one flight where the peer allows it.
#[derive(Clone, Copy, Debug)]
pub struct Part<'e> {
    /// MAIL; present in the first part only.
    pub mail: Option<(&'e ReversePath, &'e MailParameters)>,
    /// RCPT, in order.
    pub recipients: &'e [(ForwardPath, RcptParameters)],
    /// Whether DATA follows.
    pub data: bool,
    /// Recipients that were accepted in earlier parts.
    pub accepted: usize,
}

/// What the peer said to a [`Part`].
#[derive(Clone, Debug, Default)]
pub struct PartVerdict {
    /// To MAIL.
    pub mail: Option<Reply>,
    /// To each RCPT, in order; fewer where they were not worth sending.
    pub recipients: Vec<Reply>,
    /// To DATA; absent where it was not worth sending.
    pub data: Option<Reply>,
}

impl PartVerdict {
    /// Recipients that were accepted in this part.
    #[must_use]
    pub fn accepted(&self) -> usize {
        if self.is_refused() {
            return 0;
        }
        self.recipients
            .iter()
            .filter(|reply| reply.is_positive())
            .count()
    }

    fn is_refused(&self) -> bool {
        self.mail.as_ref().is_some_and(|reply| !reply.is_positive())
    }
}

/// A connection on which we send mail.
#[derive(Debug)]
pub struct Dialogue {
    wire: Wire,
    client: Client,
    timeouts: ClientTimeouts,
    /// What came behind the last verdict of a message, for whoever asks next.
    afterwards: Option<LinkFault>,
}

impl Dialogue {
    /// A dialogue that begins with the peer's greeting.
    #[must_use]
    pub fn new(wire: Wire, dialect: Dialect, timeouts: ClientTimeouts) -> Self {
        Self {
            wire,
            client: Client::new(dialect),
            timeouts,
            afterwards: None,
        }
    }

    /// The machine: what the peer offers.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The connection.
    #[must_use]
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Waits for the greeting.
    ///
    /// # Errors
    /// [`LinkFault::Unavailable`] when it is not positive.
    pub async fn greeting(&mut self) -> Result<Reply, LinkFault> {
        let reply = self.reply(Awaited::Greeting).await?;
        positive(reply)
    }

    /// Says hello, in the old way too if the new one is refused for good (R2645-19).
    ///
    /// # Errors
    /// [`LinkFault::Unavailable`] when the peer refuses that.
    pub async fn hello(&mut self, name: &str) -> Result<(), LinkFault> {
        self.client.hello(name);
        let reply = self.reply(Awaited::Hello).await?;
        if !(reply.is_permanent() && self.client.dialect() == Dialect::Smtp) {
            return positive(reply).map(drop);
        }
        self.client.old_hello(name);
        let reply = self.reply(Awaited::Hello).await?;
        positive(reply).map(drop)
    }

    /// STARTTLS and the handshake. Say hello again after it.
    ///
    /// # Errors
    /// [`LinkFault`]: refused, octets behind the 220 (R3207-3), or a failed handshake.
    pub async fn start_tls(
        mut self,
        tls: &ClientTls,
        name: ServerName<'static>,
    ) -> Result<Self, LinkFault> {
        self.client.start_tls();
        let reply = self.reply(Awaited::StartTls).await?;
        positive(reply)?;
        let wire = self
            .wire
            .connect_tls(tls, name, self.timeouts.command)
            .await?;
        Ok(Self { wire, ..self })
    }

    /// One step of AUTH: the command with its initial response, in base64.
    ///
    /// # Errors
    /// [`LinkFault`] when no reply came.
    pub async fn auth(
        &mut self,
        mechanism: &str,
        initial: Option<&str>,
    ) -> Result<Reply, LinkFault> {
        self.client.auth(mechanism, initial);
        self.reply(Awaited::Auth).await
    }

    /// The next step of AUTH: a response, in base64.
    ///
    /// # Errors
    /// [`LinkFault`] when no reply came.
    pub async fn auth_response(&mut self, response: &str) -> Result<Reply, LinkFault> {
        self.client.auth_response(response);
        self.reply(Awaited::Auth).await
    }

    /// MAIL and each RCPT, and DATA behind them, in one flight where the peer allows it (R2920-2).
    ///
    /// DATA is answered with 354 although nobody was accepted? Then its content is the lone dot, sent here.
    ///
    /// # Errors
    /// [`LinkFault`]: there is no verdict on the message.
    pub async fn envelope(&mut self, envelope: &Envelope) -> Result<EnvelopeVerdict, LinkFault> {
        if self.client.extensions().pipelining {
            self.write_envelope(envelope);
            self.client.data();
            let mut verdict = self.envelope_verdict(envelope).await?;
            verdict.data = Some(self.data_verdict(verdict.accepted()).await?);
            return Ok(verdict);
        }
        let mut verdict = self.envelope_in_steps(envelope).await?;
        if verdict.accepted() > 0 {
            self.client.data();
            verdict.data = Some(self.data_verdict(verdict.accepted()).await?);
        }
        Ok(verdict)
    }

    /// The commands of a part, DATA as in [`Dialogue::envelope`].
    ///
    /// # Errors
    /// [`LinkFault`]: there is no verdict on the message.
    pub async fn part(&mut self, part: &Part<'_>) -> Result<PartVerdict, LinkFault> {
        let pipelining = self.client.extensions().pipelining;
        let mut verdict = PartVerdict::default();
        if pipelining {
            self.write_part(part);
        }
        if let Some((path, parameters)) = part.mail {
            if !pipelining {
                self.client.mail(path, parameters);
            }
            verdict.mail = Some(self.reply(Awaited::Mail).await?);
        }
        for (path, parameters) in part.recipients {
            if !pipelining && verdict.is_refused() {
                break;
            }
            if !pipelining {
                self.client.recipient(path, parameters);
            }
            verdict
                .recipients
                .push(self.reply(Awaited::Recipient).await?);
        }
        let accepted = part.accepted + verdict.accepted();
        if part.data && !pipelining && accepted > 0 {
            self.client.data();
        }
        if self.client.awaits() == Some(Awaited::Data) {
            verdict.data = Some(self.data_verdict(accepted).await?);
        }
        Ok(verdict)
    }

    fn write_part(&mut self, part: &Part<'_>) {
        if let Some((path, parameters)) = part.mail {
            self.client.mail(path, parameters);
        }
        for (path, parameters) in part.recipients {
            self.client.recipient(path, parameters);
        }
        if part.data {
            self.client.data();
        }
    }

    /// Content of DATA: writes when enough has gathered.
    ///
    /// # Errors
    /// [`LinkFault`]: there is no verdict on the message, and the connection must be closed.
    pub async fn content(&mut self, part: &[u8]) -> Result<(), LinkFault> {
        for block in part.chunks(BLOCK_OCTETS) {
            self.client.content(block);
            if self.client.output.len() >= BLOCK_OCTETS {
                self.wire
                    .write(&mut self.client.output, self.timeouts.block)
                    .await?;
            }
        }
        Ok(())
    }

    /// The end of the content of DATA, and what the peer says to the message: one reply, or in LMTP one
    /// for each accepted recipient.
    ///
    /// # Errors
    /// [`LinkFault`]: there is no verdict; the peer may have the message all the same.
    pub async fn end_of_data(&mut self, accepted: usize) -> Result<Vec<Reply>, LinkFault> {
        self.nothing_early()?;
        self.client.end_of_data(accepted);
        self.verdicts().await
    }

    /// MAIL, RCPT and BDAT LAST for content of so many octets, the whole envelope in one flight with the
    /// beginning of the content. Content follows by [`Dialogue::content`], the replies come with
    /// [`Dialogue::chunk_verdict`].
    pub fn begin_chunk(&mut self, envelope: &Envelope, octets: u64) {
        self.write_envelope(envelope);
        self.client.bdat(octets, true);
    }

    /// BDAT LAST alone, for content that waits until the envelope was accepted.
    pub fn begin_chunk_after_envelope(&mut self, octets: u64) {
        self.client.bdat(octets, true);
    }

    /// The replies to what [`Dialogue::begin_chunk`] began, after all of the content.
    ///
    /// # Errors
    /// [`LinkFault`]: there is no verdict on the message.
    pub async fn chunk_verdict(
        &mut self,
        envelope: &Envelope,
    ) -> Result<(EnvelopeVerdict, Vec<Reply>), LinkFault> {
        let verdict = self.envelope_verdict(envelope).await?;
        let replies = self.verdicts().await?;
        Ok((verdict, replies))
    }

    /// MAIL and each RCPT alone, in one flight where the peer allows it.
    ///
    /// # Errors
    /// [`LinkFault`]: there is no verdict on the message.
    pub async fn envelope_alone(
        &mut self,
        envelope: &Envelope,
    ) -> Result<EnvelopeVerdict, LinkFault> {
        if !self.client.extensions().pipelining {
            return self.envelope_in_steps(envelope).await;
        }
        self.write_envelope(envelope);
        self.envelope_verdict(envelope).await
    }

    /// The replies to the end of the content.
    ///
    /// # Errors
    /// [`LinkFault`]: there is no verdict on the message.
    pub async fn verdicts(&mut self) -> Result<Vec<Reply>, LinkFault> {
        let mut replies = Vec::with_capacity(1);
        while self.client.awaits() == Some(Awaited::EndOfData) {
            replies.push(self.reply(Awaited::EndOfData).await?);
        }
        Ok(replies)
    }

    /// RSET: the transaction is over.
    ///
    /// # Errors
    /// [`LinkFault`] when it was not answered.
    pub async fn reset(&mut self) -> Result<(), LinkFault> {
        self.client.reset();
        let reply = self.reply(Awaited::Reset).await?;
        positive(reply).map(drop)
    }

    /// NOOP: is the peer still there?
    ///
    /// # Errors
    /// [`LinkFault`] when it was not answered.
    pub async fn noop(&mut self) -> Result<(), LinkFault> {
        self.client.noop();
        self.reply(Awaited::Noop).await.map(drop)
    }

    /// QUIT. The 221 is a courtesy: it makes no difference whether it comes (R5321-26). A peer that still owes us
    /// replies has given up in the middle of them, and hears no more commands.
    pub async fn quit(mut self) {
        if self.client.awaits().is_none() {
            self.client.quit();
            let _ = self.reply(Awaited::Quit).await;
        }
        self.wire.close(self.timeouts.quit).await;
    }

    fn write_envelope(&mut self, envelope: &Envelope) {
        self.client
            .mail(&envelope.reverse_path, &envelope.parameters);
        for (path, parameters) in &envelope.recipients {
            self.client.recipient(path, parameters);
        }
    }

    async fn envelope_verdict(
        &mut self,
        envelope: &Envelope,
    ) -> Result<EnvelopeVerdict, LinkFault> {
        let mail = self.reply(Awaited::Mail).await?;
        let mut recipients = Vec::with_capacity(envelope.recipients.len());
        for _ in &envelope.recipients {
            recipients.push(self.reply(Awaited::Recipient).await?);
        }
        Ok(EnvelopeVerdict {
            mail,
            recipients,
            data: None,
        })
    }

    /// One command at a time, and none that an earlier reply made pointless.
    async fn envelope_in_steps(
        &mut self,
        envelope: &Envelope,
    ) -> Result<EnvelopeVerdict, LinkFault> {
        self.client
            .mail(&envelope.reverse_path, &envelope.parameters);
        let mail = self.reply(Awaited::Mail).await?;
        let mut recipients = Vec::with_capacity(envelope.recipients.len());
        if mail.is_positive() {
            for (path, parameters) in &envelope.recipients {
                self.client.recipient(path, parameters);
                recipients.push(self.reply(Awaited::Recipient).await?);
            }
        }
        Ok(EnvelopeVerdict {
            mail,
            recipients,
            data: None,
        })
    }

    async fn data_verdict(&mut self, accepted: usize) -> Result<Reply, LinkFault> {
        let reply = self.reply(Awaited::Data).await?;
        if !reply.is_intermediate() {
            self.client.no_content();
            return Ok(reply);
        }
        if accepted > 0 {
            return Ok(reply);
        }
        // RFC 2920 §3.1: the peer waits for content that has nobody to go to; in LMTP nobody answers for it.
        self.client.end_of_data(0);
        let replies = self.verdicts().await?;
        Ok(replies
            .into_iter()
            .next()
            .filter(|reply| !reply.is_positive())
            .unwrap_or_else(|| Reply::new(554, "5.5.1", "No valid recipients")))
    }

    /// Sends what waits and takes the next reply, which must answer `awaited`.
    async fn reply(&mut self, awaited: Awaited) -> Result<Reply, LinkFault> {
        if let Some(fault) = self.afterwards.take() {
            return Err(fault);
        }
        let wait = self.timeout(awaited);
        loop {
            if let Some((found, reply)) = self.client.next(&mut self.wire.input)? {
                debug_assert_eq!(found, awaited);
                if reply.code() == 421 {
                    return Err(LinkFault::Unavailable(reply));
                }
                match self.nothing_early() {
                    // A message that was answered when its answer was due is answered: whatever follows, such as
                    // the goodbye of a peer that is told to stop, belongs to the next command.
                    Err(fault) if awaited == Awaited::EndOfData => self.afterwards = Some(fault),
                    outcome => outcome?,
                }
                return Ok(reply);
            }
            self.wire.exchange(&mut self.client.output, wait).await?;
        }
    }

    /// A reply that is there before its command was sent answers nothing, least of all the end of content that
    /// is still to come (R5321-25).
    fn nothing_early(&mut self) -> Result<(), LinkFault> {
        if self.client.awaits().is_some() {
            return Ok(());
        }
        match self.client.next(&mut self.wire.input) {
            Err(Fault::NotDue(reply)) if reply.code() == 421 => Err(LinkFault::Unavailable(reply)),
            Err(fault) => Err(fault.into()),
            Ok(_) => Ok(()),
        }
    }

    fn timeout(&self, awaited: Awaited) -> std::time::Duration {
        let timeouts = &self.timeouts;
        match awaited {
            Awaited::Greeting => timeouts.greeting,
            Awaited::Mail => timeouts.mail,
            Awaited::Recipient => timeouts.recipient,
            Awaited::Data => timeouts.data,
            Awaited::EndOfData | Awaited::Chunk => timeouts.end_of_data,
            Awaited::Quit => timeouts.quit,
            Awaited::Atrn
            | Awaited::Auth
            | Awaited::Hello
            | Awaited::Noop
            | Awaited::Reset
            | Awaited::StartTls => timeouts.command,
        }
    }
}

fn positive(reply: Reply) -> Result<Reply, LinkFault> {
    if reply.is_positive() {
        Ok(reply)
    } else {
        Err(LinkFault::Unavailable(reply))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::task::JoinHandle;

    use super::*;

    /// Plays the server: reads exactly the first text of each step, then writes the second.
    fn against(script: &'static [(&'static str, &'static str)]) -> (Dialogue, JoinHandle<()>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let server = tokio::spawn(async move {
            for (expected, reply) in script {
                let mut heard = vec![0; expected.len()];
                theirs.read_exact(&mut heard).await.unwrap();
                assert_eq!(String::from_utf8_lossy(&heard), *expected);
                theirs.write_all(reply.as_bytes()).await.unwrap();
            }
        });
        (
            Dialogue::new(Wire::unix(ours), Dialect::Smtp, ClientTimeouts::default()),
            server,
        )
    }

    async fn greeted(
        script: &'static [(&'static str, &'static str)],
    ) -> (Dialogue, JoinHandle<()>) {
        let (mut dialogue, server) = against(script);
        dialogue.greeting().await.unwrap();
        dialogue.hello("c.example").await.unwrap();
        (dialogue, server)
    }

    fn envelope(recipients: &[&str]) -> Envelope {
        let path = |text: &&str| {
            (
                ForwardPath::from_address(text).unwrap(),
                RcptParameters::default(),
            )
        };
        Envelope {
            reverse_path: ReversePath::from_address("a@b.example").unwrap(),
            parameters: MailParameters::default(),
            recipients: recipients.iter().map(path).collect(),
        }
    }

    // covers: R2920-2, R5321-29
    #[tokio::test]
    async fn the_envelope_goes_in_one_flight_where_it_may() {
        let (mut dialogue, server) = greeted(&[
            ("", "220 s\r\n"),
            ("EHLO c.example\r\n", "250-s\r\n250 PIPELINING\r\n"),
            (
                "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<e@d.example>\r\nDATA\r\n",
                "250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n",
            ),
            ("..x\r\n.\r\n", "250 taken\r\n"),
        ])
        .await;
        let verdict = dialogue
            .envelope(&envelope(&["c@d.example", "e@d.example"]))
            .await
            .unwrap();
        assert_eq!((verdict.accepted(), verdict.awaits_content()), (1, true));
        dialogue.content(b".x\r\n").await.unwrap();
        let replies = dialogue.end_of_data(1).await.unwrap();
        assert_eq!(replies[0].code(), 250);
        server.await.unwrap();
    }

    // covers: R2920-2
    #[tokio::test]
    async fn one_command_at_a_time_where_it_may_not() {
        let (mut dialogue, server) = greeted(&[
            ("", "220 s\r\n"),
            ("EHLO c.example\r\n", "250 s\r\n"),
            ("MAIL FROM:<a@b.example>\r\n", "250 ok\r\n"),
            ("RCPT TO:<c@d.example>\r\n", "450 later\r\n"),
            ("RCPT TO:<e@d.example>\r\n", "550 no\r\n"),
            ("RSET\r\n", "250 ok\r\n"),
        ])
        .await;
        let verdict = dialogue
            .envelope(&envelope(&["c@d.example", "e@d.example"]))
            .await
            .unwrap();
        assert_eq!((verdict.accepted(), verdict.data.is_none()), (0, true));
        dialogue.reset().await.unwrap();
        server.await.unwrap();
    }

    // covers: R2920-2
    #[tokio::test]
    async fn a_354_without_recipients_gets_the_lone_dot() {
        let (mut dialogue, server) = greeted(&[
            ("", "220 s\r\n"),
            ("EHLO c.example\r\n", "250-s\r\n250 PIPELINING\r\n"),
            (
                "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n",
                "250 ok\r\n550 no\r\n354 go\r\n",
            ),
            (".\r\n", "554 nobody\r\n"),
        ])
        .await;
        let verdict = dialogue
            .envelope(&envelope(&["c@d.example"]))
            .await
            .unwrap();
        assert_eq!(verdict.data.unwrap().code(), 554);
        server.await.unwrap();
    }

    // covers: R2645-19
    #[tokio::test]
    async fn a_peer_that_refuses_ehlo_for_good_is_asked_in_the_old_way() {
        let (mut dialogue, server) = against(&[
            ("", "220 s\r\n"),
            ("EHLO c.example\r\n", "502 what\r\n"),
            ("HELO c.example\r\n", "250 s\r\n"),
        ]);
        dialogue.greeting().await.unwrap();
        dialogue.hello("c.example").await.unwrap();
        assert!(!dialogue.client().extensions().pipelining);
        server.await.unwrap();
    }

    // covers: R2645-19, R5321-26, OWN-1, OWN-7a
    #[tokio::test]
    async fn what_gives_no_verdict_is_a_fault_of_the_link() {
        for greeting in [
            "421 busy\r\n",
            "554 no\r\n",
            "what\r\n",
            "220-a\r\n221 b\r\n",
        ] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(greeting.as_bytes()).await.unwrap();
            let mut dialogue =
                Dialogue::new(Wire::unix(ours), Dialect::Smtp, ClientTimeouts::default());
            assert!(dialogue.greeting().await.is_err(), "{greeting}");
        }
        let (mut dialogue, _server) = greeted(&[
            ("", "220 s\r\n"),
            ("EHLO c.example\r\n", "250 s\r\n"),
            ("MAIL FROM:<a@b.example>\r\n", "421 going down\r\n"),
        ])
        .await;
        let fault = dialogue
            .envelope(&envelope(&["c@d.example"]))
            .await
            .unwrap_err();
        assert!(matches!(fault, LinkFault::Unavailable(reply) if reply.code() == 421));
    }

    // covers: R5321-25, OWN-6
    #[tokio::test]
    async fn a_goodbye_behind_a_verdict_takes_nothing_back() {
        for (behind, is_goodbye) in [("421 stopping\r\n", true), ("250 what\r\n", false)] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut dialogue =
                Dialogue::new(Wire::unix(ours), Dialect::Smtp, ClientTimeouts::default());
            let script = format!(
                "220 s\r\n250-PIPELINING\r\n250 CHUNKING\r\n250 ok\r\n250 ok\r\n250 taken\r\n{behind}"
            );
            // In portions as they are asked for; the last two together.
            let mut lines = script.split_inclusive('\n');
            theirs
                .write_all(lines.next().unwrap().as_bytes())
                .await
                .unwrap();
            dialogue.greeting().await.unwrap();
            let hello = [lines.next().unwrap(), lines.next().unwrap()].concat();
            theirs.write_all(hello.as_bytes()).await.unwrap();
            dialogue.hello("c.example").await.unwrap();
            let envelope = envelope(&["c@d.example"]);
            dialogue.begin_chunk(&envelope, 3);
            dialogue.content(b"x\r\n").await.unwrap();
            theirs
                .write_all(lines.collect::<String>().as_bytes())
                .await
                .unwrap();
            let (_, replies) = dialogue.chunk_verdict(&envelope).await.unwrap();
            assert_eq!(replies[0].code(), 250);
            let fault = dialogue.envelope(&envelope).await.unwrap_err();
            let is_unavailable = matches!(fault, LinkFault::Unavailable(_));
            assert_eq!(is_unavailable, is_goodbye, "{fault}");
        }
    }

    // covers: R5321-40, R5321-41, R5321-42, R5321-43, R5321-44, R5321-45
    #[tokio::test(start_paused = true)]
    async fn each_wait_has_the_deadline_of_the_standard() {
        let minutes = |count: u64| std::time::Duration::from_secs(60 * count);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut dialogue =
            Dialogue::new(Wire::unix(ours), Dialect::Smtp, ClientTimeouts::default());
        let table = [
            (Awaited::Greeting, 5),
            (Awaited::Mail, 5),
            (Awaited::Recipient, 5),
            (Awaited::Data, 2),
            (Awaited::EndOfData, 10),
        ];
        for (awaited, expected) in table {
            assert_eq!(dialogue.timeout(awaited), minutes(expected), "{awaited:?}");
        }
        assert_eq!(dialogue.timeouts.block, minutes(3));
        let began = tokio::time::Instant::now();
        let fault = dialogue.greeting().await.unwrap_err();
        assert!(matches!(fault, LinkFault::Wire(WireError::TimedOut)));
        assert_eq!(began.elapsed().as_secs(), 300);
    }
}
