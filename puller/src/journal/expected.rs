//! Entries that may follow at any moment: the target has a whole message and has not spoken yet.
//!
//! A process that ends just then would leave a message inside that nothing is known of, and the relay would offer it
//! again (OWN-4). So whoever ends the process waits for these.

use tokio::sync::watch;

/// How many there are, and whether there may be more.
#[derive(Debug)]
pub(super) struct Expected(watch::Sender<State>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    count: usize,
    is_over: bool,
}

/// Held from the end of the content to the entry.
#[derive(Debug)]
#[must_use]
pub struct Expectation(watch::Sender<State>);

impl Expected {
    pub(super) fn none() -> Self {
        Self(watch::Sender::default())
    }

    pub(super) fn one_more(&self) -> Option<Expectation> {
        let may_be = self.0.send_if_modified(|state| {
            state.count += usize::from(!state.is_over);
            !state.is_over
        });
        may_be.then(|| Expectation(self.0.clone()))
    }

    pub(super) fn no_more(&self) {
        self.0.send_modify(|state| state.is_over = true);
    }

    pub(super) fn count(&self) -> usize {
        self.0.borrow().count
    }

    pub(super) async fn met(&self) {
        // It cannot fail, for the sender is ours.
        let _ = self.0.subscribe().wait_for(|state| state.count == 0).await;
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        self.0
            .send_modify(|state| state.count = state.count.saturating_sub(1));
    }
}
