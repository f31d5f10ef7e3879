//! Reports to senders outside: the one way on which mail of a relay goes anywhere but inside.
mod mime;
mod rebuild;
mod rule;
mod status;
#[cfg(test)]
mod testing;
