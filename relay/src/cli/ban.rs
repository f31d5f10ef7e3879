//! `ban`: who is not let in for a while.

use std::net::IpAddr;

use atrn_relay::control::{Client, Reply, Request};
use atrn_relay::limits::BanStatus;
use atrn_shared::cli::{Failure, Table};
use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::units::{counted, since, until};
use super::{Call, client_failure, open};

/// Look at bans, and lift them
#[derive(Debug, Subcommand)]
pub(super) enum BanCommand {
    List(ListCommand),
    Lift(LiftCommand),
}

/// Show which addresses are banned at this moment, for what and until when
///
/// A ban ends by itself; how long it lasts, and what it takes to get one, stands in [limits] of the configuration.
///
/// Example: atrn-relay ban list
#[derive(Args, Debug)]
pub(super) struct ListCommand {}

/// End the ban of an address before its time
///
/// What was counted begins anew, for everybody.
///
/// Example: atrn-relay ban lift 192.0.2.1
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct LiftCommand {
    /// An address; of IPv6 any of its /64.
    address: Option<IpAddr>,

    /// All bans.
    #[arg(long)]
    all: bool,
}

impl BanCommand {
    pub(super) fn run(self, call: &Call) -> Result<(), Failure> {
        let mut client = open(call.config()?)?;
        match self {
            Self::List(ListCommand {}) => list(call, &mut client),
            Self::Lift(command) => command.run(call, &mut client),
        }
    }
}

fn list(call: &Call, client: &mut Client) -> Result<(), Failure> {
    match client.ask_one(&Request::Bans).map_err(client_failure)? {
        Reply::Bans(bans) => call.output.show(&bans, |bans| table(bans)),
        other => Err(Failure::failed(format!("not a list of bans: {other:?}"))),
    }
}

fn table(bans: &[BanStatus]) -> String {
    if bans.is_empty() {
        return "Nobody is banned.".to_owned();
    }
    let now = Timestamp::now();
    let mut table = Table::new(&["address", "for", ">banned", ">ends in"]);
    for ban in bans {
        table.row(vec![
            ban.origin.clone(),
            ban.reason.replace('_', " "),
            format!("{} ago", since(ban.since, now)),
            until(ban.until, now),
        ]);
    }
    table.to_string()
}

impl LiftCommand {
    fn run(self, call: &Call, client: &mut Client) -> Result<(), Failure> {
        let request = Request::Lift {
            address: self.address,
        };
        let lifted = match client.ask_one(&request).map_err(client_failure)? {
            Reply::Lifted(lifted) => lifted,
            other => return Err(Failure::failed(format!("not an answer: {other:?}"))),
        };
        if let (0, Some(address)) = (lifted, self.address) {
            return Err(Failure::failed(format!("{address} is not banned")));
        }
        call.output.show(&lifted, |lifted| {
            format!("Lifted {}.", counted(*lifted, "ban", "bans"))
        })
    }
}
