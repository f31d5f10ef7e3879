//! Reversed sessions between a relay that a test plays and a corporate server that misbehaves by script.

use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::*;
use crate::testing::{Corporate, PATIENCE, RelayEnd, Script, journal, terms};

mod deliveries;
mod ends;
mod messages;
mod offer;
mod side_by_side;

struct World {
    relay: RelayEnd,
    corporate: Corporate,
    session: JoinHandle<(Tally, End)>,
    stop: CancellationToken,
    journal: Journal,
    folder: TempDir,
}

impl World {
    async fn start(script: Script) -> Self {
        let corporate = Corporate::start(script).await;
        let folder = TempDir::new().unwrap();
        let journal = journal(&folder);
        Self::connect(corporate, journal, folder).await
    }

    async fn connect(corporate: Corporate, journal: Journal, folder: TempDir) -> Self {
        let handover = Handover::open(&corporate.setup()).await.unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let terms = terms(journal.clone());
        let stop = terms.stop.clone();
        let session = tokio::spawn(async move { serve(Wire::unix(ours), handover, &terms).await });
        Self {
            relay: RelayEnd::new(theirs),
            corporate,
            session,
            stop,
            journal,
            folder,
        }
    }

    /// Past the hello.
    async fn greeted(script: Script) -> Self {
        let mut world = Self::start(script).await;
        world.relay.hello().await;
        world
    }

    /// The relay is gone, whatever it was about to hear, and comes again.
    async fn lost(self) -> Self {
        let Self {
            relay,
            corporate,
            session,
            journal,
            folder,
            ..
        } = self;
        drop(relay);
        Self::ended(session).await;
        Self::again(corporate, journal, folder).await
    }

    /// Comes again after a session that has ended.
    async fn again(corporate: Corporate, journal: Journal, folder: TempDir) -> Self {
        let mut world = Self::connect(corporate, journal, folder).await;
        world.relay.hello().await;
        world
    }

    async fn quit(mut self) -> (Tally, Corporate) {
        self.relay.expect("QUIT\r\n", &["221 2.0.0"]).await;
        let (tally, end) = self.session.await.unwrap();
        assert!(matches!(end, End::Quit), "{end}");
        (tally, self.corporate)
    }

    /// How the session ended, with the relay's end still open.
    async fn ended(session: JoinHandle<(Tally, End)>) -> (Tally, End) {
        tokio::time::timeout(PATIENCE, session)
            .await
            .unwrap()
            .unwrap()
    }
}

const ENVELOPE: &str = "MAIL FROM:<a@b.example>\r\nRCPT TO:<u@example.org>\r\n";
const TAKEN: [&str; 2] = ["250 2.1.0", "250 2.1.5"];

fn chunk(content: &str) -> String {
    format!("BDAT {} LAST\r\n{content}", content.len())
}
