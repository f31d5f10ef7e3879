//! One command line: its verb and its argument, and the grammar of each argument (RFC 5321 §4.1.1).

use super::address::{AddressError, ForwardPath, ReversePath, check_host, split_path};
use super::parameter::{MailParameters, ParameterError, RcptParameters};
use super::reply::Reply;

/// The verbs that the field knows; each server says which of them it implements.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verb {
    /// Authenticated TURN (RFC 2645).
    Atrn,
    /// RFC 4954.
    Auth,
    /// RFC 3030.
    Bdat,
    /// Begins the content.
    Data,
    /// Says hello and asks for extensions.
    Ehlo,
    /// RFC 1985: remote queue start, which this software never offers.
    Etrn,
    /// Expands a list.
    Expn,
    /// Says hello in the old way.
    Helo,
    /// Help.
    Help,
    /// The hello of LMTP (RFC 2033).
    Lhlo,
    /// Begins a transaction.
    Mail,
    /// Nothing.
    Noop,
    /// Ends the session.
    Quit,
    /// Names a recipient.
    Rcpt,
    /// Ends the transaction.
    Rset,
    /// RFC 821's SEND, SOML and SAML.
    Send,
    /// RFC 3207.
    StartTls,
    /// RFC 821's unauthenticated reversal.
    Turn,
    /// Verifies an address.
    Vrfy,
}

const VERBS: [(&str, Verb); 21] = [
    ("ATRN", Verb::Atrn),
    ("AUTH", Verb::Auth),
    ("BDAT", Verb::Bdat),
    ("DATA", Verb::Data),
    ("EHLO", Verb::Ehlo),
    ("ETRN", Verb::Etrn),
    ("EXPN", Verb::Expn),
    ("HELO", Verb::Helo),
    ("HELP", Verb::Help),
    ("LHLO", Verb::Lhlo),
    ("MAIL", Verb::Mail),
    ("NOOP", Verb::Noop),
    ("QUIT", Verb::Quit),
    ("RCPT", Verb::Rcpt),
    ("RSET", Verb::Rset),
    ("SAML", Verb::Send),
    ("SEND", Verb::Send),
    ("SOML", Verb::Send),
    ("STARTTLS", Verb::StartTls),
    ("TURN", Verb::Turn),
    ("VRFY", Verb::Vrfy),
];

impl Verb {
    /// As it is said; of the three for a terminal the first.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Atrn => "ATRN",
            Self::Auth => "AUTH",
            Self::Bdat => "BDAT",
            Self::Data => "DATA",
            Self::Ehlo => "EHLO",
            Self::Etrn => "ETRN",
            Self::Expn => "EXPN",
            Self::Helo => "HELO",
            Self::Help => "HELP",
            Self::Lhlo => "LHLO",
            Self::Mail => "MAIL",
            Self::Noop => "NOOP",
            Self::Quit => "QUIT",
            Self::Rcpt => "RCPT",
            Self::Rset => "RSET",
            Self::Send => "SEND",
            Self::StartTls => "STARTTLS",
            Self::Turn => "TURN",
            Self::Vrfy => "VRFY",
        }
    }
}

/// Splits a line into a known verb, in any case, and its argument without trailing blanks.
///
/// `None`: no verb that anybody knows, or not UTF-8.
#[must_use]
pub fn split(line: &[u8]) -> Option<(Verb, &str)> {
    let line = std::str::from_utf8(line)
        .ok()?
        .trim_end_matches([' ', '\t']);
    let (word, argument) = line.split_once(' ').unwrap_or((line, ""));
    let (_, verb) = VERBS
        .iter()
        .find(|(name, _)| word.eq_ignore_ascii_case(name))?;
    Some((*verb, argument))
}

/// The known verb that leads an argument that is not UTF-8: a bad argument, not an unknown command (R6531-1).
#[must_use]
pub fn garbled(line: &[u8]) -> Option<Verb> {
    let error = std::str::from_utf8(line).err()?;
    split(&line[..error.valid_up_to()]).map(|(verb, _)| verb)
}

/// Why an argument was refused; [`ArgumentError::reply`] is what the peer hears.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ArgumentError {
    /// A path that is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A parameter that is none, or not offered.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// Not of the command's form.
    #[error("syntax error in the argument")]
    Syntax,
}

impl ArgumentError {
    /// The refusal of RFC 5321 §4.2 and RFC 3463 for this error.
    #[must_use]
    pub fn reply(self) -> Reply {
        match self {
            Self::Address(AddressError::Idna) => {
                Reply::new(550, "5.1.2", "Domain name is not valid in IDNA2008")
            }
            Self::Address(AddressError::SourceRoute) => {
                Reply::new(550, "5.1.3", "Source routes are not accepted")
            }
            Self::Address(AddressError::Syntax) => Reply::new(501, "5.1.3", "Bad address syntax"),
            Self::Address(AddressError::TooLong) => Reply::new(501, "5.1.3", "Address too long"),
            Self::Parameter(ParameterError::Unknown) => {
                Reply::new(555, "5.5.4", "Parameter not supported")
            }
            Self::Parameter(ParameterError::Twice) => {
                Reply::new(501, "5.5.4", "Parameter given twice")
            }
            Self::Parameter(ParameterError::Value) => {
                Reply::new(501, "5.5.4", "Bad parameter value")
            }
            Self::Syntax => Reply::new(501, "5.5.4", "Syntax error in arguments"),
        }
    }
}

/// The name after EHLO, HELO or LHLO. It proves nothing and is never a reason to refuse (R5321-3).
///
/// # Errors
/// [`ArgumentError::Syntax`] when it is missing or has octets that no host name has.
pub fn parse_hello(argument: &str) -> Result<&str, ArgumentError> {
    check_host(argument).map_err(|_| ArgumentError::Syntax)?;
    Ok(argument)
}

/// `FROM:<reverse-path> parameters`
///
/// # Errors
/// [`ArgumentError`] names the refusal.
pub fn parse_mail(argument: &str) -> Result<(ReversePath, MailParameters), ArgumentError> {
    let (path, parameters) = split_path(after_keyword(argument, "FROM:")?)?;
    Ok((
        ReversePath::from_address(path)?,
        MailParameters::parse(parameters)?,
    ))
}

/// `TO:<forward-path> parameters`
///
/// # Errors
/// [`ArgumentError`] names the refusal.
pub fn parse_rcpt(argument: &str) -> Result<(ForwardPath, RcptParameters), ArgumentError> {
    let (path, parameters) = split_path(after_keyword(argument, "TO:")?)?;
    Ok((
        ForwardPath::from_address(path)?,
        RcptParameters::parse(parameters)?,
    ))
}

/// `octets [LAST]` of BDAT (RFC 3030 §2).
///
/// # Errors
/// [`ArgumentError::Syntax`]: then nobody knows how many octets follow, and the connection must close.
pub fn parse_bdat(argument: &str) -> Result<(u64, bool), ArgumentError> {
    let (octets, last) = match argument.split_once(' ') {
        None => (argument, false),
        Some((octets, word)) if word.trim_matches(' ').eq_ignore_ascii_case("LAST") => {
            (octets, true)
        }
        Some(_) => return Err(ArgumentError::Syntax),
    };
    let is_number =
        (1..=20).contains(&octets.len()) && octets.bytes().all(|octet| octet.is_ascii_digit());
    if !is_number {
        return Err(ArgumentError::Syntax);
    }
    let octets = octets.parse().map_err(|_| ArgumentError::Syntax)?;
    Ok((octets, last))
}

fn after_keyword<'a>(argument: &'a str, keyword: &str) -> Result<&'a str, ArgumentError> {
    match argument.get(..keyword.len()) {
        Some(start) if start.eq_ignore_ascii_case(keyword) => Ok(&argument[keyword.len()..]),
        _ => Err(ArgumentError::Syntax),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers: R5321-2, R5321-11
    #[test]
    fn verbs_count_in_any_case_and_blanks_may_trail() {
        for (line, expected) in [
            ("noop", Some((Verb::Noop, ""))),
            ("EhLo a.example \t ", Some((Verb::Ehlo, "a.example"))),
            ("MAIL FROM:<>", Some((Verb::Mail, "FROM:<>"))),
            ("SAML FROM:<>", Some((Verb::Send, "FROM:<>"))),
            ("", None),
            (" NOOP", None),
            ("NOOPS", None),
            ("MAIL\tFROM:<>", None),
        ] {
            assert_eq!(split(line.as_bytes()), expected, "{line:?}");
        }
        assert_eq!(split(b"NOOP \xff"), None);
        for (line, verb) in [
            (&b"NOOP \xff"[..], Some(Verb::Noop)),
            (b"BDAT 5 \xff", Some(Verb::Bdat)),
            (b"NOOP", None),
            (b"\xff", None),
            (b"XYZZY \xff", None),
        ] {
            assert_eq!(garbled(line), verb, "{line:?}");
        }
    }

    // covers: R5321-3
    #[test]
    fn the_name_after_ehlo_is_a_host_or_a_literal() {
        for good in [
            "a.example",
            "localhost",
            "[192.0.2.1]",
            "[IPv6:::1]",
            "my_host.example",
        ] {
            assert_eq!(parse_hello(good), Ok(good));
        }
        for bad in [
            "",
            "a b",
            "<a>",
            "a(b)",
            "bücher.example",
            "[nonsense]",
            "a\u{7f}b",
        ] {
            assert_eq!(parse_hello(bad), Err(ArgumentError::Syntax), "{bad}");
        }
    }

    // covers: R5321-6, R5321-10, R5321-12
    #[test]
    fn mail_and_rcpt_take_a_path_in_brackets() {
        for (argument, path, parameters) in [
            ("FROM:<>", "", ""),
            ("from: <a@b.example> SIZE=1", "a@b.example", " SIZE=1"),
            ("FROM:<@r.example:a@b.example>", "a@b.example", ""),
        ] {
            let (found, with) = parse_mail(argument).unwrap();
            assert_eq!(
                (found.to_string().as_str(), with.to_string().as_str()),
                (path, parameters)
            );
        }
        for (argument, code) in [
            ("", 501),
            ("FROM", 501),
            ("FROM:a@b.example", 501),
            ("FROM:<a@b.example>x", 501),
            ("FROM:<a@b.example> X=1", 555),
            ("FROM:<a@b.example> SIZE=x", 501),
            ("FROM:<a@b.example> BODY=7BIT BODY=7BIT", 501),
        ] {
            assert_eq!(
                parse_mail(argument).unwrap_err().reply().code(),
                code,
                "{argument}"
            );
        }
        assert_eq!(
            parse_rcpt("TO:<postmaster>").unwrap().0,
            ForwardPath::Postmaster
        );
        for (argument, code) in [
            ("TO:<>", 501),
            ("TO:<user>", 501),
            ("TO:<@r.example:a@b.example>", 550),
            ("TO:<a@b.example>,<c@d.example>", 501),
            ("TO:<a@exam\u{ad}ple.com>", 550),
        ] {
            assert_eq!(
                parse_rcpt(argument).unwrap_err().reply().code(),
                code,
                "{argument}"
            );
        }
    }

    // covers: R3030-1
    #[test]
    fn bdat_takes_a_number_and_perhaps_last() {
        assert_eq!(parse_bdat("0"), Ok((0, false)));
        assert_eq!(parse_bdat("86 last"), Ok((86, true)));
        for bad in [
            "",
            "x",
            "-1",
            "1 FIRST",
            "123456789012345678901",
            "99999999999999999999",
        ] {
            assert_eq!(parse_bdat(bad), Err(ArgumentError::Syntax), "{bad}");
        }
    }
}
