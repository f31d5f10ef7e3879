//! Exit codes, those of sysexits.h where one fits, so that cron jobs and monitors can tell why.

use std::fmt;

use crate::config::ConfigErrors;

/// How a command ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExitCode {
    /// All is well: mail was pulled, or there was none.
    Success,
    /// It failed; standard error says why.
    Failed,
    /// The command line is wrong.
    Usage,
    /// The relay cannot be reached.
    RelayUnreachable,
    /// The hand-over target is down; ATRN was not sent.
    TargetDown,
    /// The relay says later (451, another 4yz), or the session broke.
    TryLater,
    /// The peer does not offer ATRN, or breaks the protocol.
    Protocol,
    /// Refused: 450, 530, 535, or a certificate or pin that does not match.
    Refused,
    /// The configuration is wrong.
    Config,
}

impl ExitCode {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::RelayUnreachable => 69,
            Self::TargetDown => 71,
            Self::TryLater => 75,
            Self::Protocol => 76,
            Self::Refused => 77,
            Self::Config => 78,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}

/// Why a command ends early: what to print, a problem a line, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// How the command ends.
    pub code: ExitCode,
    /// What to print after `error: `; each line is an error of its own.
    pub text: String,
}

impl Failure {
    /// A failure that ends with `code`.
    pub fn new(code: ExitCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// The usual one, exit code 1.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::new(ExitCode::Failed, text)
    }

    /// An error and what caused it, in one line.
    #[must_use]
    pub fn from_error(code: ExitCode, error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Transparent wrappers say the same again.
            if !text.ends_with(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        Self::new(code, text.replace('\n', " "))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::new(ExitCode::Config, errors.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open {what}")]
    struct Outer {
        what: &'static str,
        source: Inner,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("permission\ndenied")]
    struct Inner;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read: {0}")]
    struct Wrapping(#[source] Inner);

    #[test]
    fn a_failure_is_one_line_that_ends_with_its_cause() {
        let outer = Outer {
            what: "queue.db",
            source: Inner,
        };
        let failure = Failure::from_error(ExitCode::Failed, &outer);
        assert_eq!(failure.text, "cannot open queue.db: permission denied");
        let failure = Failure::from_error(ExitCode::Failed, &Wrapping(Inner));
        assert_eq!(
            failure.text, "cannot read: permission denied",
            "a cause is said once"
        );
    }

    #[test]
    fn each_problem_of_a_configuration_is_a_line_and_the_code_is_78() {
        let errors = ConfigErrors::new(vec![
            crate::config::Problem::new("one"),
            crate::config::Problem::new("another"),
        ]);
        let failure = Failure::from(errors);
        assert_eq!(
            (failure.code.code(), failure.text.as_str()),
            (78, "another\none")
        );
    }
}
