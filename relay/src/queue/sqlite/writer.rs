//! The way to the one writer: what it is asked, and who waits for the answer.
//!
//! The writer itself is a thread ([`super::group`]). Everything that changes the queue goes through it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use atrn_shared::steady::Mark;
use rusqlite::Connection;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::super::body::Body;
use super::super::error::StoreError;
use super::super::lease::Held;
use super::Shared;
use super::group::Group;
pub(in super::super) use super::operation::{Accept, Change, Now, Settle, Verdict};
use super::transaction::Transaction;

/// Operations that may wait for the writer; who comes later waits to hand his over.
const WAITING_MAX: usize = 1024;

/// Hands operations to the writer.
#[derive(Clone, Debug)]
pub(in super::super) struct Writer {
    requests: mpsc::Sender<Request>,
    /// Settlements that could not be written are to be tried again.
    owing: Arc<AtomicBool>,
}

/// One operation, and who waits for it.
#[derive(Debug)]
pub(super) enum Request {
    Accept(Box<Accept>, Answer<()>),
    Change(Box<Change>, Answer<u64>),
    /// Store what the clock shows, so that the next run can go on from there.
    Clock(Mark),
    /// Write the rest of the log into the database, so that it begins anew (see `keeper`).
    Checkpoint,
    Settle(Box<Settle>, Answer<()>),
    Stop,
    /// Try again what is owed.
    Tick,
}

pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

impl Writer {
    pub(in super::super) fn start(
        connection: Connection,
        shared: Arc<Shared>,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let (requests, waiting) = mpsc::channel(WAITING_MAX);
        let owing = Arc::new(AtomicBool::new(false));
        let group = Group::new(connection, shared, waiting, Arc::clone(&owing));
        let group = group.map_err(io::Error::other)?;
        let builder = std::thread::Builder::new().name("queue-writer".to_owned());
        let thread = builder.spawn(move || group.run())?;
        Ok((Self { requests, owing }, thread))
    }

    pub(in super::super) async fn accept(&self, accept: Accept) -> Result<(), StoreError> {
        let (answer, wait) = oneshot::channel();
        self.send(Request::Accept(Box::new(accept), answer)).await?;
        wait.await.map_err(|_| StoreError::Closed)?
    }

    pub(in super::super) async fn change(&self, change: Change) -> Result<u64, StoreError> {
        let (answer, wait) = oneshot::channel();
        self.send(Request::Change(Box::new(change), answer)).await?;
        wait.await.map_err(|_| StoreError::Closed)?
    }

    /// The settlement is on its way when this returns; the future only waits for the commit. A
    /// session that ends and drops the future must not take it back: the mail is inside.
    pub(in super::super) fn settle(
        &self,
        settle: Settle,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (answer, wait) = oneshot::channel();
        let request = Request::Settle(Box::new(settle), answer);
        if let Err(TrySendError::Full(request)) = self.requests.try_send(request) {
            let requests = self.requests.clone();
            tokio::spawn(async move { requests.send(request).await });
        }
        async move { wait.await.map_err(|_| StoreError::Closed)? }
    }

    pub(super) fn checkpoint(&self) {
        // Full: the writer has much to do, and the keeper asks again.
        let _ = self.requests.try_send(Request::Checkpoint);
    }

    pub(super) fn mark_clock(&self, mark: Mark) {
        // Full: the keeper asks again.
        let _ = self.requests.try_send(Request::Clock(mark));
    }

    pub(in super::super) fn is_owing(&self) -> bool {
        self.owing.load(Ordering::Relaxed)
    }

    pub(super) fn try_owed_again(&self) {
        if self.is_owing() {
            let _ = self.requests.try_send(Request::Tick);
        }
    }

    /// Lets the thread finish what waits, and end.
    pub(in super::super) fn stop(&self) {
        while let Err(TrySendError::Full(_)) = self.requests.try_send(Request::Stop) {
            std::thread::yield_now();
        }
    }

    async fn send(&self, request: Request) -> Result<(), StoreError> {
        self.requests
            .send(request)
            .await
            .map_err(|_| StoreError::Closed)
    }
}

impl Request {
    pub(super) fn octets(&self) -> usize {
        match self {
            Self::Accept(accept, _) => accept.octets(),
            Self::Settle(settle, _) => settle.octets(),
            _ => 0,
        }
    }

    pub(super) fn apply(&self, transaction: &mut Transaction<'_>) -> rusqlite::Result<()> {
        match self {
            Self::Accept(accept, _) => transaction.accept(accept),
            Self::Change(change, _) => transaction.change(change),
            Self::Clock(mark) => transaction.mark_clock(*mark),
            Self::Settle(settle, _) => transaction.settle(settle),
            Self::Checkpoint | Self::Stop | Self::Tick => Ok(()),
        }
    }

    /// It is durable: files stay, and leases end.
    pub(super) fn committed(&mut self) {
        match self {
            Self::Accept(accept, _) => {
                if let Body::Spool(_, file) = &accept.body {
                    file.keep();
                }
            }
            Self::Change(change, _) => change.held.iter_mut().for_each(Held::end),
            Self::Settle(settle, _) => settle.held.end(),
            Self::Checkpoint | Self::Clock(_) | Self::Stop | Self::Tick => {}
        }
    }

    /// Tells whoever handed it over that it is durable.
    pub(super) fn answer(self, changed: &mut impl Iterator<Item = u64>) {
        match self {
            Self::Accept(_, answer) | Self::Settle(_, answer) => {
                let _ = answer.send(Ok(()));
            }
            Self::Change(_, answer) => {
                let _ = answer.send(Ok(changed.next().unwrap_or_default()));
            }
            Self::Checkpoint | Self::Clock(_) | Self::Stop | Self::Tick => {}
        }
    }
}
