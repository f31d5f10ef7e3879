//! `queue`: what is held, and what is done to it by hand.

mod backup;
mod change;
mod list;
mod select;
mod show;
mod stats;

use atrn_relay::control::Reply;
use atrn_shared::cli::Failure;
use clap::Subcommand;

use self::backup::{Backup, Restore, Salvage};
use self::change::{Bounce, Change, Expire, Remove};
use self::list::List;
use self::show::{Cat, Show};
use self::stats::Stats;
use super::{Call, open};

/// The held mail: list, look, hold, release, retry, remove, bounce, back up
///
/// A message is a delivery for each domain that it goes to. An id names the message with all its deliveries;
/// the id, a dot and a number name one delivery.
#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    List(List),
    Show(Show),
    Cat(Cat),
    Stats(Stats),
    /// Keep deliveries back until they are released
    ///
    /// Example: atrn-relay queue hold --domain example.com --sender spammer@
    Hold(Change),
    /// Let held deliveries go
    ///
    /// Example: atrn-relay queue release 1JX2M40G0W5
    Release(Change),
    /// Make deferred, failed and expired deliveries ready at once
    ///
    /// Example: atrn-relay queue retry --state failed
    Retry(Change),
    Remove(Remove),
    Bounce(Bounce),
    Expire(Expire),
    Backup(Backup),
    Restore(Restore),
    Salvage(Salvage),
}

impl QueueCommand {
    pub(super) fn run(self, call: &Call) -> Result<(), Failure> {
        let client = || open(call.config()?);
        match self {
            Self::List(command) => command.run(call, &mut client()?),
            Self::Show(command) => command.run(call, &mut client()?),
            Self::Cat(command) => command.run(&mut client()?),
            Self::Stats(command) => command.run(call, &mut client()?),
            Self::Hold(command) => command.run(call, &mut client()?, &change::HOLD),
            Self::Release(command) => command.run(call, &mut client()?, &change::RELEASE),
            Self::Retry(command) => command.run(call, &mut client()?, &change::RETRY),
            Self::Remove(command) => command.run(call, &mut client()?),
            Self::Bounce(command) => command.run(call, &mut client()?),
            Self::Expire(command) => command.run(call, &mut client()?),
            Self::Backup(command) => command.run(call, &mut client()?),
            // These two are for times without a queue that could be opened.
            Self::Restore(command) => command.run(call),
            Self::Salvage(command) => command.run(call),
        }
    }
}

/// A reply that does not belong to the request.
fn unexpected(reply: &Reply) -> Failure {
    Failure::failed(format!("the relay answered something else: {reply:?}"))
}
