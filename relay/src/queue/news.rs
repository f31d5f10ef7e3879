//! Who waits for mail of which domains, and is told when a claim may bring some.
//!
//! News of a domain is whatever makes a claim worth asking: a message accepted, a delivery settled that goes on
//! waiting, one that an admin gave free, a lease dropped with nothing done. It is told after the commit, and after the
//! lease is free: who looks then sees it. Nobody asks the database in the meantime.
//!
//! News wakes *one* of those who wait for the domain, the one that came last: one claim is enough for one message, and a
//! thousand sessions that wake for it would only stand in each other's way. Of those that wait the oldest is the likeliest
//! to be dead, left behind by a puller that lost its line and came again. Who does not wait just now is marked, and looks
//! once more before it does. Who was woken answers for it until it waits again: when it ends before, somebody
//! else is woken.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use atrn_shared::smtp::address::Domain;

use super::sqlite::Catalog;

/// All that wait for mail of one store.
#[derive(Debug, Default)]
pub(super) struct News {
    board: Mutex<Board>,
    catalog: Arc<Mutex<Catalog>>,
}

#[derive(Debug, Default)]
struct Board {
    /// By their number; places that are free are in `free`.
    watchers: Vec<Watcher>,
    free: Vec<usize>,
    /// Also domains that never had mail: their first message is news.
    by_domain: HashMap<Domain, Vec<usize>>,
    /// The next place in the line of those who wait.
    next_turn: u64,
}

#[derive(Debug, Default)]
struct Watcher {
    domains: Vec<Domain>,
    /// Something happened that it does not know of.
    has_news: bool,
    /// Who waits.
    waker: Option<Waker>,
    /// Its place in the line. It keeps it while it is interrupted, as by a keep-alive.
    turn: Option<u64>,
    /// For whose mail it alone was woken, until it waits again.
    answers_for: Option<Domain>,
    /// It knows when mail that was put off is due, as perhaps nobody else does.
    looks_ahead: bool,
}

/// Somebody who wants to know when there may be mail of some domains. Made by
/// [`Store::watch`](super::Store::watch).
#[derive(Debug)]
pub struct Watch {
    news: Arc<News>,
    number: usize,
}

/// See [`Watch::news`].
#[derive(Debug)]
struct Waiting<'a> {
    watch: &'a Watch,
}

impl Watch {
    /// Returns when a claim of these domains may bring something that it did not bring before; at once when
    /// something happened since this watch was made or this returned last. It may return in vain: another session
    /// can be faster.
    ///
    /// It can be dropped and asked for again at any time (a keep-alive in between): nothing is lost, and the place in
    /// the line stays.
    pub fn news(&mut self) -> impl Future<Output = ()> + Send + '_ {
        Waiting { watch: self }
    }

    /// Whether who waits will look again by itself, when mail that was put off is due. If it goes before that, somebody
    /// else is told, who can find out when that is.
    pub fn looks_ahead(&mut self, does: bool) {
        self.news.board().watchers[self.number].looks_ahead = does;
    }
}

impl News {
    pub(super) fn new(catalog: Arc<Mutex<Catalog>>) -> Self {
        Self {
            board: Mutex::default(),
            catalog,
        }
    }

    /// See [`super::Store::watch`].
    pub(super) fn watch(self: &Arc<Self>, domains: &[Domain]) -> Watch {
        let mut domains = domains.to_vec();
        domains.sort_unstable();
        domains.dedup();
        Watch {
            news: Arc::clone(self),
            number: self.board().add(domains),
        }
    }

    /// There is news of these domains: their keys in the database.
    pub(super) fn tell<'a>(&self, domains: impl IntoIterator<Item = &'a i64>) {
        let mut board = self.board();
        if board.by_domain.is_empty() {
            return;
        }
        let mut wakers = Vec::new();
        {
            let catalog = self.catalog.lock().unwrap_or_else(PoisonError::into_inner);
            for key in domains {
                let domain = catalog.names.get(key);
                wakers.extend(domain.and_then(|domain| board.tell(domain)));
            }
        }
        drop(board);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Nothing in here panics with the lock held, so a poisoned one is still in order.
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    fn add(&mut self, domains: Vec<Domain>) -> usize {
        let number = self.free.pop().unwrap_or_else(|| {
            self.watchers.push(Watcher::default());
            self.watchers.len() - 1
        });
        for domain in &domains {
            match self.by_domain.get_mut(domain) {
                Some(watchers) => watchers.push(number),
                None => drop(self.by_domain.insert(domain.clone(), vec![number])),
            }
        }
        self.watchers[number].domains = domains;
        number
    }

    /// Takes a watcher away. Whom to wake instead of it.
    fn remove(&mut self, number: usize) -> Vec<Waker> {
        let gone = std::mem::take(&mut self.watchers[number]);
        self.free.push(number);
        for domain in &gone.domains {
            let Some(watchers) = self.by_domain.get_mut(domain) else {
                continue;
            };
            watchers.retain(|watcher| *watcher != number);
            if watchers.is_empty() {
                self.by_domain.remove(domain);
            }
        }
        let left = if gone.looks_ahead {
            gone.domains
        } else {
            gone.answers_for.into_iter().collect()
        };
        left.iter().filter_map(|domain| self.tell(domain)).collect()
    }

    /// Marks who does not wait, and takes the waker of who came last.
    fn tell(&mut self, domain: &Domain) -> Option<Waker> {
        let numbers = self.by_domain.get(domain)?;
        let mut last: Option<(u64, usize)> = None;
        for number in numbers {
            let watcher = &mut self.watchers[*number];
            match (&watcher.waker, watcher.turn) {
                (Some(_), Some(turn)) => {
                    let this = (turn, *number);
                    last = last.max(Some(this));
                }
                _ => watcher.has_news = true,
            }
        }
        let (_, number) = last?;
        let watcher = &mut self.watchers[number];
        watcher.has_news = true;
        watcher.answers_for = Some(domain.clone());
        watcher.waker.take()
    }

    fn poll(&mut self, number: usize, waker: &Waker) -> Poll<()> {
        let next_turn = self.next_turn;
        let watcher = &mut self.watchers[number];
        if watcher.has_news {
            watcher.has_news = false;
            watcher.turn = None;
            return Poll::Ready(());
        }
        watcher.answers_for = None;
        if watcher.turn.is_none() {
            watcher.turn = Some(next_turn);
            self.next_turn += 1;
        }
        match &mut watcher.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        Poll::Pending
    }

    /// It waits no more. When it was woken and has not seen that yet, somebody else is to look now: it may be long
    /// until this one does.
    fn interrupt(&mut self, number: usize) -> Option<Waker> {
        let watcher = &mut self.watchers[number];
        watcher.waker = None;
        if !watcher.has_news {
            return None;
        }
        let domain = watcher.answers_for.take()?;
        self.tell(&domain)
    }
}

impl Future for Waiting<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut board = self.watch.news.board();
        board.poll(self.watch.number, context.waker())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waker = self.watch.news.board().interrupt(self.watch.number);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let waker = self.news.board().remove(self.number);
        waker.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests;
