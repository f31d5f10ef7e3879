//! The resolver child: the one process of the relay that speaks to name servers. It holds no mail and no secret, opens no
//! file, and the kernel holds it to the ports of the name servers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atrn_shared::sandbox::{InForce, Rules, SandboxError, SocketKind, confine};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name as DnsName, RData, RecordType};
use mail_auth::MessageAuthenticator;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::UnixDatagram;
use tokio::runtime::Builder;
use tokio::time::timeout;

use super::guardian::{Settings, die_with_parent, ending, name_process, socket};
use super::protocol::{
    Frame, Mx, NAME_OCTETS_MAX, Name, News, Outcome, QUESTION_OCTETS_MAX, Question, Records, Reply,
    read_question, write_frame,
};
use crate::config::Transport;

/// Questions at a time on one connection; the mail process asks no more.
const QUESTIONS_MAX: usize = 1_024;
/// Answers that are kept here, for SPF, which asks for records by itself; the others are in the cache of the mail process.
const CACHE_ANSWERS: u64 = 4_096;
/// How often a question is asked: a connection that a firewall has forgotten must not cost the answer.
const ATTEMPTS: u32 = 2;

/// The child's life: answers questions until the mail process is gone.
///
/// # Errors
/// What the system refused.
pub(super) fn resolve(settings: &Settings) -> io::Result<ExitCode> {
    let socket = socket()?;
    let tell = |news| socket.send(&write_frame(&Frame::News(news)));
    name_process(c"atrn-resolver")
        .and_then(|()| die_with_parent())
        .map_err(io::Error::other)?;
    match enclose(settings) {
        Ok(in_force) => tell(News::Ready(in_force.to_string()))?,
        Err(error) => {
            tell(News::Refused(error.to_string()))?;
            return Ok(ExitCode::from(ending::REFUSED));
        }
    };
    let resolver = resolver(settings).map_err(io::Error::other)?;
    // One thread: the kernel would let none be started that it does not confine, but none is needed.
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    runtime.block_on(answer_all(socket, resolver, settings.limit))?;
    Ok(ExitCode::from(ending::NO_PARENT))
}

/// The one place where the walls go up. No file is open to it, not even for reading; of the network, the ports of the name servers.
fn enclose(settings: &Settings) -> Result<InForce, SandboxError> {
    let rules = Rules {
        connect: settings.servers.iter().map(SocketAddr::port).collect(),
        sockets: match settings.transport {
            Transport::Tcp => [SocketKind::Tcp].into(),
            // Answers come to a port that is chosen at random, and bound.
            Transport::Udp => [SocketKind::Tcp, SocketKind::UdpBound].into(),
        },
        ..Rules::default()
    };
    confine(settings.confinement.enforcement, &rules)
}

/// SPF asks through mail-auth, all else through the resolver in it.
fn resolver(settings: &Settings) -> Result<MessageAuthenticator, String> {
    let servers = settings.servers.iter().map(|server| {
        let connection = |mut connection: ConnectionConfig| {
            connection.port = server.port();
            connection
        };
        let connections = match settings.transport {
            Transport::Tcp => vec![connection(ConnectionConfig::tcp())],
            Transport::Udp => vec![
                connection(ConnectionConfig::udp()),
                connection(ConnectionConfig::tcp()),
            ],
        };
        NameServerConfig::new(server.ip(), true, connections)
    });
    let config = ResolverConfig::from_name_servers(servers.collect());
    // The resolver is built with TLS, which is never spoken, and would read the host's certificates.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options(settings))
        .with_tls_config(tls)
        .build()
        .map(MessageAuthenticator)
        .map_err(|error| error.to_string())
}

fn options(settings: &Settings) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = settings.limit / ATTEMPTS;
    options.attempts = ATTEMPTS as usize;
    options.cache_size = CACHE_ANSWERS;
    options.max_active_requests = QUESTIONS_MAX;
    // The names of the Internet, whatever this host calls its neighbours.
    options.use_hosts_file = ResolveHosts::Never;
    options.case_randomization = settings.transport == Transport::Udp;
    options
}

async fn answer_all(
    socket: std::os::unix::net::UnixDatagram,
    resolver: MessageAuthenticator,
    limit: Duration,
) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let socket = Arc::new(UnixDatagram::from_std(socket)?);
    let mut frame = vec![0; QUESTION_OCTETS_MAX + 1];
    loop {
        let octets = socket.recv(&mut frame).await?;
        if octets == 0 {
            return Ok(());
        }
        let Some((id, question)) = read_question(&frame[..octets]) else {
            continue;
        };
        let (socket, resolver) = (Arc::clone(&socket), resolver.clone());
        tokio::spawn(async move {
            let found = timeout(limit, answer(&resolver, question)).await;
            let reply = found.unwrap_or(Reply {
                outcome: Outcome::TimedOut,
                ttl: 0,
            });
            // When nobody listens any more, the next read says so.
            let _ = socket.send(&write_frame(&Frame::Answer(id, reply))).await;
        });
    }
}

async fn answer(resolver: &MessageAuthenticator, question: Question) -> Reply {
    match question {
        Question::Pointers(address) => pointers(resolver, address).await,
        Question::Addresses(name) => addresses(resolver, &name).await,
        Question::Mx(name) => {
            let found = ask(resolver, &name, RecordType::MX).await;
            found.map_or_else(Failure::reply, |found| found.reply(exchangers))
        }
        Question::Txt(name) => {
            let found = ask(resolver, &name, RecordType::TXT).await;
            found.map_or_else(Failure::reply, |found| found.reply(texts))
        }
        Question::Spf(question) => super::spf::answer(resolver, question).await,
    }
}

async fn pointers(resolver: &MessageAuthenticator, address: IpAddr) -> Reply {
    let found = ask_for(resolver, DnsName::from(address), RecordType::PTR).await;
    found.map_or_else(Failure::reply, |found| {
        found.reply(|records| {
            let names = records.filter_map(|data| match data {
                RData::PTR(name) => plain(&name.0),
                _ => None,
            });
            Records::Pointers(names.collect())
        })
    })
}

/// Of both families; one that cannot be had does not hide the other.
async fn addresses(resolver: &MessageAuthenticator, name: &Name) -> Reply {
    let (four, six) = tokio::join!(
        ask(resolver, name, RecordType::A),
        ask(resolver, name, RecordType::AAAA)
    );
    let found: Vec<Found> = match (four, six) {
        (Ok(four), Ok(six)) => vec![four, six],
        (Ok(found), Err(_)) | (Err(_), Ok(found)) => vec![found],
        (Err(one), Err(other)) => return one.or(other).reply(),
    };
    let ttl = found.iter().map(Found::ttl).min().unwrap_or_default();
    let records = found.iter().flat_map(|found| found.0.answers());
    let addresses = records.filter_map(|record| record.data.ip_addr());
    Reply {
        outcome: Outcome::Found(Records::Addresses(addresses.collect())),
        ttl,
    }
}

fn exchangers<'r>(records: impl Iterator<Item = &'r RData>) -> Records {
    let exchangers = records.filter_map(|data| match data {
        // The root says that there is none (RFC 7505).
        RData::MX(mx) if mx.exchange.is_root() => Some((mx.preference, String::new())),
        RData::MX(mx) => plain(&mx.exchange).map(|exchange| (mx.preference, exchange)),
        _ => None,
    });
    let mut exchangers: Vec<Mx> = exchangers
        .map(|(preference, exchange)| Mx {
            preference,
            exchange,
        })
        .collect();
    exchangers.sort_by_key(|mx| mx.preference);
    Records::Mx(exchangers)
}

fn texts<'r>(records: impl Iterator<Item = &'r RData>) -> Records {
    let texts = records.filter_map(|data| match data {
        RData::TXT(text) => Some(text.txt_data.concat()),
        _ => None,
    });
    Records::Txt(texts.collect())
}

/// A name as text, if it can be one: DNS takes any octet in a name, we only what is printable.
fn plain(name: &DnsName) -> Option<String> {
    let text = name.to_ascii();
    let text = text.strip_suffix('.').unwrap_or(&text);
    (text.len() <= NAME_OCTETS_MAX)
        .then(|| Name::parse(text))?
        .map(|name| name.as_str().to_owned())
}

async fn ask(
    resolver: &MessageAuthenticator,
    name: &Name,
    kind: RecordType,
) -> Result<Found, Failure> {
    let mut name = DnsName::from_ascii(name.as_str()).map_err(|_| Failure::Absent(0))?;
    // No search list: the name is whole.
    name.set_fqdn(true);
    ask_for(resolver, name, kind).await
}

async fn ask_for(
    resolver: &MessageAuthenticator,
    name: DnsName,
    kind: RecordType,
) -> Result<Found, Failure> {
    let found = resolver.0.lookup(name, kind).await.map_err(Failure::from)?;
    // A chain of aliases that ends nowhere has answers, but none that was asked for.
    let has_any = found
        .answers()
        .iter()
        .any(|record| record.record_type() == kind);
    has_any.then_some(Found(found)).ok_or(Failure::Absent(0))
}

/// Records.
struct Found(Lookup);

impl Found {
    fn reply<'r>(
        &'r self,
        records: impl FnOnce(Box<dyn Iterator<Item = &'r RData> + 'r>) -> Records,
    ) -> Reply {
        let data = self.0.answers().iter().map(|record| &record.data);
        Reply {
            outcome: Outcome::Found(records(Box::new(data))),
            ttl: self.ttl(),
        }
    }

    fn ttl(&self) -> u32 {
        let left = self
            .0
            .valid_until()
            .saturating_duration_since(Instant::now());
        u32::try_from(left.as_secs()).unwrap_or(u32::MAX)
    }
}

/// Why there are no records.
#[derive(Clone, Copy)]
enum Failure {
    /// There are none, for so many seconds.
    Absent(u32),
    Servers,
    TimedOut,
}

impl Failure {
    /// Of two answers about one name: one that is not known is not none.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Absent(one), Self::Absent(other)) => Self::Absent(one.min(other)),
            (Self::Absent(_), trouble) | (trouble, _) => trouble,
        }
    }

    fn reply(self) -> Reply {
        let (outcome, ttl) = match self {
            Self::Absent(ttl) => (Outcome::Absent, ttl),
            Self::Servers => (Outcome::ServersFailed, 0),
            Self::TimedOut => (Outcome::TimedOut, 0),
        };
        Reply { outcome, ttl }
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Timeout => Self::TimedOut,
            NetError::Dns(DnsError::NoRecordsFound(none))
                if matches!(
                    none.response_code,
                    ResponseCode::NoError | ResponseCode::NXDomain
                ) =>
            {
                Self::Absent(none.negative_ttl.unwrap_or_default())
            }
            _ => Self::Servers,
        }
    }
}
