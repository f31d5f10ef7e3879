//! An ATRN that waits (XWAIT): until there is mail, or the time is up, or something else ends it.
//!
//! Nobody asks the database meanwhile: the queue tells of news, the settings of a reload. Whoever waits is registered
//! for both first and looks afterwards, so that nothing falls between. There are thousands of these, so what is held
//! while one waits is little, and no clock ticks but the one of its own time.

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use atrn_shared::config::Live;
use atrn_shared::smtp::address::Domain;
use atrn_shared::wire::WireError;
use tokio_util::sync::WaitForCancellationFuture;

use super::permission;
use crate::activity::PullGuard;
use crate::queue::{Store, StoreError, Watch};
use crate::settings::Settings;

/// Who waits, and for what.
pub(super) struct Wait<'a> {
    pub(super) store: &'a Store,
    pub(super) settings: &'a Live<Settings>,
    pub(super) account: &'a str,
    /// What ATRN named.
    pub(super) wanted: &'a [Domain],
    pub(super) pull: &'a PullGuard,
}

/// How a wait ended.
#[derive(Debug)]
pub(super) enum Waited {
    /// There is mail.
    Mail(Mail),
    /// The account was disabled or removed, or a domain taken from it.
    NotPermitted,
    /// The relay ends.
    Shutdown,
    /// The queue cannot be read.
    Unavailable(StoreError),
    /// The customer spoke, or is gone; or it is [`WireError::TimedOut`], and nothing came.
    Wire(Result<(), WireError>),
}

/// Mail that was waited for.
#[derive(Debug)]
pub(super) struct Mail {
    /// The domains that ATRN gets.
    pub(super) domains: Vec<Domain>,
    /// Answers for the news that came, until somebody claims the mail: when it goes before, another is woken.
    pub(super) watch: Watch,
}

impl Wait<'_> {
    /// Waits. `wire` is the connection on which the customer must be silent, and knows when the time is up.
    pub(super) async fn run(
        self,
        mut wire: Pin<&mut impl Future<Output = Result<(), WireError>>>,
        mut stop: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Waited {
        let mut reloads = self.settings.replacements();
        let mut watched: Option<Mail> = None;
        loop {
            let Some(domains) = self.granted() else {
                return Waited::NotPermitted;
            };
            let mut mail = match watched.take() {
                Some(watched) if watched.domains == domains => watched,
                _ => Mail {
                    watch: self.store.watch(&domains),
                    domains,
                },
            };
            let pause = match self.look(&mail.domains).await {
                Ok(Look::Mail) => return Waited::Mail(mail),
                Ok(Look::Nothing(pause)) => pause,
                Err(error) => return Waited::Unavailable(error),
            };
            mail.watch.looks_ahead(pause.is_some());
            self.pull.waits();
            tokio::select! {
                biased;
                () = stop.as_mut() => return Waited::Shutdown,
                ended = wire.as_mut() => return Waited::Wire(ended),
                () = mail.watch.news() => {}
                () = reloads.next() => {}
                () = after(pause) => {}
            }
            watched = Some(mail);
        }
    }

    /// The settings as they are now: a domain more or less of an account that asked for all is no reason to end.
    fn granted(&self) -> Option<Vec<Domain>> {
        let settings = self.settings.load();
        let account = settings.accounts.find(self.account);
        permission::granted(account.map(|account| &account.config), self.wanted)
    }

    async fn look(&self, domains: &[Domain]) -> Result<Look, StoreError> {
        if self.store.waiting(domains).await? {
            return Ok(Look::Mail);
        }
        Ok(Look::Nothing(self.store.next_due(domains).await?))
    }
}

/// What is there for some domains.
enum Look {
    Mail,
    /// But there will be after so long.
    Nothing(Option<Duration>),
}

/// Waits so long, or for ever.
async fn after(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
