//! Which domains an ATRN gets: a pure decision on the account and its wish.

use atrn_shared::smtp::address::Domain;

use crate::config::AccountConfig;

/// The domains to drain, or `None` when the whole command is refused.
///
/// One domain that is not the account's refuses all (R2645-9), without a word on whether it exists.
/// No domain named means all of the account's (R2645-8).
pub(super) fn granted(account: Option<&AccountConfig>, wanted: &[Domain]) -> Option<Vec<Domain>> {
    let account = account.filter(|account| !account.disabled)?;
    if wanted.is_empty() {
        return Some(account.domains.clone());
    }
    wanted
        .iter()
        .all(|domain| account.domains.contains(domain))
        .then(|| wanted.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;

    // covers: R2645-8, R2645-9
    #[test]
    fn all_or_nothing() {
        let domain = |name: &str| format!("[[domain]]\nname = \"{name}\"\n");
        let account = |name: &str, pin: &str, rest: &str| {
            format!(
                "[[account]]\nname = \"{name}\"\ncertificate_pins = [\"sha256/{}=\"]\n{rest}\n",
                pin.repeat(43)
            )
        };
        let config = config(
            &[
                "hostname = \"mx.example\"\n".to_owned(),
                domain("a.example"),
                domain("b.example"),
                domain("c.example"),
                account("corp", "A", "domains = [\"a.example\", \"b.example\"]"),
                account("off", "E", "domains = [\"c.example\"]\ndisabled = true"),
            ]
            .concat(),
        );
        let ask = |account: &str, wanted: &[&str]| {
            let wanted: Vec<_> = wanted
                .iter()
                .map(|name| Domain::parse(name).unwrap())
                .collect();
            let granted = granted(config.account(account), &wanted);
            granted.map(|domains| {
                domains
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(",")
            })
        };
        assert_eq!(ask("corp", &[]).as_deref(), Some("a.example,b.example"));
        assert_eq!(ask("corp", &["B.example"]).as_deref(), Some("b.example"));
        assert_eq!(ask("corp", &["a.example", "c.example"]), None);
        assert_eq!(ask("corp", &["a.example", "nowhere.example"]), None);
        assert_eq!(ask("off", &[]), None);
        assert_eq!(ask("removed", &[]), None);
    }
}
