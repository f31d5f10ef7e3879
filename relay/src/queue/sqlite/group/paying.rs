//! Settlements that could not be written when they came, and hold their deliveries until they can.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::super::error::StoreError;
use super::super::operation::Settle;
use super::{BATCH_MAX, BATCH_OCTETS_MAX, Failure, Group};

/// After paying in vain, what comes is not made to wait for the next try. Less than the keeper's pause.
const PAY_PAUSE: Duration = Duration::from_millis(400);

/// What cannot be settled, and why.
type Unpaid = (Settle, StoreError);

impl Group {
    pub(super) fn paid_in_vain_just_now(&self) -> bool {
        self.unpaid_at
            .is_some_and(|unpaid_at| unpaid_at.elapsed() < PAY_PAUSE)
    }

    /// Settles what could not be settled before, as much in one commit as may be in any. What cannot be settled for
    /// a reason of its own goes to the end, and stops nothing else.
    pub(super) fn pay(&mut self) {
        let before = self.owed.len();
        let mut unpaid = Vec::new();
        let mut trouble = None;
        while trouble.is_none() && !self.owed.is_empty() {
            let step = next_step(&mut self.owed, Settle::octets);
            let in_step = step.len();
            match self.pay_step(step) {
                Ok(bad) => {
                    // When none can be settled, it is not they that are bad.
                    if let Some((_, error)) = bad.last().filter(|_| bad.len() == in_step) {
                        trouble = Some(error.clone());
                    }
                    unpaid.extend(bad);
                }
                Err((left, error)) => {
                    left.into_iter()
                        .rev()
                        .for_each(|settle| self.owed.push_front(settle));
                    trouble = Some(error);
                }
            }
        }
        let trouble = trouble.or_else(|| unpaid.last().map(|(_, error)| error.clone()));
        self.owed
            .extend(unpaid.into_iter().map(|(settle, _)| settle));
        let left = self.owed.len();
        if left < before {
            tracing::info!(deliveries = before - left, "settled what was owed");
        }
        if let Some(error) = trouble {
            tracing::warn!(%error, deliveries = left, "cannot settle yet");
        }
        self.unpaid_at = (left > 0).then(Instant::now);
        self.owing.store(left > 0, Ordering::Relaxed);
    }

    /// Settles some in one commit, or where that fails because of one of them, each alone; gives back those that
    /// cannot be.
    ///
    /// # Errors
    /// When the database could not be written at all, with those that are left.
    fn pay_step(
        &mut self,
        mut step: Vec<Settle>,
    ) -> Result<Vec<Unpaid>, (Vec<Settle>, StoreError)> {
        let paid = self.transaction(|transaction| {
            step.iter()
                .try_for_each(|settle| transaction.settle(settle))
        });
        match paid {
            Ok(effects) => {
                self.note(&effects);
                step.iter_mut().for_each(|settle| settle.held.end());
                self.shared.leases.tell(&effects.news);
                Ok(Vec::new())
            }
            Err(Failure::Operation(error)) if step.len() == 1 => {
                Ok(step.into_iter().map(|bad| (bad, error.clone())).collect())
            }
            Err(Failure::Operation(_)) => {
                let mut bad = Vec::new();
                let mut step = step.into_iter();
                while let Some(settle) = step.next() {
                    match self.pay_step(vec![settle]) {
                        Ok(unpaid) => bad.extend(unpaid),
                        Err((mut left, error)) => {
                            left.extend(step);
                            left.extend(bad.into_iter().map(|(settle, _)| settle));
                            return Err((left, error));
                        }
                    }
                }
                Ok(bad)
            }
            Err(Failure::Busy(error) | Failure::Broken(error)) => Err((step, error)),
        }
    }
}

/// As many from the front as one commit may take, and one at least.
fn next_step<T>(owed: &mut VecDeque<T>, octets: impl Fn(&T) -> usize) -> Vec<T> {
    let mut step = Vec::new();
    let mut total = 0;
    while let Some(next) = owed.pop_front() {
        total += octets(&next);
        if !step.is_empty() && total > BATCH_OCTETS_MAX {
            owed.push_front(next);
            break;
        }
        step.push(next);
        if step.len() >= BATCH_MAX {
            break;
        }
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_no_more_than_a_commit_may() {
        let steps = |octets: &[usize]| {
            let mut owed: VecDeque<usize> = octets.iter().copied().collect();
            let mut sizes = Vec::new();
            while !owed.is_empty() {
                sizes.push(next_step(&mut owed, |octets| *octets).len());
            }
            sizes
        };
        assert_eq!(steps(&[0; 2 * BATCH_MAX + 1]), [BATCH_MAX, BATCH_MAX, 1]);
        let half = BATCH_OCTETS_MAX / 2;
        assert_eq!(steps(&[half, half, 1, half]), [2, 2]);
        assert_eq!(steps(&[BATCH_OCTETS_MAX + 1, 1, 1]), [1, 2]);
    }
}
