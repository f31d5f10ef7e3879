//! SPF (RFC 7208), evaluated in the child: it takes many look-ups and no mail.

use mail_auth::MessageAuthenticator;
use mail_auth::SpfResult as Checked;
use mail_auth::spf::verify::SpfParameters;

use super::protocol::{Outcome, Records, Reply, SpfAnswer, SpfIdentity, SpfQuestion, SpfResult};

/// How long a result is good, in seconds: the records that it was made of are not told.
const TTL: u32 = 60;

/// The result for the mailbox of MAIL FROM; for the null reverse-path, that for the name of the client (RFC 7208 §2.4).
pub(super) async fn answer(resolver: &MessageAuthenticator, question: SpfQuestion) -> Reply {
    let SpfQuestion {
        address,
        hello,
        sender,
        hostname,
    } = &question;
    let (parameters, identity) = if sender.is_empty() {
        let parameters = SpfParameters::verify_ehlo(*address, hello, hostname);
        (parameters, SpfIdentity::Hello)
    } else {
        let parameters = SpfParameters::verify_mail_from(*address, hello, hostname, sender);
        (parameters, SpfIdentity::MailFrom)
    };
    let output = resolver.check_host(parameters.into()).await;
    if output.result() == Checked::TempError {
        // Trouble is not kept as long as an answer.
        return Reply {
            outcome: Outcome::ServersFailed,
            ttl: 0,
        };
    }
    let answer = SpfAnswer {
        result: match output.result() {
            Checked::Pass => SpfResult::Pass,
            Checked::Fail => SpfResult::Fail,
            Checked::SoftFail => SpfResult::SoftFail,
            Checked::Neutral => SpfResult::Neutral,
            Checked::TempError => SpfResult::TempError,
            Checked::PermError => SpfResult::PermError,
            Checked::None => SpfResult::None,
        },
        domain: output.domain().to_owned(),
        identity,
    };
    Reply {
        outcome: Outcome::Found(Records::Spf(answer)),
        ttl: TTL,
    }
}
