//! A queue that is filled without SMTP: a million messages are there in a minute or two.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use atrn_relay::queue::{Envelope, Recipient, Store};
use atrn_shared::smtp::address::{Domain, ForwardPath, ReversePath};
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

/// Accepts at a time. Those that wait together share a sync.
const AT_ONCE: usize = 400;

/// Fills the queue of a relay that does not run with so many messages, in turns for each of the domains.
pub(crate) fn fill(
    data_folder: &Path,
    domains: &[String],
    messages: usize,
    octets: usize,
) -> Result<()> {
    let store = Store::open(data_folder)?;
    let envelopes: Result<Vec<Envelope>> = domains.iter().map(|name| envelope(name)).collect();
    let envelopes = Arc::new(envelopes?);
    let content = Arc::new(content(octets));
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for first in 0..AT_ONCE.min(messages) {
            let (store, envelopes) = (store.clone(), Arc::clone(&envelopes));
            let content = Arc::clone(&content);
            tasks.spawn(async move {
                for number in (first..messages).step_by(AT_ONCE) {
                    let mut body = store.body();
                    body.write(&content).await?;
                    let envelope = &envelopes[number % envelopes.len()];
                    store.accept(envelope.clone(), body).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        anyhow::Ok(())
    })
}

fn envelope(domain: &str) -> Result<Envelope> {
    Ok(Envelope {
        reverse_path: ReversePath::from_address("sender@source.example")?,
        mail_parameters: MailParameters::default(),
        received_from: "source.example [192.0.2.1]".to_owned(),
        eight_bit: false,
        needs_smtputf8: false,
        is_report: false,
        sender_verified: false,
        recipients: vec![Recipient {
            forward_path: ForwardPath::from_address(&format!("user@{domain}"))?,
            parameters: RcptParameters::default(),
            domain: Domain::parse(domain)?,
        }],
    })
}

fn content(octets: usize) -> Vec<u8> {
    let mut content = b"Subject: A message of the benchmark\r\n\r\n".to_vec();
    while content.len() < octets {
        content.extend_from_slice(b"Mail that waits for somebody to come and take it away.\r\n");
    }
    content
}
