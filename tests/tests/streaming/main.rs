//! Several messages under way in one reversed session (RFC 2920, RFC 3030): answers belong to their deliveries whatever
//! happens in the middle, and what is not answered is not lost.

mod puller;
mod relay;
mod targets;
