//! The Internet listener of the real relay, over real sockets: order, limits, framing, extensions,
//! and what nobody may get it to do.
