//! What is weak about the accounts that are configured, though it works.

use atrn_relay::config::RelayConfig;
use atrn_relay::guessable::is_guessable;

use super::Findings;

impl Findings {
    pub(super) fn accounts(&mut self, config: &RelayConfig) {
        for account in &config.accounts {
            let name = &account.name;
            if is_guessable(name) {
                self.warning(
                    "accounts",
                    format!("{name} is a name that attackers try first; choose another"),
                );
            }
            let verifier = account.scram_sha_256.as_ref();
            if verifier.is_some_and(|verifier| !verifier.is_usual()) {
                self.warning(
                    "accounts",
                    format!(
                        "the verifier of {name} is of another make, by which strangers can tell that the account exists; renew it with `account rotate {name}`"
                    ),
                );
            }
        }
    }
}
