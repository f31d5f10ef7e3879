//! The rulings, played verdict by verdict.

use super::*;

/// Plays a session: `+` delivered, `-` deferred, a letter refused, one behind `=` refused once more, `.` nothing more to
/// send. Tells what became of the letters, those that are believed in upper case, `!` where it tripped. Each
/// letter is a delivery of its own that keeps its name; `+` and `-` are others each time.
struct Play {
    breakers: Breakers<char>,
    others: u32,
    now: Instant,
}

impl Play {
    fn new() -> Self {
        Self {
            breakers: Breakers::default(),
            others: 1_000,
            now: Instant::now(),
        }
    }

    fn session(&mut self, verdicts: &str) -> String {
        let mut seat = self.breakers.join("corp");
        self.with(&mut seat, verdicts)
    }

    fn with(&mut self, seat: &mut Seat<char>, verdicts: &str) -> String {
        let mut told = String::new();
        let mut is_repeated = false;
        for verdict in verdicts.chars() {
            self.others += 1;
            let other = delivery(self.others);
            let ruling = match verdict {
                '+' => seat.note(other, Verdict::Delivered, self.now),
                '-' => seat.note(other, Verdict::Deferred, self.now),
                '.' => seat.conclude(self.now),
                '=' => {
                    is_repeated = true;
                    continue;
                }
                letter => {
                    let refusal = Refusal {
                        provisional: letter,
                        is_repeated: std::mem::take(&mut is_repeated),
                    };
                    let verdict = Verdict::Refused(refusal);
                    seat.note(delivery(letter.into()), verdict, self.now)
                }
            };
            told += &letters(ruling);
        }
        told
    }

    fn passes(&mut self, time: Duration) {
        self.now += time;
    }
}

fn delivery(number: u32) -> DeliveryId {
    format!("1M7ZMM9TH00.{number}.ABC123").parse().unwrap()
}

fn letters(ruling: Ruling<char>) -> String {
    let believed = ruling.believed.iter().map(char::to_ascii_uppercase);
    let trip = ruling.trip.map(|_| '!');
    believed.chain(ruling.doubted).chain(trip).collect()
}

// covers: OWN-8
#[test]
fn a_refusal_is_believed_when_it_does_not_stay_alone_with_others() {
    for (verdicts, expected) in [
        ("", ""),
        ("++++++++++.", ""),
        // One or two are nothing special.
        ("a.", "A"),
        ("ab.", "AB"),
        ("a-b-.", "AB"),
        // More of them, and nothing else: who knows.
        ("abc.", "abc"),
        ("abcdefghi.", "abcdefghi"),
        ("abcdef-.", "abcdef"),
        // It may have broken just now.
        ("+abcdefgh.", "abcdefgh"),
        ("+++ab.", "AB"),
        // The server works.
        ("abcdefgh+.", "ABCDEFGH"),
        ("abcdefghij", "abcdefghij!"),
        // Half is not most.
        ("abcde+++++.", "ABCDE"),
        ("+++++abcde.", "abcde"),
        ("abcdef++++", "abcdef!"),
        ("++++abcdef", "abcdef!"),
        ("abcdef----", "abcdef!"),
        // At eleven verdicts it is more than half.
        ("abcde+++++f", "abcdef!"),
        // What is older than twenty verdicts is ruled on, one by one.
        ("ab++++++++++++++++++", ""),
        ("ab+++++++++++++++++++", "A"),
        ("ab++++++++++++++++++++c.", "ABC"),
        ("abcd------------------", "ab"),
        // It broke in the middle: of the last twenty, eleven.
        ("++++++++++++++++++++abcdefghij.", "abcdefghij"),
        ("++++++++++++++++++++abcdefghijk", "abcdefghijk!"),
        ("a+++++++++++++++++++bcdefghijkl", "Abcdefghijkl!"),
        // An end in between rules on what was there, and forgets no verdict.
        ("abcdefghi.j", "abcdefghij!"),
    ] {
        assert_eq!(Play::new().session(verdicts), expected, "{verdicts}");
    }
}

/// A broken server must not look like a working one because its mail is fetched often.
// covers: OWN-8
#[test]
fn small_pulls_are_judged_together() {
    let mut play = Play::new();
    assert_eq!(play.session("abcd."), "abcd");
    assert_eq!(play.session("efgh."), "efgh");
    assert_eq!(play.session("ij"), "ij!");
    // It worked all day.
    let mut play = Play::new();
    assert_eq!(play.session("++++++++++++++++++++."), "");
    assert_eq!(play.session("abcd."), "abcd");
    assert_eq!(play.session("efgh."), "efgh");
    assert_eq!(play.session("ijk"), "ijk!");
}

#[test]
fn after_a_trip_across_pulls_nothing_is_believed() {
    let mut play = Play::new();
    let mut told = String::new();
    for pull in ["abcd.", "efgh.", "ij", "=a=b=c=d.", "kl.", "=k=l."] {
        told += &play.session(pull);
        told.push(' ');
    }
    assert_eq!(told, "abcd efgh ij! abcd kl kl ");
    assert_eq!(play.session("m+=a."), "MA");
}

/// A domain that gets nothing but mail for unknown users bounces it, a little later.
// covers: OWN-8
#[test]
fn what_is_refused_again_is_believed_and_counts_once() {
    let mut play = Play::new();
    assert_eq!(play.session("abcde."), "abcde");
    assert_eq!(play.session("=a=b=c."), "ABC");
    assert_eq!(play.session("=d=ef."), "DEf");
    // Six deliveries were refused, however often.
    for _ in 0..10 {
        assert_eq!(play.session("=a=b=c=d=e=f."), "ABCDEF");
    }
    assert_eq!(play.session("ghi."), "ghi");
    // Nine were; the tenth makes it an alarm.
    assert_eq!(play.session("j"), "j!");
}

#[test]
fn a_server_that_delivered_of_late_is_believed_in_the_next_pull() {
    let mut play = Play::new();
    assert_eq!(play.session("++."), "");
    assert_eq!(play.session("abcd+."), "ABCD");
    // What it refused first and took later is no refusal any more.
    let mut seat = play.breakers.join("corp");
    for letter in 'a'..='d' {
        let ruling = seat.note(delivery(letter.into()), Verdict::Delivered, play.now);
        assert_eq!(letters(ruling), "");
    }
    drop(seat);
    assert_eq!(play.session("ef."), "EF");
}

#[test]
fn verdicts_of_another_week_prove_nothing() {
    let mut play = Play::new();
    for _ in 0..5 {
        assert_eq!(play.session("abcd."), "abcd");
        assert_eq!(play.session("++++"), "");
        play.passes(VERDICT_AGE_MAX + Duration::from_secs(1));
        assert_eq!(play.session("ef."), "EF");
        assert_eq!(play.session("ghi."), "ghi");
        play.passes(VERDICT_AGE_MAX + Duration::from_secs(1));
    }
}

#[test]
fn after_a_trip_no_refusal_is_believed_until_something_is_delivered() {
    let mut play = Play::new();
    assert_eq!(play.session("abcdefghij"), "abcdefghij!");
    assert_eq!(play.session("abc."), "abc");
    assert_eq!(play.session("-a-."), "a");
    assert_eq!(play.session("=a-----------------b-."), "ab");
    let mut play = Play::new();
    assert_eq!(play.session("abcdefghij"), "abcdefghij!");
    assert_eq!(play.session("=a=b=c=d=e=f=g=h=i=j"), "abcdefghij!");
    assert_eq!(play.session("ab+c."), "ABC");
}

#[test]
fn sessions_side_by_side_are_one() {
    let mut play = Play::new();
    let mut one = play.breakers.join("corp");
    let mut other = play.breakers.join("corp");
    let mut foreign = play.breakers.join("elsewhere");
    assert_eq!(play.with(&mut one, "abcd"), "");
    assert_eq!(play.with(&mut foreign, "++++."), "");
    assert_eq!(play.with(&mut other, "efghi"), "");
    // One of them is through; what it was refused is the other one's to judge.
    assert_eq!(play.with(&mut one, "."), "");
    drop(one);
    let mut late = play.breakers.join("corp");
    let ruling = late.note(
        delivery('j'.into()),
        Verdict::Refused(Refusal {
            provisional: 'j',
            is_repeated: false,
        }),
        play.now,
    );
    let trip = Trip {
        refused: 10,
        verdicts: 10,
    };
    assert_eq!(ruling.trip, Some(trip));
    assert_eq!(letters(ruling), "abcdefghij!");
    assert!(other.has_tripped() && late.has_tripped() && !foreign.has_tripped());
    assert!(!play.breakers.join("corp").has_tripped());
}

/// Neither is gone yet when the other one ends.
#[test]
fn the_last_that_works_rules_also_beside_others_that_say_goodbye() {
    let mut play = Play::new();
    let mut one = play.breakers.join("corp");
    let mut other = play.breakers.join("corp");
    assert_eq!(play.with(&mut one, "a+."), "");
    assert_eq!(play.with(&mut other, "b."), "AB");
    // Who found more to send works again.
    one.work();
    assert_eq!(play.with(&mut other, "c."), "");
    assert_eq!(play.with(&mut one, "."), "C");
    assert_eq!(play.with(&mut other, "+d.e"), "D");
    assert_eq!(play.with(&mut one, "+++++f."), "");
    // Who breaks off works no more.
    assert_eq!(play.with(&mut other, "."), "EF");
    let third = play.breakers.join("corp");
    assert_eq!(play.with(&mut one, "g."), "");
    drop(third);
    assert_eq!(play.with(&mut one, "."), "G");
}

#[test]
fn what_nobody_ruled_on_is_dropped_with_the_last_session() {
    let breakers = Breakers::default();
    let held = Arc::new(());
    let (mut seat, mut other) = (breakers.join("corp"), breakers.join("corp"));
    let refusal = Refusal {
        provisional: Arc::clone(&held),
        is_repeated: false,
    };
    let _ = seat.note(delivery(1), Verdict::Refused(refusal), Instant::now());
    assert!(other.conclude(Instant::now()).believed.is_empty());
    drop(seat);
    assert_eq!(Arc::strong_count(&held), 2);
    drop(other);
    assert_eq!(Arc::strong_count(&held), 1);
    let breakers = breakers.lock();
    let breaker = &breakers["corp"];
    let left = (breaker.window.len(), breaker.seats, breaker.working);
    assert_eq!(left, (0, 0, 0));
}
