//! Every reply of the provider, in one table. None says more than its code does.

use super::Verdict;
use crate::smtp::reply::Reply;

pub(super) fn greeting(hostname: &str) -> Reply {
    Reply::bare(220, format!("{hostname} ODMR ready"))
}

/// RFC 2645 §5.2.1 and R2645-9 to R2645-13. 453, and never 450, is "no mail": customers go by it.
pub(super) fn atrn(verdict: Verdict) -> Reply {
    match verdict {
        Verdict::Turn => turning(),
        Verdict::NoMail => Reply::new(453, "4.7.0", "You have no mail"),
        Verdict::NotPermitted => Reply::new(450, "4.7.1", "ATRN request refused"),
        Verdict::TooOften => Reply::new(450, "4.7.0", "Too often, try again later"),
        Verdict::Unavailable => Reply::new(451, "4.3.0", "Unable to process ATRN request now"),
    }
}

pub(super) fn turning() -> Reply {
    Reply::new(250, "2.0.0", "OK now reversing the connection")
}

pub(super) fn bad_atrn() -> Reply {
    Reply::new(501, "5.5.4", "Syntax: ATRN [domain[,domain]...]")
}

/// The same where XWAIT is offered.
pub(super) fn bad_waiting_atrn() -> Reply {
    let syntax = "Syntax: ATRN [domain[,domain]...] [XWAIT=seconds]";
    Reply::new(501, "5.5.4", syntax)
}

pub(super) fn authentication_required() -> Reply {
    Reply::new(530, "5.7.0", "Authentication required")
}

pub(super) fn authenticated() -> Reply {
    Reply::new(235, "2.7.0", "Authentication successful")
}

pub(super) fn already_authenticated() -> Reply {
    Reply::new(503, "5.5.1", "Already authenticated")
}

/// The one reply to every failed proof (R4954-1).
pub(super) fn not_authenticated() -> Reply {
    Reply::new(535, "5.7.8", "Authentication credentials invalid")
}

pub(super) fn too_many_failures() -> Reply {
    Reply::new(421, "4.7.0", "Too many failed attempts, closing")
}

pub(super) fn accounts_unavailable() -> Reply {
    Reply::new(454, "4.7.0", "Temporary authentication failure")
}

pub(super) fn auth_cancelled() -> Reply {
    Reply::new(501, "5.7.0", "Authentication cancelled")
}

pub(super) fn auth_syntax() -> Reply {
    Reply::new(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]")
}

pub(super) fn no_initial_response() -> Reply {
    Reply::new(501, "5.5.4", "This mechanism takes no initial response")
}

pub(super) fn bad_base64() -> Reply {
    Reply::new(501, "5.5.2", "Cannot decode base64")
}

pub(super) fn unknown_mechanism() -> Reply {
    Reply::new(504, "5.5.4", "Mechanism not offered")
}

pub(super) fn encryption_required() -> Reply {
    Reply::new(538, "5.7.11", "Encryption required for this mechanism")
}

pub(super) fn must_start_tls() -> Reply {
    Reply::new(530, "5.7.0", "Must issue a STARTTLS command first")
}

pub(super) fn hello_first() -> Reply {
    Reply::new(503, "5.5.1", "EHLO first")
}

pub(super) fn ready_for_tls() -> Reply {
    Reply::new(220, "2.0.0", "Ready to start TLS")
}

pub(super) fn tls_already_active() -> Reply {
    Reply::new(503, "5.5.1", "TLS is already active")
}

pub(super) fn tls_not_available() -> Reply {
    Reply::new(454, "4.7.0", "TLS not available now")
}

pub(super) fn pipelined() -> Reply {
    Reply::new(
        554,
        "5.5.1",
        "Octets behind a command that must be the last, closing",
    )
}

pub(super) fn ok() -> Reply {
    Reply::new(250, "2.0.0", "OK")
}

pub(super) fn help() -> Reply {
    Reply::new(
        214,
        "2.0.0",
        "EHLO STARTTLS AUTH ATRN NOOP RSET HELP QUIT; see RFC 2645",
    )
}

pub(super) fn bye(hostname: &str) -> Reply {
    Reply::new(221, "2.0.0", format!("{hostname} closing"))
}

/// For commands of SMTP that have no place here (R2645-3).
pub(super) fn not_here() -> Reply {
    Reply::new(502, "5.5.1", "Command not implemented here")
}

pub(super) fn unknown_command() -> Reply {
    Reply::new(500, "5.5.2", "Command not recognised")
}

pub(super) fn no_argument() -> Reply {
    Reply::new(501, "5.5.4", "No argument expected")
}

pub(super) fn not_printable() -> Reply {
    Reply::new(500, "5.5.2", "Commands are printable and end with CRLF")
}

pub(super) fn line_too_long() -> Reply {
    Reply::new(500, "5.5.2", "Line too long")
}

pub(super) fn auth_line_too_long() -> Reply {
    Reply::new(500, "5.5.6", "Line too long, closing")
}

pub(super) fn too_many_errors() -> Reply {
    Reply::new(421, "4.7.0", "Too many errors, closing")
}

pub(super) fn too_many_commands() -> Reply {
    Reply::new(421, "4.7.0", "Too many commands, closing")
}
