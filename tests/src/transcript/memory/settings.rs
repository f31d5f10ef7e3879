//! What the directives mean to machines that have neither files nor programs around them.

use std::sync::Arc;
use std::time::Duration;

use atrn_shared::odmr::{customer, provider};
use atrn_shared::sasl::{ClientCredentials, ClientSettings, Mechanism};
use atrn_shared::smtp::address::Domain;
use atrn_shared::smtp::extension::Extensions;
use atrn_shared::smtp::server;

use super::super::parse::Directive;
use super::super::play::messages;
use super::super::{Against, Transcript};
use crate::inside::Step;
use crate::message::Message;
use crate::world::{DOMAIN, PULLER_NAME, RELAY_NAME, Tls};

/// The secret of the account in memory.
pub(super) const SECRET: &str = "correct horse battery staple";

/// The directives, understood.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) tls: Tls,
    /// The account's domains.
    pub(super) domains: Vec<String>,
    pub(super) messages: Vec<Message>,
    /// The corporate server's verdicts: step, text in the argument, reply.
    pub(super) verdicts: Vec<(Step, String, String)>,
    recipients_max: usize,
    errors_max: u32,
    message_octets_max: u64,
    wait: Option<Duration>,
}

/// What a relay offers that is not told otherwise.
const WAIT: Duration = Duration::from_secs(240);

impl Settings {
    /// Nothing when a directive is about the programs themselves.
    pub(super) fn of(transcript: &Transcript) -> Option<Self> {
        let mut settings = Self {
            tls: Tls::Implicit,
            domains: vec![DOMAIN.to_owned()],
            messages: messages(transcript),
            verdicts: Vec::new(),
            recipients_max: 100,
            errors_max: 20,
            message_octets_max: 50_000_000,
            wait: Some(WAIT),
        };
        for directive in &transcript.directives {
            match directive {
                Directive::Ask(domains) if domains.is_empty() => settings.domains.clear(),
                Directive::Ask(domains) => {
                    settings.domains.clone_from(domains);
                }
                Directive::Inside(step, text, reply) => {
                    settings.verdicts.push((*step, text.clone(), reply.clone()));
                }
                Directive::Set(Against::Relay, path, value) => match path.as_str() {
                    "odmr.max_wait" => {
                        let seconds = value.as_str()?.strip_suffix('s').map(str::parse);
                        settings.wait = seconds.transpose().ok()?.map(Duration::from_secs);
                    }
                    "smtp.max_recipients" => {
                        settings.recipients_max = usize::try_from(value.as_integer()?).ok()?;
                    }
                    "smtp.max_errors" => {
                        settings.errors_max = u32::try_from(value.as_integer()?).ok()?;
                    }
                    "smtp.max_message_size" => {
                        let kilobytes = value.as_str()?.strip_suffix("KB")?;
                        settings.message_octets_max = kilobytes.parse::<u64>().ok()? * 1000;
                    }
                    _ => return None,
                },
                Directive::Offer(_) | Directive::Set(Against::Puller, ..) => return None,
                Directive::Tls(tls) => settings.tls = *tls,
                _ => {}
            }
        }
        Some(settings)
    }

    pub(super) fn provider(&self) -> Arc<provider::Config> {
        Arc::new(provider::Config {
            hostname: RELAY_NAME.to_owned(),
            tls: match self.tls {
                Tls::Implicit => provider::TlsMode::Implicit,
                Tls::Off => provider::TlsMode::Off,
                Tls::Optional => provider::TlsMode::Optional,
                Tls::StartTls => provider::TlsMode::StartTls,
            },
            has_certificate: true,
            mechanisms: Mechanism::ALL.to_vec(),
            errors_max: 20,
            wait: self.wait,
        })
    }

    /// Whether what waits for mail waits until its time is up, as it is short, or for ever.
    pub(super) fn time_passes(&self) -> bool {
        self.wait.is_some_and(|wait| wait < WAIT)
    }

    pub(super) fn customer(&self) -> Arc<customer::Config> {
        let credentials = ClientCredentials {
            user: crate::world::ACCOUNT.to_owned(),
            secret: Some(SECRET.into()),
            remembered: Default::default(),
            certificate: false,
        };
        Arc::new(customer::Config {
            hostname: PULLER_NAME.to_owned(),
            tls: match self.tls {
                Tls::Implicit => customer::TlsMode::Implicit,
                Tls::StartTls => customer::TlsMode::StartTls,
                Tls::Off | Tls::Optional => customer::TlsMode::Off,
            },
            credentials: ClientSettings {
                credentials,
                weakest: Mechanism::Plain,
            },
            domains: self.parsed_domains(),
            wait: None,
        })
    }

    pub(super) fn server(&self, hostname: &str) -> Arc<server::Config> {
        let extensions = Extensions {
            chunking: true,
            // Between relay and puller; the Internet is offered nothing of the kind.
            delivery_id: hostname == PULLER_NAME,
            dsn: true,
            eight_bit_mime: true,
            enhanced_status_codes: true,
            pipelining: true,
            size: Some(self.message_octets_max),
            smtputf8: true,
            ..Extensions::default()
        };
        Arc::new(server::Config {
            recipients_max: self.recipients_max,
            errors_max: self.errors_max,
            ..server::Config::new(hostname, extensions)
        })
    }

    fn parsed_domains(&self) -> Vec<Domain> {
        self.domains
            .iter()
            .map(|name| Domain::parse(name).expect("a domain"))
            .collect()
    }
}
