//! `run`: the daemon.

use atrn_shared::cli::{Common, Failure};
use atrn_shared::config::{Loaded, WatchedFiles};
use clap::Args;

use super::{built, load, stop_on_signals};
use crate::daemon;

/// Stay connected to every relay, or pull on its schedule, until SIGTERM
///
/// Changed files are taken up at once; SIGHUP does the same. A poll under way is not disturbed; a session in instant mode
/// ends between two messages, and begins anew.
#[derive(Args, Debug)]
pub(super) struct RunCommand {}

impl RunCommand {
    pub(super) fn run(&self, common: &Common) -> Result<(), Failure> {
        let files = WatchedFiles::about_to_read(&common.config());
        let Loaded { config, notes, .. } = load(common)?;
        notes.log_changed();
        let runtime = built(&mut tokio::runtime::Builder::new_multi_thread())?;
        let outcome = runtime.block_on(async {
            let stop = stop_on_signals()?;
            daemon::run(files, config, stop).await
        });
        // A name look-up that hangs must not keep the process.
        runtime.shutdown_background();
        outcome
    }
}
