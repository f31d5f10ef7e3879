//! When the relay hears what was said to an envelope before the verdict on its message is there.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// A message that is done by then is answered at once, in one write. Of one that takes longer the relay hears first what
/// was said to its envelope: it waits five minutes for that, and ten for the end of the message (R5321-41, R5321-45).
const PAUSE: Duration = Duration::from_secs(1);

/// One timer for all messages: at the end of each pause it looks which one is the first.
#[derive(Debug, Default)]
pub(super) struct Pause(Option<(u64, Pin<Box<Sleep>>)>);

impl Pause {
    /// Ready when this message has been the first for a pause, at most two, and what was said to its envelope is known.
    pub(super) fn poll(
        &mut self,
        number: u64,
        is_known: bool,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        let begin = || (number, Box::pin(sleep(PAUSE)));
        let (first, end) = self.0.get_or_insert_with(begin);
        loop {
            ready!(end.as_mut().poll(context));
            if *first == number && is_known {
                return Poll::Ready(());
            }
            *first = number;
            end.as_mut().reset(Instant::now() + PAUSE);
        }
    }
}
