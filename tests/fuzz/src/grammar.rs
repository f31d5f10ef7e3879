//! Command lines, addresses and parameters: what parses is printed as what parses the same.

use atrn_shared::odmr::Atrn;
use atrn_shared::smtp::address::{Domain, ForwardPath, Mailbox, ReversePath, check_host};
use atrn_shared::smtp::command::{self, Verb};
use atrn_shared::smtp::limits::{DOMAIN_OCTETS, LOCAL_PART_OCTETS, PATH_OCTETS};
use atrn_shared::smtp::parameter::{MailParameters, RcptParameters};

/// One command line, whatever it holds.
pub fn command_line(line: &[u8]) {
    let garbled = command::garbled(line).is_some();
    let Some((verb, argument)) = command::split(line) else {
        return;
    };
    assert!(!garbled && !argument.ends_with([' ', '\t']));
    match verb {
        Verb::Mail => mail(argument),
        Verb::Rcpt => rcpt(argument),
        Verb::Atrn => atrn(argument),
        Verb::Bdat => {
            let _ = command::parse_bdat(argument);
        }
        _ => {
            if let Ok(name) = command::parse_hello(argument) {
                assert!(is_one_word(name) && name.is_ascii());
            }
        }
    }
}

fn mail(argument: &str) {
    let Ok((path, parameters)) = command::parse_mail(argument) else {
        return;
    };
    let printed = format!("FROM:<{path}>{parameters}");
    assert!(!printed.contains(char::is_control), "{printed:?}");
    assert_eq!(command::parse_mail(&printed), Ok((path, parameters)));
}

fn rcpt(argument: &str) {
    let Ok((path, parameters)) = command::parse_rcpt(argument) else {
        return;
    };
    let printed = format!("TO:<{path}>{parameters}");
    assert!(!printed.contains(char::is_control), "{printed:?}");
    assert_eq!(command::parse_rcpt(&printed), Ok((path, parameters)));
}

fn atrn(argument: &str) {
    let Ok(atrn) = Atrn::parse(argument) else {
        return;
    };
    let printed = atrn.to_string();
    let argument = printed.strip_prefix("ATRN").expect("the whole command");
    let argument = argument.strip_prefix(' ').unwrap_or(argument);
    assert_eq!(Atrn::parse(argument), Ok(atrn));
}

/// Domains, mailboxes, paths and the names of hosts.
pub fn addresses(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(domain) = Domain::parse(text) {
        let name = domain.as_str();
        assert!(name.len() <= DOMAIN_OCTETS && !name.contains(|c: char| c.is_ascii_uppercase()));
        assert!(check_host(name).is_ok() && domain.labels() > 0);
        assert_eq!(
            Domain::parse(name).as_ref(),
            Ok(&domain),
            "one name, one form"
        );
        assert_eq!(
            Domain::parse(&text.to_ascii_uppercase()),
            Ok(domain),
            "case is nothing"
        );
    }
    if let Ok(mailbox) = Mailbox::parse(text) {
        assert!(!text.contains(char::is_control) && text.len() + 2 <= PATH_OCTETS);
        assert_eq!(mailbox.as_str(), text);
        assert!((1..=LOCAL_PART_OCTETS).contains(&mailbox.local_part().len()));
        let domain = &text[mailbox.local_part().len() + 1..];
        assert_eq!(Domain::parse(domain).ok().as_ref(), mailbox.domain());
    }
    if let Ok(path) = ReversePath::from_address(text) {
        assert_eq!(ReversePath::from_address(&path.to_string()), Ok(path));
    }
    if let Ok(path) = ForwardPath::from_address(text) {
        assert_eq!(ForwardPath::from_address(&path.to_string()), Ok(path));
    }
    if check_host(text).is_ok() {
        assert!(text.is_ascii() && is_one_word(text));
    }
}

/// Parameters of MAIL and RCPT.
pub fn parameters(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(parameters) = MailParameters::parse(text) {
        assert_eq!(
            MailParameters::parse(&parameters.to_string()),
            Ok(parameters)
        );
    }
    if let Ok(parameters) = RcptParameters::parse(text) {
        let printed = parameters.to_string();
        assert!(!printed.contains(char::is_control), "{printed:?}");
        assert_eq!(RcptParameters::parse(&printed), Ok(parameters));
    }
}

fn is_one_word(text: &str) -> bool {
    !text.contains(|c: char| c.is_control() || c.is_whitespace())
}
