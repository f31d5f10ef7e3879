//! Who is killed when: at random moments, and at every boundary.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use fastrand::Rng;
use nix::sys::signal::Signal;

use super::boundary::{Boundary, Place, Side, Traffic};
use super::ledger::{Ledger, Target};
use super::load::Load;
use super::parties::{Parties, Who, in_doubt};
use super::report::Kills;
use super::tracer::{SetTrap, Trap};

/// A trap that has not sprung by then is taken away.
const TRAP_PATIENCE: Duration = Duration::from_secs(8);
/// What comes now and then, and surely when a program is told to stop, is waited for so long.
const USUAL_PATIENCE: Duration = Duration::from_secs(1);
/// While a trap waits, a `pull` begins so often.
const PULL_EVERY: Duration = Duration::from_millis(500);
/// Deliveries that must wait before settlements are watched alone.
const BACKLOG: usize = 50;
/// Of ten kills so many are at boundaries, where they can be.
const TRAPS_OF_TEN: u8 = 6;
/// A random kill comes so long after the last one at most …
const RANDOM_AFTER_MAX: Duration = Duration::from_millis(400);
/// … and so long after its victim was started, when it is to die young.
const YOUNG_MAX: Duration = Duration::from_millis(80);

/// The one that kills. It owns the programs; everybody else lives on threads of his own.
#[derive(Debug)]
pub(super) struct Killer<'a> {
    pub(super) parties: Parties,
    pub(super) load: Load,
    pub(super) ledger: Arc<Ledger>,
    pub(super) random: Rng,
    /// The program that traces; none when the system forbids it.
    pub(super) tracer: Option<&'a Path>,
    pub(super) kills: Kills,
    /// Whom the last trap was set for that had its time, and since when: it may have sprung in that very moment, and
    /// nobody was there any more to say so.
    pub(super) in_doubt: Option<(Who, Instant)>,
}

impl Killer<'_> {
    /// One kill, or a trap that did not spring.
    pub(super) fn turn(&mut self) -> Result<()> {
        self.revive()?;
        if self.tracer.is_some() && self.random.u8(..10) < TRAPS_OF_TEN {
            let (boundary, side) = self.kills.rarest(&mut self.random);
            self.trap(boundary, side)
        } else {
            self.strike()
        }
    }

    /// Kills at a boundary.
    pub(super) fn trap(&mut self, boundary: Boundary, side: Side) -> Result<()> {
        let Some(tracer) = self.tracer else {
            return Ok(());
        };
        let victim = self.victim(boundary);
        let trap = Trap {
            boundary,
            side,
            passed: boundary.passed_min() + self.random.u32(..=boundary.passed_max()),
        };
        self.direct(boundary.traffic());
        let from = Instant::now();
        let sprang = match self.parties.process(victim).map(|process| process.id()) {
            // It ended by itself since it was looked at last; the next look tells.
            None => Ok(false),
            Some(id) => trap.set(tracer, id).map(|set| {
                self.let_pull(boundary.traffic());
                set.is_some_and(|set| self.springs(set, boundary, victim))
            }),
        };
        self.undirect();
        let sprang = sprang?;
        self.kills.trapped(boundary, side, sprang);
        let (name, victim_name) = (boundary.name(), victim.name());
        let outcome = if sprang { "killed" } else { "missed" };
        self.ledger
            .note(&format!("{outcome} {side} {name}: {victim_name}"));
        if sprang {
            self.bury(victim, from);
            self.kills.count(&[victim]);
            self.perhaps_another(victim);
        } else {
            self.in_doubt = Some((victim, from));
        }
        self.complain(None);
        Ok(())
    }

    /// Starts whoever is dead.
    pub(super) fn revive(&mut self) -> Result<()> {
        self.complain(None);
        self.in_doubt = None;
        self.parties.start(Who::Relay);
        self.parties.wait_for_relay()?;
        for target in Target::ALL {
            self.parties.wake(target);
            if self.random.bool() {
                self.parties.start(Who::Pull(target));
            }
        }
        Ok(())
    }

    /// Kills at a moment that nobody has chosen.
    fn strike(&mut self) -> Result<()> {
        let victims = self.victims();
        let wait = if self.random.u8(..10) < 3 {
            // It dies while it starts; what it does then is to be safe too.
            for &victim in &victims {
                let from = Instant::now();
                if self.parties.kill(victim) {
                    self.died(victim, from);
                    self.kills.also(victim);
                }
                self.parties.start(victim);
            }
            YOUNG_MAX
        } else {
            RANDOM_AFTER_MAX
        };
        std::thread::sleep(wait.mul_f64(self.random.f64()));
        self.complain(None);
        let from = Instant::now();
        let killed: Vec<Who> = victims
            .into_iter()
            .filter(|&victim| self.parties.kill(victim))
            .collect();
        for &victim in &killed {
            self.died(victim, from);
        }
        self.kills.count(&killed);
        Ok(())
    }

    fn victims(&mut self) -> Vec<Who> {
        let target = Target::ALL[self.random.usize(..2)];
        match self.random.u8(..20) {
            0..7 => vec![Who::Relay],
            7..12 => vec![Who::Daemon(target)],
            12..14 => vec![Who::Pull(target)],
            14..18 => vec![Who::Relay, Who::Daemon(target)],
            _ => Who::ALL.to_vec(),
        }
    }

    fn victim(&mut self, boundary: Boundary) -> Who {
        let target = match boundary.place() {
            Place::MaildirPuller => Target::Maildir,
            Place::Puller => Target::ALL[self.random.usize(..2)],
            Place::Relay => return Who::Relay,
            Place::SmtpPuller => Target::Smtp,
        };
        let pull = Who::Pull(target);
        if boundary.comes_at_the_end() {
            // Only the last process that has the journal open writes its log into the database then.
            let from = Instant::now();
            if self.parties.kill(pull) {
                self.died(pull, from);
                self.kills.also(pull);
            }
            return Who::Daemon(target);
        }
        if self.random.bool() {
            return Who::Daemon(target);
        }
        self.parties.start(pull);
        pull
    }

    /// Waits until the trap springs or has had its time.
    fn springs(&mut self, mut set: SetTrap, boundary: Boundary, victim: Who) -> bool {
        if boundary.comes_at_the_end() && !self.ends(&mut set, USUAL_PATIENCE, boundary, victim) {
            if let Some(process) = self.parties.process(victim) {
                process.signal(Signal::SIGTERM);
            }
            let sprang = self.ends(&mut set, TRAP_PATIENCE, boundary, victim) && set.sprang();
            if !sprang {
                self.parties.stop(victim);
            }
            return sprang;
        }
        self.ends(&mut set, TRAP_PATIENCE, boundary, victim) && set.sprang()
    }

    /// Whether the program ends while the trap waits under it. Meanwhile somebody pulls, where somebody may.
    fn ends(
        &mut self,
        set: &mut SetTrap,
        patience: Duration,
        boundary: Boundary,
        victim: Who,
    ) -> bool {
        let end = Instant::now() + patience;
        let mut pull_at = Instant::now() + PULL_EVERY;
        let is_alone = boundary.comes_at_the_end() || boundary.traffic() == Traffic::Accepts;
        while !set.is_over() {
            let now = Instant::now();
            if now > end {
                return false;
            }
            if now > pull_at && !is_alone {
                self.complain(Some(victim));
                for target in Target::ALL {
                    self.parties.start(Who::Pull(target));
                }
                pull_at = now + PULL_EVERY;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Lets only that traffic go on that a boundary asks for.
    fn direct(&mut self, traffic: Traffic) {
        if traffic == Traffic::Both {
            return;
        }
        self.parties.signal_pullers(Signal::SIGSTOP);
        self.load.pour();
        if traffic == Traffic::Settlements {
            let end = Instant::now() + TRAP_PATIENCE;
            let waiting = |target| self.ledger.outstanding(target);
            while Target::ALL.map(waiting).iter().sum::<usize>() < BACKLOG && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(2));
            }
            self.load.hold();
        }
    }

    /// What was gathered is pulled now.
    fn let_pull(&mut self, traffic: Traffic) {
        if traffic == Traffic::Settlements {
            self.parties.signal_pullers(Signal::SIGCONT);
            for target in Target::ALL {
                self.parties.start(Who::Pull(target));
            }
        }
    }

    fn undirect(&mut self) {
        self.load.release();
        self.parties.signal_pullers(Signal::SIGCONT);
    }

    /// Sometimes the other side dies with it.
    fn perhaps_another(&mut self, first: Who) {
        if self.random.u8(..4) > 0 {
            return;
        }
        let other = match first {
            Who::Relay => Who::Daemon(Target::ALL[self.random.usize(..2)]),
            Who::Daemon(_) | Who::Pull(_) => Who::Relay,
        };
        let from = Instant::now();
        if self.parties.kill(other) {
            self.died(other, from);
            self.kills.also(other);
        }
    }

    /// Takes the process of one that the tracer has killed away.
    fn bury(&mut self, victim: Who, from: Instant) {
        self.parties.kill(victim);
        self.died(victim, from);
    }

    fn died(&self, who: Who, from: Instant) {
        self.ledger.note(&format!("killed: {}", who.name()));
        if let Some(target) = who.target() {
            self.ledger.puller_killed(target, from, in_doubt(target));
        }
    }

    /// Nobody ends but by us.
    fn complain(&mut self, trapped: Option<Who>) {
        if let Some((who, from)) = self.in_doubt
            && self.parties.take_killed(who)
        {
            self.in_doubt = None;
            self.died(who, from);
            self.kills.also(who);
        }
        for complaint in self.parties.reap(trapped) {
            self.ledger.violation(complaint);
        }
    }
}
