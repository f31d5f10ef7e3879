//! All that the future depends on: what is durable, what is in memory, and what is on the wire.

use std::hash::{Hash, Hasher};

use super::{FAULTS_MAX, MAILS_MAX, Mutation, Ownership, RECIPIENTS_MAX, TRANSACTIONS_MAX};

/// A mask without a recipient.
pub(super) const NOBODY: u8 = 0;
/// Each fault makes the sender send at most one mail again.
const MESSAGES_MAX: usize = MAILS_MAX + FAULTS_MAX as usize;

/// Everything at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct State {
    /// The sender and his connection.
    pub sender: Sender,
    /// Messages in the order in which they came.
    pub messages: [Message; MESSAGES_MAX],
    /// What is under way in the sessions of all pullers: a window's worth for each, in the order of the wire.
    pub transactions: [Transaction; TRANSACTIONS_MAX],
    /// Losses and crashes that may still come.
    pub faults_left: u8,
    /// Refusals that may still come.
    pub refusals_left: u8,
    /// What a step did that must never be done.
    pub broken: Option<&'static str>,
}

/// The sender sends one mail after the other, each until he saw a 250.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sender {
    /// The mail that is under way.
    pub mail: u8,
    /// How far it has come.
    pub phase: Sending,
    /// The message that it has become, while somebody still cares for that.
    pub message: Option<u8>,
}

/// How far a mail is on its way into the relay.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Sending {
    /// Its content is on the wire.
    #[default]
    Sent,
    /// The relay has it and commits.
    Waiting,
    /// The 250 is on the wire.
    Answered,
}

/// A message as the relay, the journals and the corporate server know it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Message {
    /// Whether the queue has it.
    pub stage: Stage,
    /// The sender read a 250.
    pub acknowledged: bool,
    /// All its recipients.
    pub recipients: u8,
    /// Recipients of the delivery that is left.
    pub left: u8,
    /// The number of that delivery: with the message it is the delivery id.
    pub number: u8,
    /// The delivery waits until a time.
    pub deferred: bool,
    /// Recipients who were refused for good: kept, shown, and reported.
    pub failed: u8,
    /// In memory: verdicts that were read and wait for the commit.
    pub settling: Option<[Verdict; RECIPIENTS_MAX]>,
    /// Durable at the pullers: recipients taken, by journal and delivery number.
    pub journals: [[u8; 2]; 2],
    /// Recipients who have it in the corporate server.
    pub inside: u8,
    /// How often each recipient may still get it: once, and once more each time that a fault struck between the
    /// server's own 250 and the journal's commit.
    pub may_take: [u8; RECIPIENTS_MAX],
}

/// Where a message is in the queue.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Stage {
    /// There is no such message.
    #[default]
    Unused,
    /// In memory, waiting for the commit.
    Pending,
    /// Durable.
    Stored,
    /// It never became durable.
    Gone,
    /// Settled for every recipient: nobody's concern any more.
    Over,
}

/// A message under way in a session, from the claim to the answer, and its transaction with the corporate server.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Transaction {
    /// How far the transaction has come.
    pub phase: Phase,
    /// Whether the relay is still there. Without it the puller ends what it has in hand.
    pub linked: bool,
    /// The message.
    pub message: u8,
    /// The number of its delivery.
    pub number: u8,
    /// What was said of each recipient.
    pub verdicts: [Verdict; RECIPIENTS_MAX],
    /// The relay was answered, the journal not written: only by mistake.
    pub unjournaled: bool,
}

/// How far a transaction has come.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    /// None under way.
    #[default]
    Idle,
    /// MAIL, RCPT and content are on the wire to the puller.
    Offered,
    /// The puller has the id in hand and asks the corporate server.
    Begun,
    /// The recipients are decided.
    Asked,
    /// The whole content is on the wire to the corporate server.
    Content,
    /// The corporate server has it; its 250 is on the wire.
    Inside,
    /// The journal commits.
    Journaling,
    /// The puller is through with it; its answer waits until those before it have gone out.
    Judged,
    /// The answer is on the wire to the relay.
    Answered,
    /// The relay has read an answer that the journal does not know: only by mistake.
    Late,
}

/// What is known of a recipient in a transaction.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Verdict {
    /// Not in this delivery.
    #[default]
    Absent,
    /// Not asked yet.
    Unasked,
    /// 258: taken before.
    Known,
    /// The corporate server accepts him.
    Accepted,
    /// It has the message for him, and the journal knows.
    Taken,
    /// 4yz.
    Deferred,
    /// 5yz.
    Refused,
}

impl State {
    pub(super) fn start(faults: u8, refusals: u8) -> Self {
        assert!(
            faults <= FAULTS_MAX,
            "there is room for the messages of {FAULTS_MAX} faults"
        );
        Self {
            sender: Sender::default(),
            messages: [Message::default(); MESSAGES_MAX],
            transactions: [Transaction::default(); TRANSACTIONS_MAX],
            faults_left: faults,
            refusals_left: refusals,
            broken: None,
        }
    }

    /// Whether the sender was told that all is well, and a recipient will not get the message.
    pub(super) fn is_lost(&self, at: usize) -> bool {
        let message = &self.messages[at];
        let kept = match message.stage {
            Stage::Unused | Stage::Over => return false,
            Stage::Gone => NOBODY,
            Stage::Pending | Stage::Stored => message.left,
        };
        let on_the_way = self
            .transactions
            .iter()
            .filter(|transaction| transaction.has(at));
        let on_the_way =
            on_the_way.fold(NOBODY, |all, transaction| all | transaction.mask(|_| true));
        let safe = kept | message.inside | message.failed | on_the_way;
        message.acknowledged && message.recipients & !safe != NOBODY
    }

    /// Whether a live transaction or a settlement under way holds the delivery: the lease, in the relay's memory.
    pub(super) fn is_leased(&self, at: usize) -> bool {
        let holds = |transaction: &Transaction| transaction.linked && transaction.has(at);
        self.messages[at].settling.is_some() || self.transactions.iter().any(holds)
    }

    /// Leaves out what nothing depends on any more, so that states that differ in nothing else are one.
    pub(super) fn forget(&mut self, model: &Ownership) {
        for window in self.transactions.chunks_exact_mut(model.window) {
            close_gaps(window);
            send_answers(window, model.has(Mutation::AnswerOutOfOrder));
        }
        for at in 0..self.messages.len() {
            self.forget_message(at);
        }
        // With a mistake planted the search is short, and the way to it reads better when nobody changes places.
        if model.mutation.is_none() {
            self.close_ranks();
            self.order_sessions(model);
        }
    }

    fn forget_message(&mut self, at: usize) {
        let is_lost = self.is_lost(at);
        if is_lost
            || self
                .transactions
                .iter()
                .any(|transaction| transaction.has(at))
        {
            return;
        }
        let message = &mut self.messages[at];
        let is_over = match message.stage {
            Stage::Gone => true,
            Stage::Stored => message.left == NOBODY && message.settling.is_none(),
            Stage::Over | Stage::Pending | Stage::Unused => false,
        };
        if is_over {
            *message = Message {
                stage: Stage::Over,
                ..Message::default()
            };
            if self
                .sender
                .message
                .is_some_and(|own| usize::from(own) == at)
            {
                self.sender.message = None;
            }
        }
        for (recipient, may_take) in message.may_take.iter_mut().enumerate() {
            if message.left & 1 << recipient == 0 {
                *may_take = 0;
            }
        }
    }

    /// Messages that are over make room; the others keep their order.
    fn close_ranks(&mut self) {
        let mut kept = 0;
        for at in 0..self.messages.len() {
            if matches!(self.messages[at].stage, Stage::Over | Stage::Unused) {
                self.messages[at] = Message::default();
                continue;
            }
            if at != kept {
                self.move_message(at, kept);
            }
            kept += 1;
        }
    }

    fn move_message(&mut self, from: usize, to: usize) {
        self.messages[to] = std::mem::take(&mut self.messages[from]);
        let index = |at: usize| u8::try_from(at).expect("there are few messages");
        let own = self.sender.message.iter_mut();
        let theirs = self
            .transactions
            .iter_mut()
            .filter(|transaction| transaction.phase != Phase::Idle);
        for place in own.chain(theirs.map(|transaction| &mut transaction.message)) {
            if *place == index(from) {
                *place = index(to);
            }
        }
    }

    /// Sessions of one puller are alike, and so are pullers: their order means nothing.
    fn order_sessions(&mut self, model: &Ownership) {
        let pullers = &model.sessions;
        let transactions = &mut self.transactions[..model.transactions()];
        if model.window > 1 {
            // Two at most: of one puller, or of two.
            let (one, other) = transactions.split_at_mut(model.window);
            if !other.is_empty() && *one > *other {
                one.swap_with_slice(other);
            }
            return;
        }
        let each = pullers.iter().filter(|puller| **puller == 0).count();
        transactions
            .chunks_mut(each)
            .for_each(<[Transaction]>::sort_unstable);
        if each == 1 {
            transactions.sort_unstable();
        } else if let [one, two, three, four] = transactions
            && (&one, &two) > (&three, &four)
        {
            std::mem::swap(one, three);
            std::mem::swap(two, four);
        }
    }
}

/// What is over makes room in its window; the rest keeps its order.
fn close_gaps(window: &mut [Transaction]) {
    // Stable: `false` comes first.
    window.sort_by_key(|transaction| transaction.phase == Phase::Idle);
}

/// Answers go out in the order of the window.
fn send_answers(window: &mut [Transaction], out_of_order: bool) {
    for transaction in window {
        match transaction.phase {
            Phase::Judged => transaction.phase = Phase::Answered,
            Phase::Answered | Phase::Idle | Phase::Late => {}
            _ if out_of_order => {}
            _ => return,
        }
    }
}

/// A few words in place of a hundred fields: most of the time of a search is spent here.
impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let sender = [
            self.sender.mail,
            self.sender.phase as u8,
            self.sender.message.map_or(0, |at| at + 1),
        ];
        let mut words = [0_u64; 2 + MESSAGES_MAX];
        words[0] = pack(
            pack(0, &sender, 4),
            &[self.faults_left, self.refusals_left],
            4,
        );
        words[0] = words[0] << 1 | u64::from(self.broken.is_some());
        words[1] = self
            .transactions
            .iter()
            .fold(0, |word, transaction| word << 16 | transaction.packed());
        for (word, message) in words[2..].iter_mut().zip(&self.messages) {
            *word = message.packed();
        }
        words.hash(state);
    }
}

fn pack(word: u64, values: &[u8], bits: u32) -> u64 {
    values
        .iter()
        .fold(word, |word, value| word << bits | u64::from(*value))
}

impl Message {
    /// One that the relay has just read.
    pub(super) fn new(recipients: u8) -> Self {
        Self {
            stage: Stage::Pending,
            recipients,
            left: recipients,
            may_take: [1; RECIPIENTS_MAX],
            ..Self::default()
        }
    }

    fn packed(&self) -> u64 {
        let flags = [
            u8::from(self.acknowledged),
            u8::from(self.deferred),
            self.number,
            u8::from(self.settling.is_some()),
        ];
        let masks = [self.recipients, self.left, self.failed, self.inside];
        let word = pack(self.stage as u64, &flags, 1);
        let word = pack(pack(word, &masks, 2), &self.may_take, 3);
        let word = pack(word, self.journals.as_flattened(), 2);
        self.settling
            .iter()
            .flatten()
            .fold(word, |word, verdict| word << 3 | *verdict as u64)
    }

    /// The settlement's part of a commit.
    pub(super) fn settle(&mut self, model: &Ownership) {
        let Some(verdicts) = self.settling.take() else {
            return;
        };
        let with =
            |wanted: &[Verdict]| mask(&verdicts, |verdict| wanted.contains(&verdict)) & self.left;
        let delivered = with(&[Verdict::Known, Verdict::Taken]);
        let refused = with(&[Verdict::Refused]);
        let deferred = with(&[Verdict::Deferred]);
        let left = self.left & !delivered & !refused;
        if model.has(Mutation::NewIdForTheRest) {
            self.number += u8::from(left != self.left && left != NOBODY);
        }
        self.left = left;
        self.failed |= refused;
        self.deferred = deferred != NOBODY;
    }
}

impl Transaction {
    fn packed(&self) -> u64 {
        let word = pack(
            self.phase as u64,
            &[
                u8::from(self.linked),
                u8::from(self.unjournaled),
                self.number,
            ],
            1,
        );
        let word = pack(word, &[self.message], 3);
        self.verdicts
            .iter()
            .fold(word, |word, verdict| word << 3 | *verdict as u64)
    }

    pub(super) fn has(&self, message: usize) -> bool {
        self.phase != Phase::Idle && usize::from(self.message) == message
    }

    /// Recipients of this delivery with such a verdict.
    pub(super) fn mask(&self, wanted: impl Fn(Verdict) -> bool) -> u8 {
        mask(&self.verdicts, |verdict| {
            verdict != Verdict::Absent && wanted(verdict)
        })
    }

    pub(super) fn turn(&mut self, from: &[Verdict], to: Verdict) {
        for verdict in &mut self.verdicts {
            if from.contains(verdict) {
                *verdict = to;
            }
        }
    }

    /// Whether another one must not begin the same id.
    pub(super) fn has_in_hand(&self, other: &Self) -> bool {
        let same = (self.message, self.number) == (other.message, other.number);
        let busy = (Phase::Begun..=Phase::Journaling).contains(&self.phase) || self.unjournaled;
        same && busy
    }

    /// The puller is through with it: an answer goes out, if there is anybody to hear it.
    pub(super) fn answer(&mut self) {
        self.phase = Phase::Judged;
        if !self.linked {
            self.end();
        }
    }

    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}

fn mask(verdicts: &[Verdict; RECIPIENTS_MAX], wanted: impl Fn(Verdict) -> bool) -> u8 {
    let recipients = verdicts.iter().enumerate();
    recipients.fold(NOBODY, |mask, (recipient, verdict)| {
        mask | u8::from(wanted(*verdict)) << recipient
    })
}
