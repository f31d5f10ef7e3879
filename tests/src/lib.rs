//! The harness: everything that the end-to-end tests, the interop tests, the benchmarks and
//! `cargo quickstart` share. It starts the real programs and plays everybody they talk with.
//!
//! * [`world`]: a relay and a puller, real processes in a temporary folder;
//! * [`inside`]: the corporate mail server, which records everything and misbehaves on order;
//! * [`sender`]: the Internet, which sends mail;
//! * [`lossy`]: a line between puller and relay on which answers are lost;
//! * [`delay`]: a line between them with a round-trip time and a bandwidth;
//! * [`dns`]: a name server that says what a test wants;
//! * [`tap`]: a line between them that writes down what is said, and can be cut or freeze;
//! * [`peer`]: one connection in the hands of a test, line by line or octet by octet;
//! * [`taker`]: the puller, behind the turn, and its answers in the hands of a test;
//! * [`intruder`]: system calls made by the threads of a running program;
//! * [`captured`]: a relay that went over to the enemy, and the puller that trusts it;
//! * [`transcript`]: dialogues from files, played against both machines and both programs;
//! * [`software`]: other people's mail software, where it is installed;
//! * [`faults`]: calls that fail, disks that are full, and the ledger of what came of the mail;
//! * [`power`]: what a power loss leaves, for thousands of moments;
//! * [`zones`]: the Internet, a DMZ and a corporate network, as hosts with a firewall between them;
//! * [`campaign`]: both programs killed again and again, and the ledger of what came of the mail;
//! * [`conformance`]: which test covers which requirement.
//!
//! All of it is blocking code on threads with deadlines: a test reads from top to bottom, and
//! a failure shows the dialogue and the logs of the programs.

pub mod campaign;
pub mod captured;
pub mod certs;
pub mod conformance;
pub mod delay;
pub mod dns;
pub mod faults;
pub mod inside;
#[cfg(target_arch = "x86_64")]
pub mod intruder;
pub mod log_lines;
pub mod lossy;
pub mod message;
pub mod model;
pub mod peer;
pub mod ports;
pub mod power;
pub mod process;
pub mod sender;
pub mod software;
pub mod stream;
pub mod taker;
pub mod tap;
pub mod transcript;
pub mod world;
pub mod zones;
