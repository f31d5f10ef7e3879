//! What is under way on a reversed session: deliveries that went out and are not answered yet, the oldest first.
//!
//! Replies come in the order of what they answer (RFC 2920 §3.2), so the oldest delivery is the next to have its
//! verdict. How many may be under way is bounded: by memory, by what would have to be sent again if the link broke, and
//! by what a server inside that turns out to be broken should be offered.

use std::collections::VecDeque;

use atrn_shared::smtp::extension::Extensions;
use atrn_shared::smtp::limits::REPLY_LINE_OCTETS;

use super::transaction::{Flight, Start};

/// Deliveries that may be under way.
const MESSAGES_MAX: usize = 512;
/// With a puller that does not know delivery ids: what is under way when the link breaks may come twice there.
const UNNAMED_MESSAGES_MAX: usize = 8;
/// Deliveries that may be under way before the server inside took one. For each that it took there is room for two
/// more: a long line is full after a few round trips, and one that refuses everything is offered little.
const MESSAGES_AT_FIRST: usize = 16;
/// Octets of content that may be under way.
const OCTETS_MAX: u64 = 4 * 1024 * 1024;
/// Replies that may be due.
const REPLIES_MAX: usize = 2048;
/// So much has to find room while we write, so that neither side waits for the other to read.
pub(super) const REPLY_OCTETS_MAX: usize = REPLIES_MAX * REPLY_LINE_OCTETS;

/// The deliveries under way.
#[derive(Debug)]
pub(super) struct Window {
    flights: VecDeque<Flight>,
    octets: u64,
    replies: usize,
    /// Deliveries that may be under way, whatever happens.
    messages_max: usize,
    /// Deliveries that may be under way now.
    messages: usize,
    /// See [`Window::is_unclean`].
    is_unclean: bool,
}

impl Window {
    /// For a puller that offers this.
    pub(super) fn new(offered: &Extensions) -> Self {
        let messages_max = match offered {
            offered if !offered.pipelining => 1,
            offered if !offered.delivery_id => UNNAMED_MESSAGES_MAX,
            _ => MESSAGES_MAX,
        };
        Self {
            flights: VecDeque::new(),
            octets: 0,
            replies: 0,
            messages_max,
            messages: MESSAGES_AT_FIRST,
            is_unclean: false,
        }
    }

    /// Whether one more delivery may be begun. The last may pass the bounds.
    pub(super) fn has_room(&self) -> bool {
        self.flights.back().is_none_or(|last| {
            !last.is_open()
                && self.flights.len() < self.messages.min(self.messages_max)
                && self.octets < OCTETS_MAX
                && self.replies < REPLIES_MAX
        })
    }

    /// Nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// The last transaction may have left something with the puller.
    pub(super) fn is_unclean(&self) -> bool {
        self.is_unclean
    }

    /// How the next delivery begins. What is not answered yet may still be refused, and its remains would go with the
    /// next message (RFC 3030 §2).
    pub(super) fn start(&self) -> Start {
        if self.is_unclean || !self.is_empty() {
            Start::Reset
        } else {
            Start::Clean
        }
    }

    /// A delivery was begun, as [`Window::start`] said.
    pub(super) fn push(&mut self, flight: Flight) {
        self.octets += flight.octets();
        self.replies += flight.replies();
        self.is_unclean = false;
        self.flights.push_back(flight);
    }

    /// The delivery whose replies come next.
    pub(super) fn oldest(&mut self) -> Option<&mut Flight> {
        self.flights.front_mut()
    }

    /// The oldest delivery has its verdict, and leaves.
    pub(super) fn answered(&mut self, is_over: bool) -> Option<Flight> {
        let flight = self.leave()?;
        self.is_unclean = !is_over && self.is_empty();
        Some(flight)
    }

    /// The server inside took one.
    pub(super) fn widen(&mut self) {
        self.messages = (self.messages + 2).min(MESSAGES_MAX);
    }

    /// The puller said that nothing is left of earlier transactions.
    pub(super) fn cleaned(&mut self) {
        self.is_unclean = false;
    }

    /// Nothing more is to go out: what did not is free again.
    pub(super) fn close(&mut self) {
        while self.flights.back().is_some_and(Flight::is_unsent) {
            self.flights.pop_back();
        }
    }

    /// Gives back the memory that it needed.
    pub(super) fn release(&mut self) {
        self.flights.shrink_to_fit();
    }

    fn leave(&mut self) -> Option<Flight> {
        let flight = self.flights.pop_front()?;
        self.octets -= flight.octets();
        self.replies -= flight.replies();
        Some(flight)
    }
}
