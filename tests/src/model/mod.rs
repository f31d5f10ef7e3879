//! Models of the protocol, small enough to look at every state that they can come to.
//!
//! * [`explorer`]: looks at all of them, and prints the way to one that must not be;
//! * [`ownership`]: who owns a message, from the sender to the corporate server, with losses and crashes at every step.

pub mod explorer;
pub mod ownership;
