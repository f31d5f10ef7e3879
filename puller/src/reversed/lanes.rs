//! The pool of lanes: whole messages go on side by side, and those of one sender one behind the other.
//!
//! A message waits here until a lane has room for it, which is for one that is on its way and one whose envelope goes
//! out behind that. Mail of one sender stays on the lane that has any of it. A further connection is opened while
//! mail waits that it could take, and costs no message when it fails. All of this runs inside the session's own task:
//! whoever drops the session drops all of it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use atrn_shared::log::peer;
use tokio::time::{Instant, timeout};
use tracing::info;

use super::lane::{Done, Job, Ride, Way};
use crate::handover::{Handover, Opener, RECONNECT_TIMEOUT, Verdict};
use crate::journal::Journal;
use crate::reports::{Draft, Outside};

/// So many messages wait in vain before another connection is opened.
const WAITING_FOR_ANOTHER: usize = 2;
/// A target that took no further connection is not asked for one again before that.
pub(super) const ANOTHER_PAUSE: Duration = Duration::from_secs(60);

/// All lanes of a session.
pub(super) struct Lanes {
    journal: Journal,
    opener: Opener,
    /// The first connection, the way outside if there is one, further connections.
    seats: Vec<Seat>,
    has_outside: bool,
    running: Vec<Running>,
    /// A further connection.
    opening: Option<Opening>,
    waiting: VecDeque<Box<Job>>,
    connections_max: usize,
    /// Until then the target takes no further connection.
    none_before: Option<Instant>,
    /// Nothing more is begun.
    is_ending: bool,
}

/// A lane's place.
enum Seat {
    Idle(Way),
    /// Away, with mail of these senders.
    Busy {
        senders: [Option<u64>; 2],
    },
    /// It ended in the middle of an envelope.
    Closed,
}

type Running = Pin<Box<dyn Future<Output = Carried> + Send>>;
type Opening = Pin<Box<dyn Future<Output = Option<Handover>> + Send>>;

/// The message on a lane came to its end.
struct Carried {
    seat: usize,
    way: Way,
    done: Box<Done>,
    following: Option<Box<Job>>,
}

impl Lanes {
    pub(super) fn new(handover: Handover, outside: Option<Outside>, journal: Journal) -> Self {
        let (opener, has_outside) = (handover.opener(), outside.is_some());
        let connections_max = opener.connections_max();
        let mut seats = vec![Seat::Idle(Way::Inside(handover))];
        seats.extend(outside.map(|outside| Seat::Idle(Way::Outside(Box::new(outside)))));
        Self {
            journal,
            opener,
            seats,
            has_outside,
            running: Vec::new(),
            opening: None,
            waiting: VecDeque::new(),
            connections_max,
            none_before: None,
            is_ending: false,
        }
    }

    /// Whether any message is on its way.
    pub(super) fn is_busy(&self) -> bool {
        let mut seats = self.seats.iter();
        seats.any(|seat| matches!(seat, Seat::Busy { .. }))
    }

    /// Whether a further connection is about to be there. It greets also while there is no mail, or the target waits in vain.
    pub(super) fn is_opening(&self) -> bool {
        self.opening.is_some()
    }

    /// Takes a whole message.
    pub(super) fn add(&mut self, job: Job) {
        self.waiting.push_back(Box::new(job));
        self.dispatch();
    }

    /// Begins nothing more; the numbers of those that were not begun.
    pub(super) fn end(&mut self) -> Vec<u64> {
        self.is_ending = true;
        self.waiting.drain(..).map(|job| job.number).collect()
    }

    /// What comes to its end next, and what is dropped for it: the number of a message whose envelope was out already.
    pub(super) fn poll_done(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<(Option<Box<Done>>, Option<u64>)> {
        for place in 0..self.running.len() {
            if let Poll::Ready(carried) = self.running[place].as_mut().poll(context) {
                drop(self.running.swap_remove(place));
                let ended = self.ended(carried);
                self.dispatch();
                return Poll::Ready(ended);
            }
        }
        if let Some(opening) = &mut self.opening
            && let Poll::Ready(handover) = opening.as_mut().poll(context)
        {
            self.opening = None;
            self.opened(handover);
            self.dispatch();
            return Poll::Ready((None, None));
        }
        Poll::Pending
    }

    fn ended(&mut self, carried: Carried) -> (Option<Box<Done>>, Option<u64>) {
        let Carried {
            seat,
            way,
            done,
            following,
        } = carried;
        self.is_ending |= done.is_exhausted;
        let dropped = match following {
            // Its envelope is out and its content is not. Where the connection ends now, nothing was handed over.
            Some(job) if self.is_ending => {
                self.seats[seat] = Seat::Closed;
                Some(job.number)
            }
            Some(job) => {
                self.start(seat, way, job);
                None
            }
            None => {
                self.seats[seat] = Seat::Idle(way);
                None
            }
        };
        (Some(done), dropped)
    }

    fn opened(&mut self, handover: Option<Handover>) {
        match handover {
            Some(handover) => self.seats.push(Seat::Idle(Way::Inside(handover))),
            // It takes no more than it took, for now.
            None => self.none_before = Some(Instant::now() + ANOTHER_PAUSE),
        }
    }

    /// Gives to each idle lane what it can take.
    fn dispatch(&mut self) {
        if self.is_ending {
            return;
        }
        while let Some((place, seat)) = self.next_start() {
            let job = self.waiting.remove(place);
            let way = match std::mem::replace(&mut self.seats[seat], Seat::Closed) {
                Seat::Idle(way) => way,
                other => {
                    self.seats[seat] = other;
                    break;
                }
            };
            match job {
                Some(job) => self.start(seat, way, job),
                None => self.seats[seat] = Seat::Idle(way),
            }
        }
        self.open_another();
    }

    /// The first message that waits for no other of its sender, and an idle lane for it.
    fn next_start(&self) -> Option<(usize, usize)> {
        let idle = |job: &Job| {
            let mut seats = self.seats.iter();
            seats.position(|seat| matches!(seat, Seat::Idle(way) if way.is_for(job)))
        };
        if !self.seats.iter().any(|seat| matches!(seat, Seat::Idle(_))) {
            return None;
        }
        let mut waiting = self.waiting.iter().enumerate();
        waiting.find_map(|(place, job)| {
            let is_first = self.lane_of(job.sender).is_none() && !self.is_behind(place);
            if is_first {
                idle(job).map(|seat| (place, seat))
            } else {
                None
            }
        })
    }

    /// The lane that has mail of the sender.
    fn lane_of(&self, sender: Option<u64>) -> Option<usize> {
        sender?;
        let mut seats = self.seats.iter();
        seats.position(
            |seat| matches!(seat, Seat::Busy { senders, .. } if senders.contains(&sender)),
        )
    }

    /// Whether mail of the same sender waits in front of this one.
    fn is_behind(&self, place: usize) -> bool {
        let sender = self.waiting[place].sender;
        let mut before = self.waiting.range(..place);
        sender.is_some() && before.any(|job| job.sender == sender)
    }

    /// A message begins on a lane, and with it goes the envelope of another one that may follow there.
    fn start(&mut self, seat: usize, way: Way, job: Box<Job>) {
        let following = self.following(seat, &way, &job);
        self.seats[seat] = Seat::Busy {
            senders: [job.sender, following.as_ref().and_then(|job| job.sender)],
        };
        let ride = Ride {
            way,
            job,
            following,
            journal: self.journal.clone(),
        };
        self.running.push(Box::pin(async move {
            let (way, done, following) = ride.run().await;
            Carried {
                seat,
                way,
                done,
                following,
            }
        }));
    }

    fn following(&mut self, seat: usize, way: &Way, job: &Job) -> Option<Box<Job>> {
        let has_idle = self
            .seats
            .iter()
            .enumerate()
            .any(|(place, other)| place != seat && matches!(other, Seat::Idle(Way::Inside(_))));
        let place = self.waiting.iter().enumerate().position(|(place, next)| {
            let is_same = next.sender.is_some() && next.sender == job.sender;
            let is_free = match self.lane_of(next.sender) {
                Some(lane) => lane == seat,
                None => is_same || !has_idle,
            };
            way.is_for(next) && is_free && !self.is_behind(place)
        })?;
        self.waiting.remove(place)
    }

    fn open_another(&mut self) {
        if self.opening.is_some() || self.connections() >= self.connections_max {
            return;
        }
        let in_vain = (0..self.waiting.len()).filter(|place| {
            let job = &self.waiting[*place];
            let is_free = self.lane_of(job.sender).is_none() && !self.is_behind(*place);
            is_free && !job.route.is_report()
        });
        if in_vain.take(WAITING_FOR_ANOTHER).count() < WAITING_FOR_ANOTHER {
            return;
        }
        if self.none_before.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let opening = self.opener.open();
        self.opening = Some(Box::pin(async {
            let reason = match timeout(RECONNECT_TIMEOUT, opening).await {
                Ok(Ok(handover)) => return Some(handover),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it took too long".to_owned(),
            };
            info!(reason = %peer(&reason), "the hand-over target takes no further connection");
            None
        }));
    }

    fn connections(&self) -> usize {
        self.seats.len() - usize::from(self.has_outside)
    }

    /// The first connection, for what goes in lock-step; there while nothing is on its way.
    pub(super) fn first(&mut self) -> Option<&mut Handover> {
        match self.seats.first_mut() {
            Some(Seat::Idle(Way::Inside(handover))) => Some(handover),
            _ => None,
        }
    }

    /// The verdict on a report that came in lock-step.
    pub(super) async fn judge(&mut self, draft: Draft) -> Verdict {
        for seat in &mut self.seats {
            if let Seat::Idle(Way::Outside(outside)) = seat {
                return outside.judge(draft).await;
            }
        }
        Verdict::link_lost()
    }

    /// There is no mail: connections are closed, and opened again when some comes.
    pub(super) async fn rest(&mut self) {
        self.opening = None;
        let further = 1 + usize::from(self.has_outside);
        for seat in self.seats.split_off(further.min(self.seats.len())) {
            seat.quit().await;
        }
        if let Some(handover) = self.first() {
            handover.rest().await;
        }
    }

    /// Takes leave of those that are there.
    pub(super) async fn quit(self) {
        for seat in self.seats {
            seat.quit().await;
        }
    }
}

impl Seat {
    async fn quit(self) {
        if let Self::Idle(way) = self {
            way.quit().await;
        }
    }
}
