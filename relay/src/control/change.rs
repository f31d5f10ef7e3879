//! What an admin does to deliveries, and what he would do.

use atrn_shared::smtp::reply::Reply;
use jiff::Timestamp;
use tracing::info;

use super::answer::{Context, End, LIST_PAGE, Pages};
use super::protocol::{Ending, ErrorKind, Refused};
use crate::closing::{By, Closing, given_up};
use crate::queue::{
    Action, Changed, Delivery, DeliveryId, Item, Lease, Outcome, Reference, Selection, State,
    Store, StoreError,
};

/// Deliveries that are ended together.
const STEP: usize = 64;
/// More would be cut from the report.
const REASON_OCTETS_MAX: usize = 400;

/// Does an action.
pub(super) async fn change(
    context: &Context,
    action: Action,
    selection: Selection,
) -> Result<Changed, End> {
    match &context.store {
        Some(store) => {
            let mut trail = context.log().relay();
            let noted = |ids: &[DeliveryId], changed| trail.changed(action, ids, changed);
            Ok(store.change(action, selection, noted).await?)
        }
        None => would_change(context, selection, |state| action.applies_to(state)).await,
    }
}

/// Ends deliveries, with a report where one is due.
pub(super) async fn end(
    context: &Context,
    ending: Ending,
    reason: Option<String>,
    selection: Selection,
) -> Result<Changed, End> {
    if reason
        .as_ref()
        .is_some_and(|reason| reason.len() > REASON_OCTETS_MAX)
    {
        let text = format!("the reason has more than {REASON_OCTETS_MAX} octets");
        return Err(End::Refused(Refused::new(ErrorKind::Invalid, text)));
    }
    let Some(store) = &context.store else {
        return would_change(context, selection, |state| ending.applies_to(state)).await;
    };
    let verdict = Verdict {
        ending,
        reason: reason.unwrap_or_else(|| ending.reason().to_owned()),
        closing: Closing::new(store.clone(), context.source(), context.log()),
    };
    let mut done = Changed::default();
    match selection {
        Selection::Ids(ids) => {
            for ids in ids.chunks(STEP) {
                let selection = Selection::Ids(ids.to_vec());
                verdict.step(store, &selection, None, &mut done).await?;
            }
        }
        Selection::Filter(mut filter) => {
            // The reports that this makes come later than all that is meant.
            filter.received_before.get_or_insert_with(Timestamp::now);
            let selection = Selection::Filter(filter);
            let mut after = None;
            loop {
                after = verdict.step(store, &selection, after, &mut done).await?;
                if after.is_none() {
                    break;
                }
            }
        }
    }
    Ok(done)
}

/// What an admin decided about some deliveries.
struct Verdict {
    ending: Ending,
    reason: String,
    closing: Closing,
}

impl Verdict {
    /// Ends some of what is selected; where to go on.
    async fn step(
        &self,
        store: &Store,
        selection: &Selection,
        after: Option<DeliveryId>,
        done: &mut Changed,
    ) -> Result<Option<DeliveryId>, StoreError> {
        let seized = store.seize(selection, after, STEP).await?;
        done.leased += seized.leased;
        done.unknown.extend(seized.unknown);
        let (fit, unfit): (Vec<Lease>, Vec<Lease>) = seized
            .leases
            .into_iter()
            .partition(|lease| self.ending.applies_to(lease.state));
        done.unsuitable += unfit.len() as u64;
        // What is left alone is free again before the others are ended.
        drop(unfit);
        let count = fit.len() as u64;
        let ended = fit.into_iter().map(|lease| {
            info!(
                delivery_id = %lease.id, domain = %lease.domain, reason = self.reason,
                state = %self.ending.state(), "ended by an admin"
            );
            let outcomes = self.outcomes(&lease);
            (lease, outcomes)
        });
        self.closing.settle_all(ended, By::Admin).await?;
        done.changed += count;
        Ok(seized.last)
    }

    fn outcomes(&self, delivery: &Delivery) -> Vec<Outcome> {
        match self.ending {
            Ending::Bounce => {
                // Nothing more is known of why: RFC 3463 has 5.0.0 for that.
                let reply = Reply::new(554, "5.0.0", self.reason.clone());
                vec![Outcome::Failed(reply); delivery.recipients.len()]
            }
            Ending::Expire => given_up(delivery, &self.reason),
        }
    }
}

impl Ending {
    /// Why, where the admin does not say.
    fn reason(self) -> &'static str {
        match self {
            Self::Bounce => "Returned by the administrator",
            Self::Expire => "Given up by the administrator",
        }
    }

    /// Where deliveries are afterwards.
    fn state(self) -> State {
        match self {
            Self::Bounce => State::Failed,
            Self::Expire => State::Expired,
        }
    }

    /// What waits, for whatever, can be ended; the rest has ended.
    pub(super) fn applies_to(self, state: State) -> bool {
        matches!(state, State::Queued | State::Deferred | State::Held)
    }
}

/// What a change would do, as far as can be known: sessions go on claiming and settling.
pub(super) async fn would_change(
    context: &Context,
    selection: Selection,
    applies_to: impl Fn(State) -> bool,
) -> Result<Changed, End> {
    let mut found = Changed::default();
    match selection {
        Selection::Ids(ids) => {
            for id in ids {
                let items = named(context, id).await?;
                if items.is_empty() {
                    found.unknown.push(id);
                }
                count(&mut found, &applies_to, &items);
            }
        }
        Selection::Filter(filter) => {
            let mut pages = Pages::new(context, filter);
            loop {
                let items = pages.next(LIST_PAGE).await?;
                if items.is_empty() {
                    break;
                }
                count(&mut found, &applies_to, &items);
            }
        }
    }
    Ok(found)
}

async fn named(context: &Context, id: Reference) -> Result<Vec<Item>, StoreError> {
    let (message, wanted) = match id {
        Reference::Delivery { message, number } => (message, Some(number)),
        Reference::Message(message) => (message, None),
    };
    let shown = match &context.store {
        Some(store) => store.show(message).await?,
        None => None,
    };
    let deliveries = shown.map(|message| message.deliveries).unwrap_or_default();
    let items = deliveries.into_iter().map(|delivery| delivery.item);
    Ok(items
        .filter(|item| wanted.is_none_or(|number| item.delivery_id.number() == number))
        .collect())
}

fn count(found: &mut Changed, applies_to: impl Fn(State) -> bool, items: &[Item]) {
    for item in items {
        if item.state == State::Leased {
            found.leased += 1;
        } else if applies_to(item.state) {
            found.changed += 1;
        } else {
            found.unsuitable += 1;
        }
    }
}
