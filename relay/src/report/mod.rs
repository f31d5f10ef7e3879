//! Reports (delivery status notifications, RFC 3461, 3464, 6522, 3834): whom to tell what became of a message, and the
//! message that tells it. Pure: the content is read, the time taken and the report queued by [`crate::closing`].

mod fields;
mod message;
mod routing;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use self::message::{Notice, Original, REPORT_OCTETS, Told};
pub(crate) use self::routing::{Case, Fate, addressee};
