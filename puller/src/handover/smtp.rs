//! The hand-over to a server: SMTP or LMTP, one connection for a whole session.
//!
//! A connection that breaks costs the message under way a `451`; the next message opens another one. A part of an
//! envelope that met a connection gone stale is tried once more on a new one: no content has flowed, so nothing can
//! arrive twice.

use std::time::Duration;

use atrn_shared::dialogue::{Dialogue, Due, LinkFault, Part, PartVerdict};
use atrn_shared::log::peer;
use atrn_shared::smtp::address::ReversePath;
use atrn_shared::smtp::client::{Dialect, Needs};
use atrn_shared::smtp::parameter::{BodyType, MailParameters};
use atrn_shared::smtp::reply::Reply;
use atrn_shared::smtp::server::Framing;
use atrn_shared::wire::WireError;
use tracing::{debug, warn};

use super::connect::{ConnectError, connect};
use super::verdict::{self, Names, Verdict};
use super::{Group, Setup, Verdicts};

/// Faults of the link in a row after which more mail is no use.
const FAULTS_MAX: u32 = 3;
/// For a new connection in mid session, all of it: the relay waits five minutes for the answer to MAIL (R5321-41).
pub(crate) const RECONNECT_TIMEOUT: Duration = Duration::from_secs(120);
/// Room in SIZE for the trace header that is added on the way.
const TRACE_OCTETS: u64 = 512;

/// A server, and how far the transaction on its connection has come.
#[derive(Debug)]
pub struct Smtp {
    setup: Setup,
    names: Names,
    /// `None` after a fault: the next message opens another one.
    dialogue: Option<Dialogue>,
    /// As it said in its last hello.
    offers_dsn: bool,
    stage: Stage,
    /// The envelope of the next message is out already: the replies that are due.
    ahead: Option<Due>,
    /// The connection was closed, by us or by the target, while nothing was wrong.
    was_quiet: bool,
    faults: u32,
}

#[derive(Debug)]
enum Stage {
    /// No transaction.
    Idle,
    /// Commands were accepted.
    Envelope { accepted: usize },
    /// Content flows.
    Content { accepted: usize, octets: u64 },
    /// The rest of the content is dropped; this is the verdict at its end.
    Refused(Reply),
}

impl Smtp {
    pub(super) async fn open(setup: Setup) -> Result<Self, ConnectError> {
        let (dialogue, names) = connect(&setup).await?;
        let mut smtp = Self {
            setup,
            names: Names::default(),
            dialogue: None,
            offers_dsn: false,
            stage: Stage::Idle,
            ahead: None,
            was_quiet: false,
            faults: 0,
        };
        smtp.connected(dialogue, names);
        Ok(smtp)
    }

    pub(super) fn offers_dsn(&self) -> bool {
        self.offers_dsn
    }

    /// Says goodbye to a target that has nothing to do; the next MAIL opens another connection.
    pub(super) async fn rest(&mut self) {
        if !matches!(self.stage, Stage::Idle) {
            return;
        }
        if let Some(dialogue) = self.dialogue.take() {
            self.was_quiet = true;
            dialogue.quit().await;
        }
    }

    pub(super) fn setup(&self) -> &Setup {
        &self.setup
    }

    /// A target that answers now: on the connection that is there, or on a new one.
    pub(super) async fn be_ready(&mut self) -> Result<(), ConnectError> {
        if let Some(mut dialogue) = self.dialogue.take() {
            match dialogue.reset().await {
                Ok(()) => {
                    self.dialogue = Some(dialogue);
                    return Ok(());
                }
                // Connections grow old. Whether the target is there, a new one tells.
                Err(fault) => {
                    debug!(target = %self.setup.config.target, reason = %peer(&fault.to_string()), "the connection is of no more use")
                }
            }
        }
        let (dialogue, names) = connect(&self.setup).await?;
        self.connected(dialogue, names);
        self.faults = 0;
        Ok(())
    }

    fn connected(&mut self, dialogue: Dialogue, names: Names) {
        self.offers_dsn = dialogue.client().extensions().dsn;
        self.dialogue = Some(dialogue);
        self.names = names;
        self.stage = Stage::Idle;
        self.ahead = None;
        self.was_quiet = false;
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.faults >= FAULTS_MAX
    }

    pub(super) async fn begin(&mut self, group: &Group) -> Verdicts {
        let is_new = group.mail.is_some();
        let mut outcome = match self.ahead.take() {
            Some(due) => self.asked(due).await,
            None => {
                if is_new {
                    self.stage = Stage::Idle;
                    if let Err(reply) = self.ready(group).await {
                        return Verdicts::all(group, &reply);
                    }
                }
                self.ask(group).await
            }
        };
        if let (true, Some(Err(fault))) = (is_new, &outcome)
            && is_stale(fault)
        {
            self.lose(fault);
            // Gone when we came back to it: if nobody opens now, it was not this connection only.
            self.was_quiet = true;
            outcome = match self.ready(group).await {
                Ok(()) => self.ask(group).await,
                Err(reply) => return Verdicts::all(group, &reply),
            };
        }
        match outcome {
            Some(Ok(PartVerdict {
                mail: Some(said), ..
            })) if is_locked_out(&said) => {
                self.lose(&LinkFault::Unavailable(said));
                Verdicts::all(group, &verdict::locked_out())
            }
            Some(Ok(verdict)) => self.judge(group, &verdict),
            Some(Err(fault)) => {
                self.lose(&fault);
                Verdicts::all(group, &verdict::link_lost())
            }
            None => Verdicts::all(group, &verdict::link_lost()),
        }
    }

    /// A connection, and a target on it that can carry the message.
    async fn ready(&mut self, group: &Group) -> Result<(), Reply> {
        if self.dialogue.is_none() {
            self.reconnect().await?;
        }
        let Some(dialogue) = &self.dialogue else {
            return Err(verdict::unreachable());
        };
        dialogue.client().can_carry(&needs(group))
    }

    async fn reconnect(&mut self) -> Result<(), Reply> {
        let outcome = tokio::time::timeout(RECONNECT_TIMEOUT, connect(&self.setup)).await;
        let reason = match outcome {
            Ok(Ok((dialogue, names))) => {
                self.connected(dialogue, names);
                return Ok(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took too long".to_owned(),
        };
        // One that worked as long as it was asked and is not there now is not there for the next message either.
        self.faults = match std::mem::take(&mut self.was_quiet) {
            true => FAULTS_MAX,
            false => self.faults + 1,
        };
        warn!(target = %self.setup.config.target, reason = %peer(&reason), "cannot reach the hand-over target");
        Err(verdict::unreachable())
    }

    /// `None` when there is no connection.
    async fn ask(&mut self, group: &Group) -> Option<Result<PartVerdict, LinkFault>> {
        let accepted = match self.stage {
            Stage::Envelope { accepted } => accepted,
            _ => 0,
        };
        let dialogue = self.dialogue.as_mut()?;
        let mail = mail_to_target(group);
        let part = part(group, mail.as_ref(), accepted);
        Some(match dialogue.client().dialect() {
            Dialect::Smtp => dialogue.part(&part).await,
            Dialect::Lmtp => ask_lmtp(dialogue, part).await,
        })
    }

    /// The replies to an envelope that was begun behind the message before it.
    async fn asked(&mut self, due: Due) -> Option<Result<PartVerdict, LinkFault>> {
        Some(self.dialogue.as_mut()?.envelope_verdict(due).await)
    }

    /// From the target's replies to those for the relay, one for each command.
    fn judge(&mut self, group: &Group, said: &PartVerdict) -> Verdicts {
        let before = match self.stage {
            Stage::Envelope { accepted } => accepted,
            _ => 0,
        };
        let accepted = before + said.accepted();
        let names = &self.names;
        let mut recipients: Vec<_> = said
            .recipients
            .iter()
            .map(|said| names.verdict(said, &verdict::recipient_ok()))
            .collect();
        // What was not worth asking stands behind a sender that was refused.
        recipients.resize(group.recipients.len(), bad_sequence());
        let content = group.content.map(|_| match &said.data {
            Some(reply) if reply.is_intermediate() => verdict::go_ahead(),
            Some(reply) => names.verdict(reply, &bad_sequence()),
            None => Reply::new(554, "5.5.1", "No valid recipients"),
        });
        self.stage = match &content {
            Some(reply) if reply.is_intermediate() => Stage::Content {
                accepted,
                octets: 0,
            },
            _ => Stage::Envelope { accepted },
        };
        let mail = said.mail.as_ref();
        if mail.is_some_and(|mail| !mail.is_positive()) {
            self.stage = Stage::Idle;
        }
        Verdicts {
            mail: mail.map(|said| names.verdict(said, &verdict::sender_ok())),
            recipients,
            content,
        }
    }

    pub(super) async fn body(&mut self, part: &[u8]) {
        let (Stage::Content { octets, .. }, Some(dialogue)) = (&mut self.stage, &mut self.dialogue)
        else {
            return;
        };
        *octets += part.len() as u64;
        let offered = dialogue.client().extensions();
        let found = Needs {
            octets: *octets,
            eight_bit: !offered.eight_bit_mime && !part.is_ascii(),
            smtputf8: false,
        };
        if let Err(reply) = dialogue.client().can_carry(&found) {
            // What has flowed already must not become a message: no end of data, no connection.
            self.dialogue = None;
            self.stage = Stage::Refused(reply);
        } else if let Err(fault) = dialogue.content(part).await {
            self.lose(&fault);
            self.stage = Stage::Refused(verdict::link_lost());
        }
    }

    /// The end of the content, and behind it, where the target takes that, the envelope of the message that is
    /// [begun](Self::begin) next: one round trip a message and not two (RFC 2920 §3.1).
    pub(super) async fn finish(&mut self, next: Option<&Group>) -> Verdict {
        let stage = std::mem::replace(&mut self.stage, Stage::Idle);
        let (Stage::Content { accepted, .. }, Some(dialogue)) = (&stage, &mut self.dialogue) else {
            let reply = match stage {
                Stage::Refused(reply) => reply,
                _ => verdict::link_lost(),
            };
            return Verdict::ours(reply);
        };
        let said = match finish_on(dialogue, *accepted, next).await {
            Ok((said, ahead)) => {
                self.ahead = ahead;
                said
            }
            Err(fault) => {
                self.lose(&fault);
                None
            }
        };
        match said {
            Some(said) => {
                self.faults = 0;
                let reply = self.names.verdict(&said, &verdict::taken());
                Verdict { reply, said }
            }
            None => Verdict::ours(verdict::link_lost()),
        }
    }

    pub(super) async fn abandon(&mut self) {
        if self.ahead.take().is_some() {
            self.dialogue = None;
        }
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Idle | Stage::Refused(_) => {}
            Stage::Content { .. } => self.dialogue = None,
            Stage::Envelope { .. } => {
                if let Some(dialogue) = &mut self.dialogue
                    && let Err(fault) = dialogue.reset().await
                {
                    self.lose(&fault);
                }
            }
        }
    }

    pub(super) async fn quit(self) {
        let is_busy = self.ahead.is_some() || matches!(self.stage, Stage::Content { .. });
        if let (Some(dialogue), false) = (self.dialogue, is_busy) {
            dialogue.quit().await;
        }
    }

    /// The connection is of no more use.
    fn lose(&mut self, fault: &LinkFault) {
        self.dialogue = None;
        self.stage = Stage::Idle;
        self.ahead = None;
        self.faults += 1;
        let reason = fault.to_string();
        warn!(target = %self.setup.config.target, reason = %peer(&reason), "lost the hand-over target");
    }
}

/// Ends the content and begins the next envelope; the target's word, and the replies that are due to the envelope.
async fn finish_on(
    dialogue: &mut Dialogue,
    accepted: usize,
    next: Option<&Group>,
) -> Result<(Option<Reply>, Option<Due>), LinkFault> {
    dialogue.begin_end_of_data(accepted)?;
    let ahead = next
        .filter(|next| may_follow(dialogue, next))
        .map(|next| dialogue.begin_envelope(&part(next, mail_to_target(next).as_ref(), 0)));
    let said = dialogue.verdicts().await?.into_iter().next();
    Ok((said, ahead))
}

/// Whether the envelope may go out before the verdict on the message in front of it.
fn may_follow(dialogue: &Dialogue, next: &Group) -> bool {
    let client = dialogue.client();
    client.extensions().pipelining
        && next.mail.is_some()
        && (client.dialect() == Dialect::Smtp || next.recipients.len() == 1)
        && client.can_carry(&needs(next)).is_ok()
}

/// MAIL as the target gets it.
fn mail_to_target(group: &Group) -> Option<(&ReversePath, MailParameters)> {
    let (path, parameters) = group.mail.as_ref()?;
    let parameters = MailParameters {
        size: parameters
            .size
            .map(|size| size.saturating_add(TRACE_OCTETS)),
        // A name between the relay and us; the target's 258 to it would be no word of ours.
        delivery_id: None,
        ..parameters.clone()
    };
    Some((path, parameters))
}

fn part<'g>(
    group: &'g Group,
    mail: Option<&'g (&ReversePath, MailParameters)>,
    accepted: usize,
) -> Part<'g> {
    Part {
        mail: mail.map(|(path, parameters)| (*path, parameters)),
        recipients: &group.recipients,
        data: group.content.is_some(),
        accepted,
    }
}

/// R2033-1: LMTP answers for each recipient after the content, and the relay hears one reply only. So there is one
/// recipient to a transaction, the first that the target takes.
async fn ask_lmtp(dialogue: &mut Dialogue, whole: Part<'_>) -> Result<PartVerdict, LinkFault> {
    let mut verdict = PartVerdict::default();
    let mut mail = whole.mail;
    let mut accepted = whole.accepted;
    let count = whole.recipients.len();
    for (position, recipient) in whole.recipients.iter().enumerate() {
        if accepted > 0 {
            verdict.recipients.push(Reply::new(
                452,
                "4.5.3",
                "One recipient at a time; send the others in another transaction",
            ));
            continue;
        }
        let part = Part {
            mail: mail.take(),
            recipients: std::slice::from_ref(recipient),
            data: whole.data && position + 1 == count,
            accepted,
        };
        let mut said = dialogue.part(&part).await?;
        accepted += said.accepted();
        verdict.recipients.append(&mut said.recipients);
        verdict.mail = verdict.mail.or(said.mail);
        verdict.data = said.data;
        if verdict
            .mail
            .as_ref()
            .is_some_and(|mail| !mail.is_positive())
        {
            return Ok(verdict);
        }
    }
    let rest_is_due = mail.is_some() || (whole.data && verdict.data.is_none() && accepted > 0);
    if rest_is_due {
        let part = Part {
            mail,
            recipients: &[],
            data: whole.data,
            accepted,
        };
        let said = dialogue.part(&part).await?;
        verdict.mail = verdict.mail.or(said.mail);
        verdict.data = said.data;
    }
    Ok(verdict)
}

/// What is known of the message before its content comes (R1870-3, R6152-2, R6531-2).
fn needs(group: &Group) -> Needs {
    let mut needs = Needs::default();
    if let Some((path, parameters)) = &group.mail {
        needs.octets = parameters.size.unwrap_or(0);
        needs.eight_bit = parameters.body == Some(BodyType::EightBitMime);
        needs.smtputf8 = parameters.smtputf8 || !path.is_ascii();
    }
    if let Some(Framing::Bdat {
        octets: Some(octets),
    }) = group.content
    {
        needs.octets = octets;
    }
    needs
}

/// Whether the connection was gone before we spoke, rather than the target slow or out of its mind.
fn is_stale(fault: &LinkFault) -> bool {
    match fault {
        LinkFault::Unavailable(_) => true,
        LinkFault::Wire(error) => !matches!(error, WireError::TimedOut),
        LinkFault::Protocol(_) => false,
    }
}

/// Encrypt first, log in first, log in otherwise (RFC 3207 §4, RFC 4954 §4 and §6): that is about us, and no verdict
/// on a message (R5321-27).
fn is_locked_out(said: &Reply) -> bool {
    matches!(said.code(), 530 | 534 | 535 | 538)
}

fn bad_sequence() -> Reply {
    Reply::new(503, "5.5.1", "The sender was refused")
}
