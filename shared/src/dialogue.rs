//! Drives the sending side of SMTP or LMTP over a wire: one greeting, one hello, message after message.
//!
//! It keeps the order of commands, the deadlines of RFC 5321 §4.5.3.2 and the pipelining that the peer
//! allows. It decides nothing: verdicts go to the caller, and a [`LinkFault`] says that there is no verdict.
//!
//! Where the peer offers PIPELINING, flights may follow each other: `begin_…` writes into the output and waits for
//! nothing, and `…_verdict` takes the replies, in the order in which the flights were begun. What was begun goes out
//! when a reply is needed that is not there, when enough of it has gathered, or with [`Dialogue::flush`].

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::time::Instant;

use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::client::{Awaited, Client, Dialect, Fault};
use crate::smtp::exchange::Exchange;
use crate::smtp::limits::{ClientTimeouts, REPLY_LINE_OCTETS};
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

/// As much of an envelope as is known at a time: all of it, or, for who passes on what another one sends, what has
/// come so far. The commands go out in one flight where the peer allows it.
#[derive(Clone, Copy, Debug)]
pub struct Part<'e> {
    /// MAIL; present in the first part only.
    pub mail: Option<(&'e ReversePath, &'e MailParameters)>,
    /// RCPT, in order.
    pub recipients: &'e [(ForwardPath, RcptParameters)],
    /// Whether DATA follows; content may go by BDAT instead.
    pub data: bool,
    /// Recipients that were accepted in earlier parts.
    pub accepted: usize,
}

/// What is to come for a [`Part`] that was begun: what its verdict needs to know of it.
#[derive(Clone, Copy, Debug)]
#[must_use = "each flight has replies to be taken"]
pub struct Due {
    mail: bool,
    recipients: usize,
    /// See [`PartVerdict::named`].
    named: bool,
    accepted: usize,
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
    /// MAIL named the delivery, so that [`ALREADY_DELIVERED`](crate::smtp::reply::ALREADY_DELIVERED) is the answer to a name that the peer knows.
    pub named: bool,
}

impl PartVerdict {
    /// Recipients that were accepted in this part, and to whom the content goes.
    #[must_use]
    pub fn accepted(&self) -> usize {
        if self.is_refused() || self.is_already_delivered() {
            return 0;
        }
        self.recipients
            .iter()
            .filter(|reply| reply.is_positive() && !self.has_already(reply))
            .count()
    }

    /// Whether the peer took the whole delivery before: it opened no transaction.
    #[must_use]
    pub fn is_already_delivered(&self) -> bool {
        self.mail
            .as_ref()
            .is_some_and(|reply| self.has_already(reply))
    }

    /// Whether `reply`, to a RCPT of this part, says that the peer took the delivery for this recipient before.
    #[must_use]
    pub fn has_already(&self, reply: &Reply) -> bool {
        self.named && reply.is_already_delivered()
    }

    /// Whether MAIL was refused.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.mail.as_ref().is_some_and(|reply| !reply.is_positive())
    }

    /// Whether the peer waits for the content of DATA.
    #[must_use]
    pub fn awaits_content(&self) -> bool {
        self.data.as_ref().is_some_and(Reply::is_intermediate)
    }
}

/// A connection on which we send mail.
#[derive(Debug)]
pub struct Dialogue {
    wire: Wire,
    client: Client,
    timeouts: ClientTimeouts,
    /// Since when the reply that is due next was waited for.
    waits_since: Option<Instant>,
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
            waits_since: None,
            afterwards: None,
        }
    }

    /// The machine: what the peer offers.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// From now on keeps what is said and answered, for [`Dialogue::take_exchanges`].
    pub fn keep_exchanges(&mut self) {
        self.client.keep_exchanges();
    }

    /// What was answered since it was last asked for, in order.
    pub fn take_exchanges(&mut self) -> Vec<Exchange> {
        self.client.take_exchanges()
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

    /// MAIL and each RCPT, and DATA behind them, in one flight where the peer allows it (R2920-2); else one at a
    /// time, and none that an earlier reply made pointless.
    ///
    /// A delivery that the peer knows by its id (R-DUP) needs nothing behind MAIL; what was in the same flight is
    /// answered with 503. DATA is answered with 354 although nobody was accepted? Then its content is the lone dot, sent here.
    ///
    /// # Errors
    /// [`LinkFault`]: there is no verdict on the message.
    pub async fn part(&mut self, part: &Part<'_>) -> Result<PartVerdict, LinkFault> {
        if self.client.extensions().pipelining {
            let due = self.begin_envelope(part);
            return self.envelope_verdict(due).await;
        }
        let verdict = self.in_steps(part).await?;
        self.with_data(verdict, part.accepted).await
    }

    async fn in_steps(&mut self, part: &Part<'_>) -> Result<PartVerdict, LinkFault> {
        let mut verdict = no_verdict_yet(self.due(part));
        if let Some((path, parameters)) = part.mail {
            self.client.mail(path, parameters);
            verdict.mail = Some(self.reply(Awaited::Mail).await?);
        }
        if verdict.is_refused() || verdict.is_already_delivered() {
            return Ok(verdict);
        }
        for (path, parameters) in part.recipients {
            self.client.recipient(path, parameters);
            verdict
                .recipients
                .push(self.reply(Awaited::Recipient).await?);
        }
        if part.data && part.accepted + verdict.accepted() > 0 {
            self.client.data();
        }
        Ok(verdict)
    }

    fn due(&self, part: &Part<'_>) -> Due {
        let has_name = |mail: (&ReversePath, &MailParameters)| mail.1.delivery_id.is_some();
        Due {
            mail: part.mail.is_some(),
            recipients: part.recipients.len(),
            named: self.client.extensions().delivery_id && part.mail.is_some_and(has_name),
            accepted: part.accepted,
        }
    }

    /// RSET in front of the next flight: whatever becomes of those before it, which may not be answered yet, this one
    /// begins clean. After a BDAT that was refused nothing else does (RFC 3030 §2). Its reply is taken with the
    /// next verdict.
    pub fn begin_reset(&mut self) {
        self.client.reset();
    }

    /// MAIL and each RCPT, and DATA behind them, for a peer that offers PIPELINING. The replies come with
    /// [`Dialogue::envelope_verdict`]. Behind DATA nothing may be begun before that (R2920-3).
    pub fn begin_envelope(&mut self, part: &Part<'_>) -> Due {
        if let Some((path, parameters)) = part.mail {
            self.client.mail(path, parameters);
        }
        for (path, parameters) in part.recipients {
            self.client.recipient(path, parameters);
        }
        if part.data {
            self.client.data();
        }
        self.due(part)
    }

    /// The replies to what [`Dialogue::begin_envelope`] began.
    ///
    /// # Errors
    /// [`LinkFault`]: there is no verdict on the message.
    pub async fn envelope_verdict(&mut self, due: Due) -> Result<PartVerdict, LinkFault> {
        self.reset_verdict().await?;
        let mut verdict = no_verdict_yet(due);
        if due.mail {
            verdict.mail = Some(self.reply(Awaited::Mail).await?);
        }
        for _ in 0..due.recipients {
            verdict
                .recipients
                .push(self.reply(Awaited::Recipient).await?);
        }
        self.with_data(verdict, due.accepted).await
    }

    async fn reset_verdict(&mut self) -> Result<(), LinkFault> {
        while self.client.awaits() == Some(Awaited::Reset) {
            let reply = self.reply(Awaited::Reset).await?;
            positive(reply)?;
        }
        Ok(())
    }

    /// The verdict with the reply to DATA, if that was sent.
    async fn with_data(
        &mut self,
        verdict: PartVerdict,
        accepted: usize,
    ) -> Result<PartVerdict, LinkFault> {
        if self.client.awaits() != Some(Awaited::Data) {
            return Ok(verdict);
        }
        let data = self.data_verdict(accepted + verdict.accepted()).await?;
        Ok(PartVerdict {
            data: Some(data),
            ..verdict
        })
    }

    /// Content of DATA or BDAT: writes when enough has gathered.
    ///
    /// # Errors
    /// [`LinkFault`]: there is no verdict on the message, and the connection must be closed.
    pub async fn content(&mut self, part: &[u8]) -> Result<(), LinkFault> {
        for block in part.chunks(BLOCK_OCTETS) {
            self.client.content(block);
            if self.client.output.len() >= BLOCK_OCTETS {
                self.flush().await?;
                self.nothing_early()?;
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
        self.begin_end_of_data(accepted)?;
        self.verdicts().await
    }

    /// The end of the content of DATA. The replies come with [`Dialogue::verdicts`]; where the peer offers PIPELINING
    /// the next message may be begun before (RFC 2920 §3.1).
    ///
    /// # Errors
    /// [`LinkFault`]: the peer answered what it did not have yet, and the connection must be closed.
    pub fn begin_end_of_data(&mut self, accepted: usize) -> Result<(), LinkFault> {
        self.nothing_early()?;
        self.client.end_of_data(accepted);
        Ok(())
    }

    /// A whole envelope and BDAT LAST for content of so many octets, in one flight with the content: for a peer
    /// that offers PIPELINING and CHUNKING. Content follows by [`Dialogue::content`], the replies come with
    /// [`Dialogue::flight_verdict`].
    pub fn begin_flight(&mut self, part: &Part<'_>, octets: u64) -> Due {
        let due = self.begin_envelope(part);
        self.begin_chunk(octets);
        due
    }

    /// BDAT LAST alone, for content that waits until its envelope was accepted. Content follows by
    /// [`Dialogue::content`], the replies come with [`Dialogue::verdicts`].
    pub fn begin_chunk(&mut self, octets: u64) {
        self.client.bdat(octets, true);
    }

    /// The replies to what [`Dialogue::begin_flight`] began, after all of the content.
    ///
    /// # Errors
    /// [`LinkFault`]: there is no verdict on the message.
    pub async fn flight_verdict(
        &mut self,
        due: Due,
    ) -> Result<(PartVerdict, Vec<Reply>), LinkFault> {
        let verdict = self.envelope_verdict(due).await?;
        let replies = self.verdicts().await?;
        Ok((verdict, replies))
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
        self.begin_reset();
        self.reset_verdict().await
    }

    /// NOOP: the peer is still there.
    ///
    /// # Errors
    /// [`LinkFault`] when it was not answered.
    pub async fn noop(&mut self) -> Result<(), LinkFault> {
        self.client.noop();
        let reply = self.reply(Awaited::Noop).await?;
        positive(reply).map(drop)
    }

    /// Sends what was begun.
    ///
    /// # Errors
    /// [`LinkFault`]: the connection must be closed.
    pub async fn flush(&mut self) -> Result<(), LinkFault> {
        if self.client.awaits().is_some() {
            // The peer has it from now on, whatever else is done before its reply is waited for.
            self.waits_since();
        }
        let output = &mut self.client.output;
        Ok(self.wire.write(output, self.timeouts.block).await?)
    }

    /// Does other work, and sends what was begun if that takes its time: the line does not run dry meanwhile.
    ///
    /// # Errors
    /// [`LinkFault`]: the connection must be closed. The work was done all the same.
    pub async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<T, LinkFault> {
        let mut work = pin!(work);
        let at_once = std::future::poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => Poll::Ready(None),
        });
        if let Some(done) = at_once.await {
            return Ok(done);
        }
        let (sent, done) = tokio::join!(self.flush(), work);
        sent.map(|()| done)
    }

    /// Whether a line came that was not looked at yet, or too much for one. The beginning of a line says nothing.
    #[must_use]
    pub fn has_heard(&self) -> bool {
        let octets = self.wire.input.bytes();
        octets.len() >= REPLY_LINE_OCTETS || memchr::memchr(b'\n', octets).is_some()
    }

    /// Since when the reply that is due next is waited for, whatever was done in between: from now on, if it was not before.
    pub fn waits_since(&mut self) -> Instant {
        *self.waits_since.get_or_insert_with(Instant::now)
    }

    /// How long the reply that is due next was waited for in vain.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waits_since
            .map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Sends what was begun, and waits until something comes of what is due. Cancel-safe: who comes back to it has
    /// what is left of the time for that reply.
    ///
    /// # Errors
    /// [`LinkFault`]: there is no verdict on what is under way.
    pub async fn hear(&mut self) -> Result<(), LinkFault> {
        if let Some(fault) = self.afterwards.take() {
            return Err(fault);
        }
        while !self.has_heard() {
            let awaited = self.client.awaits();
            let allowed = awaited.map_or(self.timeouts.command, |awaited| self.timeout(awaited));
            self.exchange(allowed).await?;
        }
        Ok(())
    }

    /// Sends what was begun and takes in what comes, within the time allowed for the reply that is due next. That is counted
    /// once for each reply: neither other work in between nor a part of it gives the peer more.
    async fn exchange(&mut self, allowed: Duration) -> Result<(), LinkFault> {
        let left = allowed.saturating_sub(self.waits_since().elapsed());
        Ok(self.wire.exchange(&mut self.client.output, left).await?)
    }

    /// Waits that long while nothing is due, and keeps no memory for mail meanwhile. Cancel-safe.
    ///
    /// # Errors
    /// [`LinkFault`]: the peer spoke, which it may not, or is gone.
    pub async fn rest(&mut self, wait: Duration) -> Result<(), LinkFault> {
        if let Some(fault) = self.afterwards.take() {
            return Err(fault);
        }
        self.nothing_early()?;
        self.client.release();
        self.wire.input.release();
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.wire.read(left).await {
                Ok(()) => self.nothing_early()?,
                Err(WireError::TimedOut) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
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
        let allowed = self.timeout(awaited);
        loop {
            if let Some((found, reply)) = self.client.next(&mut self.wire.input)? {
                debug_assert_eq!(found, awaited);
                self.waits_since = None;
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
            self.exchange(allowed).await?;
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

    fn timeout(&self, awaited: Awaited) -> Duration {
        let timeouts = &self.timeouts;
        match awaited {
            Awaited::Greeting => timeouts.greeting,
            Awaited::Mail => timeouts.mail,
            Awaited::Recipient => timeouts.recipient,
            Awaited::Data => timeouts.data,
            Awaited::EndOfData | Awaited::Chunk => timeouts.end_of_data,
            Awaited::Quit => timeouts.quit,
            Awaited::Auth | Awaited::Hello | Awaited::Noop | Awaited::Reset | Awaited::StartTls => {
                timeouts.command
            }
        }
    }
}

fn no_verdict_yet(due: Due) -> PartVerdict {
    PartVerdict {
        named: due.named,
        recipients: Vec::with_capacity(due.recipients),
        ..PartVerdict::default()
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
mod tests;
