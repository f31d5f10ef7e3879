//! The relay under load, and what its disk must hold after a cut.

mod check;
mod load;
mod puller;
mod sender;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::line::Place;
use super::recorder::Recording;
use super::trace::Moment;

pub use load::{Size, record};

/// Everything that was sent to the relay, and what became of it.
#[derive(Debug)]
pub struct Promises {
    messages: Vec<Message>,
}

#[derive(Debug)]
struct Message {
    content: Vec<u8>,
    /// When its sender may have been told that it was taken, and by which queue id.
    accepted: Option<(Moment, String)>,
    recipients: Vec<Recipient>,
}

#[derive(Debug)]
struct Recipient {
    path: String,
    /// When the relay may have read that it is inside.
    delivered: Option<Moment>,
}

/// The same while the load runs: places in dialogues in place of moments.
#[derive(Debug, Default)]
struct Book {
    sent: Mutex<Vec<Sent>>,
    /// What the pullers know, by delivery id.
    inside: Mutex<HashMap<String, Inside>>,
    delivered: Mutex<Vec<Delivered>>,
}

#[derive(Clone, Debug)]
struct Sent {
    content: Vec<u8>,
    recipients: Vec<String>,
    accepted: Option<(Place, String)>,
}

/// A delivery that was taken, or a part of it.
#[derive(Clone, Debug)]
struct Inside {
    number: usize,
    recipients: Vec<String>,
    /// Somebody was refused, and is still to come.
    is_part: bool,
}

#[derive(Debug)]
struct Delivered {
    number: usize,
    recipient: String,
    place: Place,
}

impl Book {
    fn sent(&self) -> MutexGuard<'_, Vec<Sent>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accepted(&self) -> usize {
        self.sent()
            .iter()
            .filter(|sent| sent.accepted.is_some())
            .count()
    }

    fn inside(&self) -> MutexGuard<'_, HashMap<String, Inside>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delivered(&self) -> MutexGuard<'_, Vec<Delivered>> {
        self.delivered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Dates everything by the recording.
    fn promises(&self, recording: &Recording) -> Promises {
        let mut messages: Vec<Message> = self
            .sent()
            .iter()
            .map(|sent| message(sent, recording))
            .collect();
        for delivered in &*self.delivered() {
            let place = &delivered.place;
            // A verdict that the relay never read is none.
            let Some(moment) = recording.received(&place.dialogue, place.octets) else {
                continue;
            };
            let mut recipients = messages[delivered.number].recipients.iter_mut();
            if let Some(recipient) =
                recipients.find(|recipient| recipient.path == delivered.recipient)
            {
                let earlier = recipient.delivered.unwrap_or(Moment::MAX);
                recipient.delivered = Some(earlier.min(moment));
            }
        }
        Promises { messages }
    }
}

fn message(sent: &Sent, recording: &Recording) -> Message {
    let accepted = sent.accepted.as_ref().map(|(place, id)| {
        let moment = recording.sent(&place.dialogue, place.octets);
        (moment.expect("a reply that was read was sent"), id.clone())
    });
    let recipients = sent.recipients.iter().map(|path| Recipient {
        path: path.clone(),
        delivered: None,
    });
    Message {
        content: sent.content.clone(),
        accepted,
        recipients: recipients.collect(),
    }
}
