//! Whole messages that are under way side by side: read ahead of their answers, carried by the lanes, written down, and
//! answered in the order in which the relay sent them.
//!
//! Only a small message that comes whole in one flight goes this way, for only that can be kept in memory until the
//! target asks for it. All else waits until nothing is under way, and goes in lock-step.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use atrn_shared::smtp::address::ReversePath;
use atrn_shared::smtp::server::{Framing, Server};

use atrn_shared::smtp::reply::Reply;
use tokio::sync::oneshot;

use super::Session;
use super::lane::{Done, Envelope, Job, Learner, Stamp};
use super::lanes::Lanes;
use super::message::Content;
use super::pause::Pause;
use super::transaction::{Answer, Asked, Stage, Transaction};
use crate::handover::Verdicts;
use crate::journal::{Expectation, JournalError};
use crate::reports::Route;

/// Octets of a message that is kept in memory until the target has it.
const WHOLE_OCTETS_MAX: u64 = 128 * 1024;
/// Messages under way in a session …
const MESSAGES_MAX: usize = 64;
/// … and what they take: content, and addresses as if each were a long one.
const OCTETS_MAX: usize = 2 * 1024 * 1024;
const RECIPIENT_OCTETS: usize = 512;
/// Replies that wait for those before them. A relay that gets none should not be able to ask for more and more.
const REPLIES_DUE_MAX: usize = 4096;

/// All that is under way.
pub(super) struct Stream {
    pub(super) lanes: Lanes,
    /// In the order of the relay.
    transactions: VecDeque<UnderWay>,
    octets: usize,
    /// In the order in which the journal answers.
    commits: VecDeque<Commit>,
    number: u64,
    stamp: Option<Arc<Stamp>>,
    pause: Pause,
}

struct UnderWay {
    number: u64,
    octets: usize,
    transaction: Transaction,
    progress: Progress,
}

enum Progress {
    /// On a lane, or about to be; this comes before its verdict.
    Carried(oneshot::Receiver<Envelope>),
    /// As that, and its envelope is answered. What was said to the content.
    Begun(Option<Reply>),
    /// Being written down; then this is to be said.
    Judged(Vec<Answer>),
    /// To be said when it is its turn.
    Answered(Vec<Answer>),
    /// It was not begun, and will not be.
    Dropped,
}

struct Commit {
    number: u64,
    written: Pin<Box<dyn Future<Output = Result<(), JournalError>> + Send>>,
    /// Until it is known what became of it, the process does not end.
    _expected: Option<Expectation>,
}

/// Something came to its end.
pub(super) enum Progressed {
    Carried {
        done: Option<Box<Done>>,
        dropped: Option<u64>,
    },
    /// The first message takes its time, and its envelope has its answers.
    Begun,
    Written(u64, Result<(), JournalError>),
}

impl Stream {
    pub(super) fn new(lanes: Lanes) -> Self {
        Self {
            lanes,
            transactions: VecDeque::new(),
            octets: 0,
            commits: VecDeque::new(),
            number: 0,
            stamp: None,
            pause: Pause::default(),
        }
    }

    /// Whether nothing waits for its answer.
    pub(super) fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }

    /// Whether anything is at the target, or on its way to the disk.
    pub(super) fn is_busy(&self) -> bool {
        self.lanes.is_busy() || !self.commits.is_empty()
    }

    /// Returns when something comes to its end; never while nothing is under way. Cancel-safe.
    pub(super) async fn progress(&mut self) -> Progressed {
        poll_fn(|context| self.poll_progress(context)).await
    }

    /// What came to its end already, if anything did. Who has just added something lets it begin with this.
    pub(super) async fn at_once(&mut self) -> Option<Progressed> {
        poll_fn(|context| match self.poll_progress(context) {
            Poll::Ready(progressed) => Poll::Ready(Some(progressed)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    fn poll_progress(&mut self, context: &mut Context<'_>) -> Poll<Progressed> {
        if let Some(commit) = self.commits.front_mut()
            && let Poll::Ready(written) = commit.written.as_mut().poll(context)
        {
            let number = commit.number;
            self.commits.pop_front();
            return Poll::Ready(Progressed::Written(number, written));
        }
        if let Poll::Ready((done, dropped)) = self.lanes.poll_done(context) {
            return Poll::Ready(Progressed::Carried { done, dropped });
        }
        match self.transactions.front() {
            Some(UnderWay {
                number,
                progress: Progress::Carried(envelope),
                ..
            }) => {
                let paused = self.pause.poll(*number, !envelope.is_empty(), context);
                paused.map(|()| Progressed::Begun)
            }
            _ => Poll::Pending,
        }
    }

    fn find(&mut self, number: u64) -> Option<&mut UnderWay> {
        let mut transactions = self.transactions.iter_mut();
        transactions.find(|under_way| under_way.number == number)
    }

    /// Begins nothing more. What was not begun is free for others at once.
    pub(super) fn end(&mut self) {
        for number in self.lanes.end() {
            self.dropped(number);
        }
    }

    fn dropped(&mut self, number: u64) {
        if let Some(under_way) = self.find(number) {
            under_way.transaction.message.claim = None;
            under_way.progress = Progress::Dropped;
        }
    }

    /// Says what may be said: in the order of the relay, and nothing behind what has no answer.
    fn answer(&mut self, server: &mut Server) {
        while let Some(front) = self.transactions.front_mut() {
            let Progress::Answered(answers) = &mut front.progress else {
                return;
            };
            say(server, std::mem::take(answers));
            self.octets -= front.octets;
            self.transactions.pop_front();
        }
    }

    fn has_room_for(&self, octets: usize) -> bool {
        self.transactions.len() < MESSAGES_MAX && self.octets + octets <= OCTETS_MAX
    }
}

impl Session<'_> {
    /// Whether more may be read while messages are under way.
    pub(super) fn may_read_on(&self) -> bool {
        self.stream.is_empty() || self.server.replies_due() < REPLIES_DUE_MAX
    }

    /// A message that comes whole is read ahead of its answers; of all else, whether it goes in lock-step now.
    pub(super) async fn read_ahead(&mut self, framing: Framing) -> bool {
        let octets = match framing {
            Framing::Bdat {
                octets: Some(octets),
            } if octets <= WHOLE_OCTETS_MAX && self.open.is_untouched() => octets as usize,
            _ => return false,
        };
        while !self.stream.has_room_for(octets) && self.is_well() {
            self.settle_one().await;
        }
        if !self.is_well() {
            return true;
        }
        self.server.read_ahead();
        if !self.open.group.recipients.is_empty() {
            self.open.group.content = Some(framing);
        }
        self.open.message.content = Some(Content::default());
        self.open.stage = Stage::Ahead(Vec::new());
        true
    }

    /// A message was read ahead: on its way it goes.
    pub(super) async fn submit(&mut self, content: Vec<u8>) {
        let mut transaction = std::mem::replace(&mut self.open, Transaction::none());
        transaction.asked.push(Asked::End);
        transaction.message.content = None;
        transaction.message.refused_here = !self.server.take_refusals().is_empty();
        let octets = content.len() + RECIPIENT_OCTETS * transaction.asked.len();
        let number = self.stream.number;
        self.stream.number += 1;
        self.stream.octets += octets;
        let progress = if transaction.group.mail.is_some() {
            Progress::Carried(self.stream_job(number, &mut transaction, content))
        } else {
            // The answer to MAIL is known, and the machine knows what follows from it.
            let answers = transaction.answers(Verdicts::default(), None, self.terms);
            Progress::Answered(answers)
        };
        self.stream.transactions.push_back(UnderWay {
            number,
            octets,
            transaction,
            progress,
        });
        self.stream.answer(&mut self.server);
        while let Some(progressed) = self.stream.at_once().await {
            self.progressed(progressed);
        }
    }

    fn stream_job(
        &mut self,
        number: u64,
        transaction: &mut Transaction,
        content: Vec<u8>,
    ) -> oneshot::Receiver<Envelope> {
        let hello = self.server.hello();
        let stamp = match &self.stream.stamp {
            Some(stamp) if stamp.is_of(hello) => Arc::clone(stamp),
            _ => Arc::new(Stamp::new(&self.server, &self.wire, self.terms)),
        };
        self.stream.stamp = Some(Arc::clone(&stamp));
        let (learns, envelope) = oneshot::channel();
        let message = &transaction.message;
        let job = Job {
            number,
            sender: sender(&message.reverse_path),
            group: std::mem::take(&mut transaction.group),
            route: std::mem::replace(&mut transaction.route, Route::Inside),
            content,
            smtputf8: message.smtputf8,
            count: message.count,
            stamp,
            learns: Learner(learns),
        };
        self.stream.lanes.add(job);
        envelope
    }

    /// Takes note of what came to its end, and says what may be said now.
    pub(super) fn progressed(&mut self, progressed: Progressed) {
        match progressed {
            Progressed::Carried { done, dropped } => {
                if let Some(number) = dropped {
                    self.stream.dropped(number);
                }
                if let Some(done) = done {
                    self.carried(*done);
                }
            }
            Progressed::Begun => self.answer_envelope(),
            Progressed::Written(number, written) => {
                if let Some(under_way) = self.stream.find(number)
                    && let Progress::Judged(answers) = &mut under_way.progress
                {
                    under_way.progress = Progress::Answered(std::mem::take(answers));
                }
                // Whatever became of the entry: the message is inside, and to have it sent again would be wrong.
                if let Err(error) = written {
                    self.journal_lost(error);
                }
            }
        }
        self.stream.answer(&mut self.server);
    }

    /// The first message has been begun, and its end is not near.
    fn answer_envelope(&mut self) {
        let terms = self.terms;
        let Some(UnderWay {
            transaction,
            progress,
            ..
        }) = self.stream.transactions.front_mut()
        else {
            return;
        };
        let Progress::Carried(envelope) = progress else {
            return;
        };
        let Ok(Envelope {
            group,
            mut verdicts,
        }) = envelope.try_recv()
        else {
            return;
        };
        *progress = Progress::Begun(verdicts.content.take());
        transaction.group = group;
        let end = transaction.asked.pop();
        let answers = transaction.answers(verdicts, None, terms);
        transaction.asked.extend(end);
        say(&mut self.server, answers);
    }

    fn carried(&mut self, done: Done) {
        let Done {
            number,
            verdict,
            octets,
            expected,
            is_exhausted,
        } = done;
        if is_exhausted {
            self.target_lost();
        }
        let terms = self.terms;
        let Some(under_way) = self.stream.find(number) else {
            return;
        };
        let transaction = &mut under_way.transaction;
        let verdicts = match &mut under_way.progress {
            Progress::Carried(envelope) => match envelope.try_recv() {
                Ok(Envelope { group, verdicts }) => {
                    transaction.group = group;
                    verdicts
                }
                Err(_) => Verdicts::default(),
            },
            Progress::Begun(content) => Verdicts {
                content: content.take(),
                ..Verdicts::default()
            },
            Progress::Judged(_) | Progress::Answered(_) | Progress::Dropped => Verdicts::default(),
        };
        let answers = transaction.answers(verdicts, verdict.as_ref(), terms);
        let message = &mut transaction.message;
        match &verdict {
            Some(verdict) => {
                message.judged(verdict, octets, terms);
                self.tally.count(&verdict.reply, octets);
            }
            None => {
                if let Some(refusal) = &message.refusal {
                    self.tally.count(refusal, 0);
                }
            }
        }
        let is_inside = verdict.is_some_and(|verdict| verdict.reply.is_positive());
        match message.claim.take().filter(|_| is_inside) {
            Some(claim) => {
                let written = Box::pin(claim.commit(message.taken()));
                under_way.progress = Progress::Judged(answers);
                self.stream.commits.push_back(Commit {
                    number,
                    written,
                    _expected: expected,
                });
            }
            None => under_way.progress = Progress::Answered(answers),
        }
    }

    /// Waits until nothing is under way, so that the next one can go in lock-step.
    pub(super) async fn settle(&mut self) {
        while self.stream.is_busy() && self.is_well() {
            self.settle_one().await;
        }
    }

    /// What is begun comes to its end and is written down, also when nobody is left to hear of it (OWN-4); all else is free.
    pub(super) async fn settle_begun(&mut self) {
        self.stream.end();
        while self.stream.is_busy() {
            self.settle_one().await;
        }
    }

    /// Waits for one thing to come to its end, and tells the relay meanwhile what there is to tell.
    pub(super) async fn settle_one(&mut self) {
        if self.lost.is_some() || self.server.output.is_empty() {
            let progressed = self.stream.progress().await;
            return self.progressed(progressed);
        }
        let wait = self.terms.limits.reply_timeout;
        tokio::select! {
            biased;
            progressed = self.stream.progress() => self.progressed(progressed),
            outcome = self.wire.write(&mut self.server.output, wait) => self.lost = outcome.err(),
        }
    }
}

fn say(server: &mut Server, answers: Vec<Answer>) {
    for Answer { reply, is_error } in answers {
        server.answer(reply);
        if is_error {
            server.count_error();
        }
    }
}

/// What tells senders apart. Reports have none, and come in no order.
fn sender(path: &ReversePath) -> Option<u64> {
    if *path == ReversePath::Null {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    Some(hasher.finish())
}
