//! The `[sandbox]` table, which is the same for both programs.

use crate::config::{Complaint, Place, Problem, Section, Value};

/// How much the process insists on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Enforcement {
    /// `true`: it does not start where the kernel cannot.
    #[default]
    Required,
    /// `"best-effort"`: as much as the kernel can.
    BestEffort,
    /// `false`.
    Off,
}

/// The `[sandbox]` table.
#[derive(Clone, Debug, Default)]
pub struct SandboxConfig {
    /// How much is insisted on.
    pub enforcement: Enforcement,
    /// Who to become, when started as root: a name or a number.
    pub user: Option<String>,
    /// Its group; absent: the user's own.
    pub group: Option<String>,
    /// Where the user stands.
    pub place: Option<Place>,
}

/// Equality but for the line in the file, which shifts when another is edited above.
impl PartialEq for SandboxConfig {
    fn eq(&self, other: &Self) -> bool {
        (self.enforcement, &self.user, &self.group)
            == (other.enforcement, &other.user, &other.group)
    }
}

impl Eq for SandboxConfig {}

impl SandboxConfig {
    /// Reads the table.
    #[must_use]
    pub fn read(section: &Section<'_>) -> Self {
        let config = Self {
            enforcement: section.or("enabled", Enforcement::Required, enforcement),
            user: section.optional("user", name),
            group: section.optional("group", name),
            place: section.has("user").then(|| section.place("user")),
        };
        if config.group.is_some() && config.user.is_none() {
            section.problem("group", "needs a user beside it");
        }
        config
    }

    /// What is wrong with the user or the group, which only the system knows.
    pub(super) fn problem(&self, key: &str, text: String) -> Problem {
        match &self.place {
            Some(place) => Problem::with_key(place, format!("sandbox.{key}"), text),
            None => Problem::new(format!("sandbox.{key}: {text}")),
        }
    }
}

fn enforcement(value: Value<'_>) -> Result<Enforcement, Complaint> {
    if let Ok(wanted) = value.boolean() {
        return Ok(match wanted {
            true => Enforcement::Required,
            false => Enforcement::Off,
        });
    }
    match value.text() {
        Ok("best-effort") => Ok(Enforcement::BestEffort),
        _ => Err(format!("{value} is none of true, false, \"best-effort\"").into()),
    }
}

fn name(value: Value<'_>) -> Result<String, Complaint> {
    match value.text()? {
        "" => Err("is empty".into()),
        name => Ok(name.to_owned()),
    }
}
