//! Answers requests, in the daemon and, where none runs, in the command line.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atrn_shared::config::Live;
use atrn_shared::smtp::address::Domain;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;

use super::change::{change, end, would_change};
use super::protocol::{AccountStatus, DomainStatus, ErrorKind, Refused, Reply, Request, Status};
use crate::activity::Activity;
use crate::closing::{Source, View};
use crate::config::RelayConfig;
use crate::limits::{Greylist, Limits};
use crate::names::Names;
use crate::queue::{DomainTotal, Filter, Item, QueueId, Store, StoreError};
use crate::settings::Settings;
use crate::transaction_log::TransactionLog;

/// What answers are made from.
#[derive(Clone)]
pub struct Context {
    /// The queue; `None` where there is none yet.
    pub store: Option<Store>,
    /// The configuration, and the daemon if it is us.
    pub daemon: Result<Daemon, Arc<RelayConfig>>,
}

/// What only the daemon has.
#[derive(Clone)]
pub struct Daemon {
    /// The settings in force.
    pub settings: Live<Settings>,
    /// What it does and did.
    pub activity: Activity,
    pub(crate) limits: Limits,
    pub(crate) greylist: Greylist,
    pub(crate) names: Names,
    pub(crate) log: TransactionLog,
    /// Looks at the configuration files again, soon.
    pub reload: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").finish_non_exhaustive()
    }
}

/// Answers a request; the last reply is [`Reply::Done`] or [`Reply::Error`]. Stops early when nobody listens.
pub async fn handle(request: Request, context: &Context, replies: &Sender<Reply>) {
    let last = match answer(request, context, replies).await {
        Ok(()) => Reply::Done,
        Err(End::Gone) => return,
        Err(End::Refused(refused)) => Reply::Error(refused),
    };
    // Nobody is left to tell when this fails.
    let _ = replies.send(last).await;
}

/// Why an answer ends before its time.
pub(super) enum End {
    /// Whoever asked is gone.
    Gone,
    Refused(Refused),
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        Self::Refused(Refused::new(ErrorKind::Unavailable, error.to_string()))
    }
}

async fn answer(request: Request, context: &Context, replies: &Sender<Reply>) -> Result<(), End> {
    let reply = match request {
        Request::Backup { to } => back_up(context, &to, replies).await?,
        Request::Bans => Reply::Bans(context.limits()?.bans()),
        Request::Cat { id } => return cat(context, id, replies).await,
        Request::Change {
            action,
            selection,
            dry_run,
        } => {
            let changed = if dry_run {
                would_change(context, selection, |state| action.applies_to(state)).await
            } else {
                change(context, action, selection).await
            };
            Reply::Changed(changed?)
        }
        Request::End {
            ending,
            reason,
            selection,
            dry_run,
        } => {
            let changed = if dry_run {
                would_change(context, selection, |state| ending.applies_to(state)).await
            } else {
                end(context, ending, reason, selection).await
            };
            Reply::Changed(changed?)
        }
        Request::List { filter, limit } => return list(context, filter, limit, replies).await,
        Request::Lift { address } => Reply::Lifted(context.limits()?.lift(address)),
        Request::Reload => reload(context).await?,
        Request::Show { id } => {
            let shown = match &context.store {
                Some(store) => store.show(id).await?,
                None => None,
            };
            let mut message = shown.ok_or_else(|| not_in_queue(id))?;
            let config = context.config();
            for delivery in &mut message.deliveries {
                expire(&config, &mut delivery.item);
            }
            Reply::Message(Box::new(message))
        }
        Request::Stats { by } => Reply::Stats(match &context.store {
            Some(store) => store.stats(by).await?,
            None => Vec::new(),
        }),
        Request::Status => Reply::Status(Box::new(context.status().await?)),
    };
    send(replies, reply).await
}

async fn send(replies: &Sender<Reply>, reply: Reply) -> Result<(), End> {
    replies.send(reply).await.map_err(|_| End::Gone)
}

fn not_in_queue(id: impl fmt::Display) -> End {
    End::Refused(Refused::new(
        ErrorKind::NotFound,
        format!("{id} is not in the queue"),
    ))
}

async fn back_up(context: &Context, to: &Path, replies: &Sender<Reply>) -> Result<Reply, End> {
    let refused = |text: String| End::Refused(Refused::new(ErrorKind::Unavailable, text));
    let Some(store) = &context.store else {
        return Err(refused("there is no queue yet".to_owned()));
    };
    let progress = replies.clone();
    // Who is slow to read misses a word about how far it is; whoever has gone needs no copy.
    let watch = move |done| {
        !matches!(
            progress.try_send(Reply::Progress(done)),
            Err(TrySendError::Closed(_))
        )
    };
    let copied = store.backup(to, watch).await;
    copied
        .map(Reply::BackedUp)
        .map_err(|error| refused(error.to_string()))
}

async fn cat(context: &Context, id: QueueId, replies: &Sender<Reply>) -> Result<(), End> {
    let content = match &context.store {
        Some(store) => store.content(id).await?,
        None => None,
    };
    let mut content = content.ok_or_else(|| not_in_queue(id))?;
    while let Some(octets) = content.next().await? {
        for chunk in octets.chunks(CONTENT_CHUNK) {
            send(replies, Reply::Content(STANDARD.encode(chunk))).await?;
        }
    }
    if content.has_changed() {
        let text = format!("{id}: the content is not what was accepted (checksum)");
        send(replies, Reply::Warning(text)).await?;
    }
    Ok(())
}

/// Page by page, so that a long queue is never in memory, nor a view of the database kept open.
async fn list(
    context: &Context,
    filter: Filter,
    limit: Option<u64>,
    replies: &Sender<Reply>,
) -> Result<(), End> {
    let mut left = limit.unwrap_or(u64::MAX);
    let config = context.config();
    let mut pages = Pages::new(context, filter);
    while left > 0 {
        let wanted = usize::try_from(left).map_or(LIST_PAGE, |left| left.min(LIST_PAGE));
        let items = pages.next(wanted).await?;
        if items.is_empty() {
            break;
        }
        left -= items.len() as u64;
        for mut item in items {
            expire(&config, &mut item);
            send(replies, Reply::Item(Box::new(item))).await?;
        }
    }
    Ok(())
}

/// The deliveries that match a filter, a page at a time.
pub(super) struct Pages<'c> {
    store: Option<&'c Store>,
    filter: Filter,
    after: Option<crate::queue::DeliveryId>,
}

impl<'c> Pages<'c> {
    pub(super) fn new(context: &'c Context, filter: Filter) -> Self {
        Self {
            store: context.store.as_ref(),
            filter,
            after: None,
        }
    }

    /// Empty at the end.
    pub(super) async fn next(&mut self, max: usize) -> Result<Vec<Item>, StoreError> {
        let Some(store) = self.store else {
            return Ok(Vec::new());
        };
        let items = store.list(self.filter.clone(), self.after, max).await?;
        self.after = items.last().map(|item| item.delivery_id).or(self.after);
        Ok(items)
    }
}

async fn reload(context: &Context) -> Result<Reply, End> {
    let Ok(daemon) = &context.daemon else {
        let text = "the relay is not running; its files are read when it starts";
        return Err(End::Refused(Refused::new(ErrorKind::Unavailable, text)));
    };
    let reloaded = daemon.activity.reloaded();
    (daemon.reload)();
    Ok(Reply::Reloaded(timeout(RELOAD_WAIT, reloaded).await.ok()))
}

/// The configured domains and those that only have mail, by name.
fn domains(config: &RelayConfig, mut totals: Vec<DomainTotal>) -> Vec<DomainStatus> {
    // A domain that has been removed and has no mail left is of no interest.
    totals.retain(|total| total.messages > 0 || config.domain(&total.domain).is_some());
    let known: BTreeSet<_> = totals.iter().map(|total| total.domain.clone()).collect();
    let names = config.domains.iter().map(|domain| &domain.name);
    let without_mail = names.filter(|name| !known.contains(*name)).map(no_mail);
    totals.extend(without_mail);
    totals.sort_by(|left, right| left.domain.cmp(&right.domain));
    let status = totals.into_iter().map(|total| {
        let domain = config.domain(&total.domain);
        DomainStatus {
            configured: domain.is_some(),
            max_queue_size: domain.map(|domain| domain.max_queue_size),
            max_queue_messages: domain.map(|domain| domain.max_queue_messages),
            total,
        }
    });
    status.collect()
}

fn no_mail(name: &Domain) -> DomainTotal {
    DomainTotal {
        domain: name.clone(),
        messages: 0,
        bytes: 0,
        oldest: None,
        queued: 0,
        deferred: 0,
        held: 0,
        failed: 0,
        expired: 0,
    }
}

/// Mail of a domain that is not configured any more is kept until somebody decides.
fn expire(config: &RelayConfig, item: &mut Item) {
    if let Some(domain) = config.domain(&item.domain) {
        item.expire_after(domain.hold_for);
    }
}

impl Context {
    /// That of the daemon.
    #[must_use]
    pub fn daemon(store: Store, daemon: Daemon) -> Self {
        Self {
            store: Some(store),
            daemon: Ok(daemon),
        }
    }

    /// What the configuration is read from, by whoever has to know it.
    pub(super) fn source(&self) -> Source {
        match &self.daemon {
            Ok(daemon) => Source::Daemon(daemon.settings.clone(), daemon.activity.clone()),
            Err(config) => Source::Command(Arc::clone(config)),
        }
    }

    /// The daemon's, or, where none runs, our own for as long as it is needed: nobody else writes it then.
    pub(super) fn log(&self) -> TransactionLog {
        match &self.daemon {
            Ok(daemon) => daemon.log.clone(),
            Err(config) => {
                let (table, data_dir) = (&config.transaction_log, &config.data_dir);
                TransactionLog::start(table, data_dir, &config.hostname)
            }
        }
    }

    fn config(&self) -> View {
        self.source().load()
    }

    /// Bans live as long as the daemon.
    fn limits(&self) -> Result<&Limits, End> {
        let daemon = self.daemon.as_ref().map_err(|_| {
            let text = "the relay is not running, so nobody is banned";
            End::Refused(Refused::new(ErrorKind::Unavailable, text))
        });
        daemon.map(|daemon| &daemon.limits)
    }

    /// All that `status` shows.
    pub(crate) async fn status(&self) -> Result<Status, StoreError> {
        let (totals, leased, disk) = match &self.store {
            Some(store) => (store.totals().await?, store.leased(), store.disk()),
            None => (Vec::new(), 0, None),
        };
        let config = self.config();
        let daemon = self.daemon.as_ref().ok();
        let activity = |name: &str| daemon.map(|daemon| daemon.activity.account(name));
        let accounts = config.accounts.iter().map(|account| AccountStatus {
            account: account.name.clone(),
            domains: account.domains.clone(),
            disabled: account.disabled,
            activity: activity(&account.name).unwrap_or_default(),
        });
        Ok(Status {
            running: daemon.is_some(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hostname: config.hostname.clone(),
            pid: daemon.map(|_| std::process::id()),
            activity: daemon.map(|daemon| daemon.activity.snapshot()),
            limits: daemon.map(|daemon| daemon.limits.status(&daemon.greylist)),
            transaction_log: daemon.and_then(|daemon| daemon.log.state()),
            names: daemon.and_then(|daemon| daemon.names.health()),
            leased: leased as u64,
            disk,
            accounts: accounts.collect(),
            domains: domains(&config, totals),
        })
    }
}

/// Deliveries that are read at a time.
pub(super) const LIST_PAGE: usize = 500;
/// Octets of content in a line of an answer.
const CONTENT_CHUNK: usize = 48 * 1024;
/// The watcher waits until writers rest; this is several times that.
const RELOAD_WAIT: Duration = Duration::from_secs(5);
