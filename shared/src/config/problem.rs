//! One line for each thing that is wrong, in the form `FILE:LINE: KEY: what is wrong; what to do`.

use std::fmt;

use super::Place;

/// One thing that is wrong, or in a list of warnings, one thing to know.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Problem {
    place: Option<Place>,
    key: Option<String>,
    text: String,
}

impl Problem {
    /// A problem with no place in a file: the text names what it is about.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            place: None,
            key: None,
            text: text.into(),
        }
    }

    /// A problem at a line.
    pub fn at(place: &Place, text: impl Into<String>) -> Self {
        Self {
            place: Some(place.clone()),
            key: None,
            text: text.into(),
        }
    }

    /// A problem with the value of a key.
    pub fn with_key(place: &Place, key: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            place: Some(place.clone()),
            key: Some(key.into()),
            text: text.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.text)
    }
}

/// Every problem of a configuration, never empty; prints one line each.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigErrors(Vec<Problem>);

impl ConfigErrors {
    /// Sorted by file and line, so that they read in the order in which one will mend them.
    #[must_use]
    pub fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort();
        problems.dedup();
        Self(problems)
    }

    /// The problems.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl From<Problem> for ConfigErrors {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
