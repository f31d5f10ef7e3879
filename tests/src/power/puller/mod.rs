//! The puller under load with a Maildir, and what its disk must hold after a cut.
//!
//! From the moment on in which the relay may have read a `250` or `258`, nobody else has the message: it must be in the
//! Maildir, whole, and its id in the journal. And an id that is in the journal without its message would be a loss to
//! come: the relay would be told that it is inside.

mod check;
mod load;
mod offer;

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::line::Place;
use super::recorder::Recording;
use super::trace::Moment;

pub use load::{Size, record};

/// Everything that was offered to the puller, and when it may have said that it has it.
#[derive(Debug)]
pub struct Promises {
    messages: Vec<Message>,
}

#[derive(Debug)]
struct Message {
    id: String,
    content: Vec<u8>,
    taken: Option<Moment>,
}

/// The same while the load runs.
#[derive(Debug, Default)]
struct Book {
    offers: Mutex<Vec<Offer>>,
}

#[derive(Clone, Debug)]
struct Offer {
    id: String,
    content: Vec<u8>,
    /// Where the puller said that it has it, each time.
    taken: Vec<Place>,
}

impl Book {
    fn offers(&self) -> MutexGuard<'_, Vec<Offer>> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn taken(&self) -> usize {
        self.offers()
            .iter()
            .filter(|offer| !offer.taken.is_empty())
            .count()
    }

    /// Dates everything by the recording.
    fn promises(&self, recording: &Recording) -> Promises {
        let offers = self.offers();
        let messages = offers.iter().map(|offer| {
            let moments = offer.taken.iter().map(|place| {
                let moment = recording.sent(&place.dialogue, place.octets);
                moment.expect("a reply that was read was sent")
            });
            Message {
                id: offer.id.clone(),
                content: offer.content.clone(),
                taken: moments.min(),
            }
        });
        Promises {
            messages: messages.collect(),
        }
    }
}
