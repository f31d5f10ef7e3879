//! Names that attackers try before any other, as the logs of every public mail and SSH server show.

/// Without digits behind them, in lower case.
const NAMES: [&str; 78] = [
    "abuse",
    "account",
    "admin",
    "administrador",
    "administrator",
    "adm",
    "anonymous",
    "apache",
    "backup",
    "billing",
    "bin",
    "contact",
    "daemon",
    "data",
    "default",
    "demo",
    "dev",
    "email",
    "fax",
    "ftp",
    "ftpuser",
    "git",
    "guest",
    "helpdesk",
    "hostmaster",
    "hr",
    "info",
    "invoice",
    "it",
    "jobs",
    "localadmin",
    "login",
    "mail",
    "mailer",
    "mailman",
    "manager",
    "marketing",
    "master",
    "monitor",
    "mysql",
    "nagios",
    "newsletter",
    "nobody",
    "noc",
    "noreply",
    "office",
    "operator",
    "oracle",
    "password",
    "pi",
    "postfix",
    "postgres",
    "postmaster",
    "public",
    "relay",
    "root",
    "sales",
    "scan",
    "scanner",
    "security",
    "server",
    "service",
    "smtp",
    "spam",
    "staff",
    "support",
    "sysadmin",
    "system",
    "temp",
    "test",
    "tester",
    "testing",
    "ubuntu",
    "user",
    "username",
    "web",
    "webmaster",
    "www",
];

/// Whether a name is among those that are tried first; with digits behind it, or as the local-part of an address, too.
#[must_use]
pub fn is_guessable(name: &str) -> bool {
    let local_part = name.split('@').next().unwrap_or_default();
    let stem =
        local_part.trim_end_matches(|last: char| last.is_ascii_digit() || "._-".contains(last));
    let stem = stem.to_ascii_lowercase();
    NAMES.contains(&stem.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_everybody_tries_is_guessable() {
        for (name, expected) in [
            ("admin", true),
            ("Administrator", true),
            ("root", true),
            ("test", true),
            ("guest", true),
            ("webmaster", true),
            ("backup", true),
            ("info", true),
            ("test123", true),
            ("admin-2", true),
            ("info@example.com", true),
            ("corp", false),
            ("k7-frankfurt", false),
            ("testimony", false),
            ("backup-acme", false),
            ("123", false),
        ] {
            assert_eq!(is_guessable(name), expected, "{name}");
        }
    }
}
