//! Which deliveries: ids, or the filters of `list`.

use std::time::Duration;

use atrn_relay::queue::{Filter, Reference, Selection, State};
use atrn_shared::cli::{ExitCode, Failure};
use atrn_shared::smtp::address::Domain;
use clap::Args;
use jiff::Timestamp;

use crate::cli::units;

/// Filters; all that are given must match.
#[derive(Args, Clone, Debug)]
pub(super) struct Filters {
    /// For this domain, configured or not.
    #[arg(long, value_name = "DOMAIN", value_parser = Domain::parse)]
    domain: Option<Domain>,

    /// In this state: queued, leased, deferred, held, failed or expired.
    #[arg(long, value_name = "STATE")]
    state: Option<State>,

    /// From senders that contain this; <> is the null reverse-path.
    #[arg(long, value_name = "TEXT")]
    sender: Option<String>,

    /// To recipients that contain this.
    #[arg(long, value_name = "TEXT")]
    recipient: Option<String>,

    /// Received longer ago than this.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    older_than: Option<Duration>,

    /// Larger than this.
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    larger_than: Option<u64>,
}

/// Ids or filters, never nothing: what changes mail must not do so to all of it by a slip.
#[derive(Args, Clone, Debug)]
pub(super) struct Selected {
    /// Ids of messages or deliveries.
    #[arg(value_name = "ID", conflicts_with_all = ["domain", "state", "sender", "recipient", "older_than", "larger_than", "all"])]
    ids: Vec<Reference>,

    #[command(flatten)]
    filters: Filters,

    /// The whole queue.
    #[arg(long)]
    all: bool,
}

impl Filters {
    pub(super) fn at(&self, now: Timestamp) -> Result<Filter, Failure> {
        let before = |age: Duration| {
            let time = now.checked_sub(age);
            time.map_err(|_| Failure::new(ExitCode::Usage, "--older-than: too long"))
        };
        Ok(Filter {
            domain: self.domain.clone(),
            state: self.state,
            sender: self.sender.clone(),
            recipient: self.recipient.clone(),
            received_before: self.older_than.map(before).transpose()?,
            larger_than: self.larger_than,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        let Self {
            domain,
            state,
            sender,
            recipient,
            older_than,
            larger_than,
        } = self;
        domain.is_none()
            && state.is_none()
            && sender.is_none()
            && recipient.is_none()
            && older_than.is_none()
            && larger_than.is_none()
    }
}

impl Selected {
    pub(super) fn at(&self, now: Timestamp) -> Result<Selection, Failure> {
        if !self.ids.is_empty() {
            return Ok(Selection::Ids(self.ids.clone()));
        }
        if self.filters.is_empty() && !self.all {
            let text = "which deliveries? Name ids or filters, or --all";
            return Err(Failure::new(ExitCode::Usage, text));
        }
        Ok(Selection::Filter(self.filters.at(now)?))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        selected: Selected,
    }

    fn selection(arguments: &[&str]) -> Result<String, String> {
        let line = Line::try_parse_from([&["x"], arguments].concat())
            .map_err(|error| error.kind().to_string())?;
        let now = Timestamp::from_second(1_000).unwrap();
        line.selected
            .at(now)
            .map(|selection| format!("{selection:?}"))
            .map_err(|failure| failure.text)
    }

    #[test]
    fn ids_filters_or_all() {
        let id = "00000000001";
        assert!(
            selection(&[id, "00000000002.1"])
                .unwrap()
                .starts_with("Ids([Message")
        );
        assert!(
            selection(&["--all"])
                .unwrap()
                .starts_with("Filter(Filter { domain: None")
        );
        let filter = selection(&["--state", "held", "--older-than", "10m"]).unwrap();
        assert!(filter.contains("state: Some(Held)"), "{filter}");
        assert!(
            filter.contains("received_before: Some(1970-01-01T00:06:40Z)"),
            "{filter}"
        );
    }

    #[test]
    fn nothing_is_not_everything() {
        let none = "which deliveries? Name ids or filters, or --all";
        assert_eq!(selection(&[]).unwrap_err(), none);
        for mixed in [["00000000001", "--all"], ["00000000001", "--sender=x"]] {
            let error = selection(&mixed).unwrap_err();
            assert_eq!(
                error,
                "an argument cannot be used with one or more of the other specified arguments"
            );
        }
        assert!(selection(&["nonsense"]).is_err());
    }
}
