//! The socket to the resolver child, seen from the mail process: who asked what, and the answers.
//!
//! What is asked by many at once goes to the child once. The number of questions under way is bounded, in all and for each
//! client, and each has its time. The child is not trusted: what it says is read with limits, an answer that nobody waits for is dropped, and a child
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
use super::places::{Asker, PLACES, Place, Places};
use super::protocol::{
    ANSWER_OCTETS_MAX, Frame, News, Outcome, Question, Records, Reply, read_frame, write_question,
};
use super::{Answer, Health, State, Trouble};

/// How much longer than an asker waits the answer is still welcome, for those who ask next.
const GRACE: Duration = Duration::from_secs(1);
/// How often questions are looked for that will have no answer.
const SWEEP: Duration = Duration::from_secs(1);
/// Failures in a row that are worth a line in the log: single names fail all the time.
const FAILURES_MAX: u64 = 10;

type Shared = Arc<Answer<Records>>;
type Receiver = watch::Receiver<Option<Shared>>;

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
    places: Places,
    under_way: Mutex<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    last_id: u64,
    questions: BTreeMap<u64, Asked>,
    answers: HashMap<Question, watch::Sender<Option<Shared>>>,
    /// Answers so far: more than were asked for is an attack.
    answered: u64,
    failures_in_row: u64,
    health: Health,
}

#[derive(Debug)]
struct Asked {
    question: Question,
    since: Instant,
    _place: Place,
}

impl Channel {
    /// Starts to listen. Must be called within a runtime.
    pub(super) fn new(socket: UnixDatagram, limit: Duration, health: Health) -> Self {
        let socket = Arc::new(socket);
        let common = Arc::new(Common {
            cache: Cache::new(),
            limit,
            places: Places::new(),
            under_way: Mutex::new(UnderWay {
                last_id: 0,
                questions: BTreeMap::new(),
                answers: HashMap::new(),
                answered: 0,
                failures_in_row: 0,
                health,
            }),
        });
        let (frames, waiting) = mpsc::channel(PLACES);
        tokio::spawn(send(Arc::clone(&socket), waiting));
        tokio::spawn(listen(socket, Arc::clone(&common)));
        Self { common, frames }
    }

    /// The answer, from the cache or from the child, within the time for it.
    pub(super) async fn ask(&self, asker: Asker, question: Question) -> Shared {
        if let Some(answer) = self.common.cache.find(&question) {
            return answer;
        }
        let answered = timeout(self.common.limit, self.ask_child(asker, question)).await;
        let answered = answered.unwrap_or(Err(Trouble::TimedOut));
        answered.unwrap_or_else(|trouble| Arc::new(Answer::Trouble(trouble)))
    }

    async fn ask_child(&self, asker: Asker, question: Question) -> Result<Shared, Trouble> {
        let mut answer = match self.join(&question)? {
            Some(answer) => answer,
            None => {
                let place = self.common.places.take(asker).await?;
                // There may have been a wait.
                if let Some(answer) = self.common.cache.find(&question) {
                    return Ok(answer);
                }
                self.begin(question, place)?
            }
        };
        let answer = answer.wait_for(Option::is_some).await;
        let answer = answer.map_err(|_| Trouble::Gone)?;
        answer.clone().ok_or(Trouble::Gone)
    }

    pub(super) fn limit(&self) -> Duration {
        self.common.limit
    }

    pub(super) fn health(&self) -> Health {
        self.common.lock().health.clone()
    }

    /// Joins those who wait for this answer, if anybody does.
    fn join(&self, question: &Question) -> Result<Option<Receiver>, Trouble> {
        self.common.lock().join(question)
    }

    /// Asks, or joins those who wait for this answer.
    fn begin(&self, question: Question, place: Place) -> Result<Receiver, Trouble> {
        let mut under_way = self.common.lock();
        if let Some(answer) = under_way.join(&question)? {
            return Ok(answer);
        }
        under_way.last_id += 1;
        let id = under_way.last_id;
        self.frames
            .try_send(write_question(id, &question))
            .map_err(|_| Trouble::Busy)?;
        let (sender, receiver) = watch::channel(None);
        under_way.health.asked += 1;
        let asked = Asked {
            question: question.clone(),
            since: Instant::now(),
            _place: place,
        };
        under_way.questions.insert(id, asked);
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
        let Some(Asked { question, .. }) = under_way.questions.remove(&id) else {
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
        while let Some(oldest) = under_way.questions.first_entry()
            && oldest.get().since.elapsed() > self.limit + GRACE
        {
            let Asked { question, .. } = oldest.remove();
            under_way.answers.remove(&question);
            under_way.note_outcome(&Answer::Trouble(Trouble::TimedOut));
        }
        drop(under_way);
        self.places.sweep();
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
    fn join(&self, question: &Question) -> Result<Option<Receiver>, Trouble> {
        match self.health.state {
            State::Running => Ok(self.answers.get(question).map(watch::Sender::subscribe)),
            State::Gone => Err(Trouble::Gone),
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::IpAddr;

    use crate::limits::Origin;
    use crate::names::protocol::{Name, read_question, write_frame};

    fn health() -> Health {
        Health {
            state: State::Running,
            servers: Vec::new(),
            transport: String::new(),
            sandbox: String::new(),
            asked: 0,
            failed: 0,
            restarts: 0,
            last_answer: None,
            last_failure: None,
        }
    }

    /// A child whose name servers say nothing of `slow.example`, and that there is nothing else.
    async fn answer_some(socket: UnixDatagram) {
        let mut frame = vec![0; ANSWER_OCTETS_MAX];
        loop {
            let octets = socket.recv(&mut frame).await.unwrap();
            let Some((id, Question::Mx(name))) = read_question(&frame[..octets]) else {
                return;
            };
            if !name.as_str().ends_with("slow.example") {
                let outcome = Outcome::Absent;
                let reply = Reply { outcome, ttl: 60 };
                socket
                    .send(&write_frame(&Frame::Answer(id, reply)))
                    .await
                    .unwrap();
            }
        }
    }

    fn mx(name: &str) -> Question {
        Question::Mx(Name::parse(name).unwrap())
    }

    fn asker(client: &str) -> Asker {
        let client: IpAddr = client.parse().unwrap();
        Asker {
            client: Some(Origin::of(client)),
            is_arrival: false,
        }
    }

    #[tokio::test]
    async fn whose_questions_have_no_answer_takes_none_from_others() {
        let (ours, childs) = UnixDatagram::pair().unwrap();
        tokio::spawn(answer_some(childs));
        let channel = Arc::new(Channel::new(ours, Duration::from_secs(3_600), health()));
        for number in 0..2 * PLACES {
            let channel = Arc::clone(&channel);
            let question = mx(&format!("{number}.slow.example"));
            let asked =
                tokio::spawn(async move { channel.ask(asker("192.0.2.1"), question).await });
            tokio::task::yield_now().await;
            // As at the end of a transaction.
            if number % 2 == 0 {
                asked.abort();
            }
        }
        let answer = channel.ask(asker("192.0.2.2"), mx("honest.example")).await;
        assert_eq!(*answer, Answer::Absent);
        assert!(channel.common.lock().questions.len() < PLACES / 10);
    }
}
