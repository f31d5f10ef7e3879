//! Faults of the system below the programs, made on order: a call that fails, a disk that is full, descriptors that
//! are used up, a database that somebody else has locked, a wall clock that jumps. And the ledger that says what came of the mail.
//!
//! Single calls are made to fail by `strace`, which is attached to the running program and leaves it again: the fault
//! ends, and the program goes on without a restart.
//!
//! ```no_run
//! # use atrn_tests::{faults::Fault, world::World};
//! # let world = World::start();
//! let log = world.relay.data_folder().join("queue.db-wal");
//! let injected = Fault::new("fdatasync", "EIO").at(&log).inject(world.relay.id());
//! // … a sender hears 451 …
//! assert!(injected.end().hits() > 0);
//! ```

mod clock;
mod descriptors;
mod disk;
mod inject;
mod ledger;
mod table;

pub use clock::WallClock;
pub use descriptors::Descriptors;
pub use disk::{Disk, Lock};
pub use inject::{Call, Fault, Injected, Trace};
pub use ledger::{Counts, Ledger};
pub use table::{Page, Row};
