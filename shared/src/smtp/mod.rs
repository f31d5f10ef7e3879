//! SMTP without sockets: bytes in, events and bytes out.
//!
//! The two machines, [`server::Server`] (who receives mail) and [`client::Client`] (who sends it), hold
//! all knowledge of RFC 5321 and its extensions. They read from an [`line::Input`], write into an
//! output buffer, and never block, sleep, log or look at a clock: the driver does that, and a driver is
//! a loop without protocol knowledge. So the same machine serves the Internet, the reversed session and
//! the tests.

pub mod address;
pub mod bdat;
pub mod client;
pub mod command;
pub mod content;
pub mod data;
pub mod exchange;
pub mod extension;
pub mod limits;
pub mod line;
pub mod pace;
pub mod parameter;
pub mod reply;
pub mod server;
pub mod trace;
