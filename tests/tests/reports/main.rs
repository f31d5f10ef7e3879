//! Reports (RFC 3464): who is told of mail that did not arrive, what they read, and what a captured relay cannot do with it.

mod captured;
mod undelivered;
