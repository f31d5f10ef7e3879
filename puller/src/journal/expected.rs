//! Entries that may follow at any moment: the target has a whole message and has not spoken yet.
//!
//! A process that ends just then would leave a message inside that nothing is known of, and the relay would offer it
//! again (OWN-4). So whoever ends the process waits for these.

use tokio::sync::watch;

/// How many there are.
#[derive(Debug)]
pub(super) struct Expected(watch::Sender<usize>);

/// Held from the end of the content to the entry.
#[derive(Debug)]
#[must_use]
pub struct Expectation(watch::Sender<usize>);

impl Expected {
    pub(super) fn none() -> Self {
        Self(watch::Sender::new(0))
    }

    pub(super) fn one_more(&self) -> Expectation {
        self.0.send_modify(|count| *count += 1);
        Expectation(self.0.clone())
    }

    pub(super) fn count(&self) -> usize {
        *self.0.borrow()
    }

    pub(super) async fn met(&self) {
        // It cannot fail, for the sender is ours.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}
