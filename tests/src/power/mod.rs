//! What a power loss leaves behind.
//!
//! A kill leaves everything that a program has written; a power loss only what it has synced, and any mixture of the
//! rest. So the real programs run under strace, which writes down every write, sync and rename with its octets, and
//! every reply; then, for thousands of moments, a folder is made as a disk could be found after a power loss in that
//! moment, opened by the real code, and compared with what had been promised by then.
//!
//! * [`trace`]: a program under strace, as calls in one order;
//! * [`recorder`]: calls as files and dialogues;
//! * [`disk`]: what may be found after a cut;
//! * [`cuts`]: thousands of them;
//! * [`relay`], [`puller`]: a load, what was promised under it, and how an image is compared with that.

mod content;
pub mod cuts;
pub mod disk;
pub mod fate;
mod line;
mod program;
pub mod puller;
pub mod recorder;
pub mod relay;
pub mod trace;

pub use cuts::{AfterLoss, Cuts, Ledger, Loss, Verdict, fast_folder};
pub use disk::{Disk, Image};
pub use fate::Fates;
pub use recorder::Recording;
pub use trace::{Moment, under_strace};
