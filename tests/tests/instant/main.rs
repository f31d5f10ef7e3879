//! Instant mode, end to end: the puller stays connected, mail is inside as soon as it is accepted, and whatever goes
//! away comes back by itself.

mod changes;
mod ends;
mod idle;
mod scripted;
mod waiting;

use atrn_tests::inside::Inside;
use atrn_tests::message::{self, Message, without_trace};
use atrn_tests::process::wait_until;
use atrn_tests::tap::{End, Tap};
use atrn_tests::world::{ACCOUNT, Setup, Tls, World};

/// A relay, a corporate server, and between relay and puller a line that writes down what is said.
struct Stage {
    world: World,
    inside: Inside,
    tap: Tap,
    sent: usize,
}

impl Stage {
    /// With the daemon not yet started.
    fn new(change: impl FnOnce(Setup) -> Setup) -> Self {
        Self::with(Inside::smtp(), change)
    }

    fn with(inside: Inside, change: impl FnOnce(Setup) -> Setup) -> Self {
        let setup = World::setup()
            .tls(Tls::Off)
            .target(&inside.target())
            .puller("relay.mode", "instant")
            .puller("relay.every", "1h")
            .puller("relay.jitter", "0s");
        let world = change(setup).start();
        let tap = Tap::to(world.relay.odmr_address());
        world.puller.configure(|settings| {
            settings.set("relay.address", tap.address().to_string());
        });
        Self {
            world,
            inside,
            tap,
            sent: 0,
        }
    }

    /// The puller waits in ATRN.
    fn waiting() -> Self {
        Self::waiting_with(|setup| setup)
    }

    fn waiting_with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let mut stage = Self::new(change);
        stage.world.puller.start();
        stage.wait_until_it_waits();
        stage
    }

    /// The reversed session is there, and has nothing to do.
    fn idle() -> Self {
        Self::idle_with(|setup| setup)
    }

    fn idle_with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let mut stage = Self::waiting_with(change);
        stage.mail_arrives();
        stage.wait_until_it_waits();
        stage
    }

    /// One session of the account waits for mail: in ATRN, or behind the turn.
    #[track_caller]
    fn wait_until_it_waits(&self) {
        wait_until("the puller waits", || {
            self.world.relay.account_status(ACCOUNT)["waiting"] == 1
        });
    }

    fn send(&mut self) {
        let content = message::plain(self.sent);
        self.sent += 1;
        self.world
            .send(&[Message::new("user@example.org", content)]);
    }

    /// Mail that is sent now is inside soon, and nothing else is, and nothing twice.
    #[track_caller]
    fn mail_arrives(&mut self) {
        self.send();
        self.all_is_inside();
    }

    #[track_caller]
    fn all_is_inside(&self) {
        let arrived = self.inside.wait_for_messages(self.sent);
        let mut arrived: Vec<_> = arrived
            .iter()
            .map(|message| without_trace(&message.content).to_vec())
            .collect();
        let mut expected: Vec<_> = (0..self.sent).map(message::plain).collect();
        arrived.sort();
        expected.sort();
        assert_eq!(arrived, expected);
        self.world.relay.wait_for_queue(&[]);
    }

    fn atrns(&self) -> usize {
        self.tap.count(End::Puller, "ATRN")
    }
}
