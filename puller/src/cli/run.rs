//! `run`: the daemon.

use atrn_shared::cli::{Common, Failure};
use atrn_shared::config::{Loaded, WatchedFiles};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{built, load, stop_on_signals};
use crate::daemon;
use crate::sandbox;

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
        // What is wrong with the files leaves nothing behind.
        config.check_files()?;
        sandbox::check_reach(&config, files.main())?;
        // Every thread is started inside of it.
        let confined = sandbox::enter(&config, files.main())?;
        let runtime = built(&mut tokio::runtime::Builder::new_multi_thread())?;
        let outcome = runtime.block_on(async {
            let stop = CancellationToken::new();
            stop_on_signals(&stop)?;
            daemon::run(files, config, confined, stop).await
        });
        // A name look-up that hangs must not keep the process.
        runtime.shutdown_background();
        outcome
    }
}
