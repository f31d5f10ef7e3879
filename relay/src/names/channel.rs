//! The socket to the resolver child, seen from the mail process: who asked what, and the answers.
//!
//! What is asked by many at once goes to the child once. The number of questions under way is bounded, and each has its
//! time. The child is not trusted: what it says is read with limits, an answer that nobody waits for is dropped, and a child
//! that says what ours would never say is not listened to again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atrn_shared::log;
use jiff::Timestamp;
use tokio::net::UnixDatagram;
use tokio::sync::{mpsc, watch};
use tokio::time::{interval, timeout};
use tracing::{error, info, warn};

use super::cache::Cache;
use super::protocol::{
    ANSWER_OCTETS_MAX, Frame, News, Outcome, Question, Records, Reply, read_frame, write_question,
};
use super::{Answer, Health, State, Trouble};

/// Questions that wait for an answer.
const UNDER_WAY_MAX: usize = 1_000;
/// How much longer than an asker waits the answer is still welcome, for those who ask next.
const GRACE: Duration = Duration::from_secs(1);
/// How often questions are looked for that will have no answer.
const SWEEP: Duration = Duration::from_secs(1);
/// Failures in a row that are worth a line in the log: single names fail all the time.
const FAILURES_MAX: u64 = 10;

type Shared = Arc<Answer<Records>>;

/// Asks the child.
#[derive(Debug)]
pub(super) struct Channel {
    common: Arc<Common>,
    frames: mpsc::Sender<Vec<u8>>,
}

#[derive(Debug)]
struct Common {
    cache: Cache,
    limit: Duration,
    under_way: Mutex<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    last_id: u64,
    questions: BTreeMap<u64, (Question, Instant)>,
    answers: HashMap<Question, watch::Sender<Option<Shared>>>,
    /// Answers so far: more than were asked for is an attack.
    answered: u64,
    failures_in_row: u64,
    health: Health,
}

impl Channel {
    /// Starts to listen. Must be called within a runtime.
    pub(super) fn new(socket: UnixDatagram, limit: Duration, health: Health) -> Self {
        let socket = Arc::new(socket);
        let common = Arc::new(Common {
            cache: Cache::new(),
            limit,
            under_way: Mutex::new(UnderWay {
                last_id: 0,
                questions: BTreeMap::new(),
                answers: HashMap::new(),
                answered: 0,
                failures_in_row: 0,
                health,
            }),
        });
        let (frames, waiting) = mpsc::channel(UNDER_WAY_MAX);
        tokio::spawn(send(Arc::clone(&socket), waiting));
        tokio::spawn(listen(socket, Arc::clone(&common)));
        Self { common, frames }
    }

    /// The answer, from the cache or from the child, within the time for it.
    pub(super) async fn ask(&self, question: Question) -> Shared {
        if let Some(answer) = self.common.cache.find(&question) {
            return answer;
        }
        let mut answer = match self.begin(question) {
            Ok(answer) => answer,
            Err(trouble) => return Arc::new(Answer::Trouble(trouble)),
        };
        let answered = timeout(self.common.limit, answer.wait_for(Option::is_some)).await;
        let trouble = match answered {
            Ok(Ok(answer)) => match &*answer {
                Some(answer) => return Arc::clone(answer),
                None => Trouble::Gone,
            },
            Ok(Err(_)) => Trouble::Gone,
            Err(_) => Trouble::TimedOut,
        };
        Arc::new(Answer::Trouble(trouble))
    }

    pub(super) fn limit(&self) -> Duration {
        self.common.limit
    }

    pub(super) fn health(&self) -> Health {
        self.common.lock().health.clone()
    }

    /// Joins those who wait for this answer, or asks.
    fn begin(&self, question: Question) -> Result<watch::Receiver<Option<Shared>>, Trouble> {
        let mut under_way = self.common.lock();
        if under_way.health.state != State::Running {
            return Err(Trouble::Gone);
        }
        if let Some(answer) = under_way.answers.get(&question) {
            return Ok(answer.subscribe());
        }
        if under_way.questions.len() >= UNDER_WAY_MAX {
            return Err(Trouble::Busy);
        }
        under_way.last_id += 1;
        let id = under_way.last_id;
        self.frames
            .try_send(write_question(id, &question))
            .map_err(|_| Trouble::Busy)?;
        let (sender, receiver) = watch::channel(None);
        under_way.health.asked += 1;
        under_way
            .questions
            .insert(id, (question.clone(), Instant::now()));
        under_way.answers.insert(question, sender);
        Ok(receiver)
    }
}

impl Common {
    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// What our own child would never say.
    fn hear(&self, frame: &[u8]) -> Result<(), &'static str> {
        match read_frame(frame) {
            Some(Frame::Answer(id, reply)) => self.answered(id, reply),
            Some(Frame::News(news)) => {
                self.lock().note_news(news);
                Ok(())
            }
            None => Err("it sent what is no answer"),
        }
    }

    fn answered(&self, id: u64, Reply { outcome, ttl }: Reply) -> Result<(), &'static str> {
        let mut under_way = self.lock();
        under_way.answered += 1;
        if under_way.answered > under_way.last_id {
            return Err("it sent more answers than it was asked for");
        }
        // It came too late, for instance.
        let Some((question, _)) = under_way.questions.remove(&id) else {
            return Ok(());
        };
        let answer: Shared = Arc::new(match outcome {
            Outcome::Found(records) if records.is_for(&question) => Answer::Found(records),
            Outcome::Found(_) => return Err("it answered another question"),
            Outcome::Absent => Answer::Absent,
            Outcome::ServersFailed => Answer::Trouble(Trouble::Servers),
            Outcome::TimedOut => Answer::Trouble(Trouble::TimedOut),
        });
        under_way.note_outcome(&answer);
        let waiting = under_way.answers.remove(&question);
        self.cache.keep(question, Arc::clone(&answer), ttl);
        drop(under_way);
        if let Some(waiting) = waiting {
            waiting.send_replace(Some(answer));
        }
        Ok(())
    }

    /// Questions that were under way when a child ended have no answer.
    fn sweep(&self) {
        let mut under_way = self.lock();
        while let Some((id, (question, since))) = under_way.questions.first_key_value()
            && since.elapsed() > self.limit + GRACE
        {
            let (id, question) = (*id, question.clone());
            under_way.questions.remove(&id);
            under_way.answers.remove(&question);
            under_way.note_outcome(&Answer::Trouble(Trouble::TimedOut));
        }
    }

    fn give_up(&self, reason: &str) {
        let mut under_way = self.lock();
        under_way.health.state = State::Gone;
        under_way.questions.clear();
        under_way.answers.clear();
        error!(
            reason,
            "no names from now on: the resolver is gone; mail goes on without them, until the relay is started again"
        );
    }
}

impl UnderWay {
    fn note_outcome(&mut self, answer: &Answer<Records>) {
        let health = &mut self.health;
        if answer.is_trouble() {
            health.failed += 1;
            health.last_failure = Some(Timestamp::now());
            self.failures_in_row += 1;
            if self.failures_in_row == FAILURES_MAX {
                warn!(servers = %health.servers.join(","), "the name servers do not answer, or cannot");
            }
        } else {
            health.last_answer = Some(Timestamp::now());
            if self.failures_in_row >= FAILURES_MAX {
                info!(servers = %health.servers.join(","), "the name servers answer again");
            }
            self.failures_in_row = 0;
        }
    }

    fn note_news(&mut self, news: News) {
        match news {
            News::Ready(confinement) => {
                info!(sandbox = %log::peer(&confinement), "the resolver was started again");
                self.health.sandbox = log::peer(&confinement).to_string();
            }
            News::Refused(reason) => {
                error!(reason = %log::peer(&reason), "the resolver can not be started again");
            }
            News::Ended(reason) => {
                self.health.restarts += 1;
                warn!(reason = %log::peer(&reason), "the resolver ended; it is started again");
            }
        }
    }
}

/// Questions go out one after the other; a child that takes none holds nobody up but those who ask.
async fn send(socket: Arc<UnixDatagram>, mut waiting: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = waiting.recv().await {
        // That it is gone is noticed by who listens.
        let _ = socket.send(&frame).await;
    }
}

async fn listen(socket: Arc<UnixDatagram>, common: Arc<Common>) {
    let mut sweep = interval(SWEEP);
    // One octet more than may be: so a frame that was cut is told from one that fits. A plain read takes no descriptors.
    let mut frame = vec![0; ANSWER_OCTETS_MAX + 1];
    let reason = loop {
        tokio::select! {
            received = socket.recv(&mut frame) => match received {
                Ok(0) => break "it closed the connection".to_owned(),
                Ok(octets) => {
                    if let Err(reason) = common.hear(&frame[..octets]) {
                        break reason.to_owned();
                    }
                }
                Err(error) => break error.to_string(),
            },
            _ = sweep.tick() => common.sweep(),
        }
    };
    // The child and its guardian end with the connection.
    let _ = socket.shutdown(std::net::Shutdown::Both);
    common.give_up(&reason);
}

impl Records {
    fn is_for(&self, question: &Question) -> bool {
        matches!(
            (self, question),
            (Self::Pointers(_), Question::Pointers(_))
                | (Self::Addresses(_), Question::Addresses(_))
                | (Self::Mx(_), Question::Mx(_))
                | (Self::Txt(_), Question::Txt(_))
                | (Self::Spf(_), Question::Spf(_))
        )
    }
}
