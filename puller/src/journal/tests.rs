//! The journal as sessions and processes use it. Another handle on the same directory is to the kernel and to SQLite
//! what another process is.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;

use atrn_shared::cli::{ExitCode, Failure};
use tempfile::TempDir;

use super::*;

fn id(number: usize) -> DeliveryId {
    format!("1M7ZMM9TH00.{number}.0A1B2C").parse().unwrap()
}

fn path(address: &str) -> ForwardPath {
    ForwardPath::from_address(address).unwrap()
}

fn claim(journal: &Journal, id: &DeliveryId) -> Claim {
    match journal.begin(id).unwrap() {
        Begun::Fresh(claim) => claim,
        begun => panic!("{id}: {begun:?}"),
    }
}

fn word(journal: &Journal, id: &DeliveryId) -> &'static str {
    match journal.begin(id).unwrap() {
        Begun::Fresh(_) => "fresh",
        Begun::InHand => "in hand",
        Begun::Taken => "taken",
    }
}

// covers: R-DUP
#[tokio::test]
async fn what_was_taken_is_known_for_ever_after() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    assert_eq!(word(&journal, &id(1)), "fresh");
    claim(&journal, &id(1)).commit(Taken::Whole).await.unwrap();
    drop(claim(&journal, &id(2)));
    for journal in [journal.clone(), Journal::open(folder.path()).unwrap()] {
        assert_eq!(word(&journal, &id(1)), "taken");
        assert_eq!(word(&journal, &id(2)), "fresh");
    }
    journal.close();
    assert!(matches!(
        claim(&journal, &id(3)).commit(Taken::Whole).await,
        Err(JournalError::Closed)
    ));
    assert!(matches!(journal.ready().await, Err(JournalError::Closed)));
    let journal = Journal::open(folder.path()).unwrap();
    assert_eq!(word(&journal, &id(1)), "taken");
}

// covers: R-DUP
#[tokio::test]
async fn what_is_new_needs_no_look_until_somebody_else_has_the_journal_too() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    take(&journal, 0..5).await;
    journal.close();
    drop(journal);
    let looked = |journal: &Journal| !lock(&journal.shared.readers).is_empty();
    let journal = Journal::open(folder.path()).unwrap();
    drop(claim(&journal, &id(7)));
    claim(&journal, &id(6)).commit(Taken::Whole).await.unwrap();
    assert!(!looked(&journal));
    // In front of what was taken anything may be.
    drop(claim(&journal, &id(5)));
    assert!(looked(&journal));
    assert_eq!(word(&journal, &id(4)), "taken");
    assert_eq!(word(&journal, &id(6)), "taken");
    // Whoever comes to it later may take what is new, and be gone again.
    let other = Journal::open(folder.path()).unwrap();
    claim(&other, &id(8)).commit(Taken::Whole).await.unwrap();
    assert_eq!(word(&journal, &id(8)), "taken");
    claim(&other, &id(9)).commit(Taken::Whole).await.unwrap();
    other.close();
    drop(other);
    assert_eq!(word(&journal, &id(9)), "taken");
    assert_eq!(word(&journal, &id(10)), "fresh");
}

/// Another process is there while we open the journal, writes an entry, and is gone before we have it open.
// covers: R-DUP
#[test]
fn what_was_written_while_the_journal_was_opened_is_known() {
    let folder = TempDir::new().unwrap();
    let other = Journal::open(folder.path()).unwrap();
    let opened = other.shared.holds.opened().unwrap();
    let rival = Connection::open(folder.path().join(DATABASE)).unwrap();
    rival.execute_batch("BEGIN IMMEDIATE").unwrap();
    let path = folder.path().to_owned();
    // The database is not to be had meanwhile.
    let opening = std::thread::spawn(move || Journal::open(&path));
    let looked_around = || other.shared.holds.opened().unwrap() != opened;
    while !looked_around() && !opening.is_finished() {
        std::thread::yield_now();
    }
    assert!(looked_around(), "{:?}", opening.join());
    let add = "INSERT INTO taken (id, at, recipients) VALUES (?1, 0, NULL)";
    rival.execute(add, [id(1).as_str()]).unwrap();
    rival.execute_batch("COMMIT").unwrap();
    other.close();
    drop(other);
    let journal = opening.join().unwrap().unwrap();
    assert_eq!(word(&journal, &id(1)), "taken");
    // As long as anybody was there nothing is known without a look.
    assert!(journal.shared.alone.is_none());
}

// covers: R-DUP
#[tokio::test]
async fn a_delivery_taken_in_part_is_not_taken() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    let [ann, bob, eve] = ["ann@example.org", "\"b b\"@example.org", "eve@example.org"].map(path);
    let first = claim(&journal, &id(1));
    assert!(!first.was_taken_by(&ann));
    first
        .commit(Taken::Recipients(vec![ann.clone()]))
        .await
        .unwrap();
    let second = claim(&journal, &id(1));
    assert!(second.was_taken_by(&ann) && !second.was_taken_by(&bob));
    // What was known stays known.
    second
        .commit(Taken::Recipients(vec![bob.clone()]))
        .await
        .unwrap();
    let third = claim(&journal, &id(1));
    assert!(third.was_taken_by(&ann) && third.was_taken_by(&bob) && !third.was_taken_by(&eve));
    third.commit(Taken::Whole).await.unwrap();
    assert_eq!(word(&journal, &id(1)), "taken");
}

/// The addresses are of the relay's choosing: what it can make us keep of them does not depend on their length.
#[tokio::test]
async fn a_relay_cannot_fill_the_disk_with_recipients() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    let long = |number| path(&format!("{number:064}@{}.example", "d".repeat(63)));
    let everybody: Vec<_> = (0..100).map(long).collect();
    let claimed = claim(&journal, &id(1));
    let committed = claimed.commit(Taken::Recipients(everybody.clone()));
    committed.await.unwrap();
    let connection = Connection::open(folder.path().join(DATABASE)).unwrap();
    let kept = "SELECT length(recipients) FROM taken";
    let kept: i64 = connection.query_row(kept, [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 100 * 16);
    let again = claim(&journal, &id(1));
    assert!(everybody.iter().all(|path| again.was_taken_by(path)));
}

/// Whatever the umask says: a user of the host who could open the locks could keep our mail out.
#[test]
fn its_files_are_for_nobody_else() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path().join("data");
    atrn_shared::directory::make_durable(&folder).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    // As an earlier version left it.
    fs::write(folder.join(LOCKS), "").unwrap();
    let journal = Journal::open(&folder).unwrap();
    drop(claim(&journal, &id(1)).commit(Taken::Whole));
    let files = fs::read_dir(&folder).unwrap();
    let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 4, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

// covers: R-DUP
#[tokio::test]
async fn nobody_else_gets_a_delivery_in_hand() {
    let folder = TempDir::new().unwrap();
    let one = Journal::open(folder.path()).unwrap();
    let other = Journal::open(folder.path()).unwrap();
    let held = claim(&one, &id(1));
    assert_eq!(word(&one, &id(1)), "in hand");
    assert_eq!(word(&other, &id(1)), "in hand");
    assert_eq!(word(&other, &id(2)), "fresh");
    // Who waits for the end of it sees the outcome.
    let waiting = tokio::spawn(async move {
        let begun = other.begin_within(&id(1), Duration::from_secs(60)).await;
        matches!(begun, Ok(Begun::Taken))
    });
    tokio::task::yield_now().await;
    held.commit(Taken::Whole).await.unwrap();
    assert!(waiting.await.unwrap());
}

#[tokio::test]
async fn patience_ends() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    let _held = claim(&journal, &id(1));
    let begun = journal.begin_within(&id(1), Duration::ZERO).await;
    assert!(matches!(begun, Ok(Begun::InHand)));
}

/// All that is under way goes into few commits, and who does not wait for his has made it all the same.
// covers: R-DUP
#[tokio::test]
async fn a_commit_whose_future_is_dropped_is_made() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    for number in 0..2_000 {
        drop(claim(&journal, &id(number)).commit(Taken::Whole));
    }
    journal.close();
    let journal = Journal::open(folder.path()).unwrap();
    for number in 0..2_000 {
        assert_eq!(word(&journal, &id(number)), "taken", "{number}");
    }
}

/// Sets everything back: the entries that are there, and nothing else, get older.
fn age(folder: &TempDir, by: Duration) {
    let connection = Connection::open(folder.path().join(DATABASE)).unwrap();
    let by = i64::try_from(by.as_millis()).unwrap();
    let aged = connection.execute("UPDATE taken SET at = at - ?1", [by]);
    aged.unwrap();
}

fn ids(folder: &TempDir) -> Vec<String> {
    let connection = Connection::open(folder.path().join(DATABASE)).unwrap();
    let mut statement = connection
        .prepare("SELECT id FROM taken ORDER BY id")
        .unwrap();
    let ids = statement.query_map([], |row| row.get(0)).unwrap();
    ids.map(Result::unwrap).collect()
}

async fn take(journal: &Journal, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let claim = claim(journal, &id(number));
        claim.commit(Taken::Whole).await.unwrap();
    }
}

/// Whatever the order of the ids, and though each process adds a few entries only.
#[tokio::test]
async fn old_entries_go_a_few_with_each_commit() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    take(&journal, 100..140).await;
    journal.close();
    age(&folder, KEEP + Duration::from_secs(3600));
    // Younger ones, which stand before the old in the order of ids.
    let mut left = Vec::new();
    for number in 10..25 {
        let journal = Journal::open(folder.path()).unwrap();
        take(&journal, number..number + 1).await;
        journal.close();
        left.push(ids(&folder).len());
        let counted = Journal::examine(folder.path()).unwrap().unwrap().entries;
        assert_eq!(counted, *left.last().unwrap() as u64);
    }
    let at_once = |pair: &[usize]| (pair[0] + 1).saturating_sub(pair[1]);
    assert!(left.windows(2).all(|pair| at_once(pair) <= 4), "{left:?}");
    let expected: Vec<_> = (10..25).map(|number| id(number).to_string()).collect();
    assert_eq!(ids(&folder), expected, "{left:?}");
    age(&folder, KEEP - Duration::from_secs(3600));
    let journal = Journal::open(folder.path()).unwrap();
    take(&journal, 25..50).await;
    assert_eq!(ids(&folder).len(), 40);
}

/// Twenty years ahead and back: nothing is forgotten before its time.
#[tokio::test]
async fn a_jump_of_the_clock_makes_no_entry_old() {
    let folder = TempDir::new().unwrap();
    let years: i64 = 20 * 365 * 86_400_000;
    for (number, jump) in [0, years, -years, years].into_iter().enumerate() {
        let journal = Journal::open(folder.path()).unwrap();
        claim(&journal, &id(number))
            .commit(Taken::Whole)
            .await
            .unwrap();
        journal.close();
        // As if this process had run while the clock was wrong.
        let connection = Connection::open(folder.path().join(DATABASE)).unwrap();
        connection
            .execute("UPDATE state SET wall = wall - ?1", [jump])
            .unwrap();
    }
    assert_eq!(ids(&folder).len(), 4);
}

// covers: R-DUP
#[tokio::test]
async fn a_failed_commit_claims_nothing_and_is_made_up_for() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    journal.ready().await.unwrap();
    let rival = Connection::open(folder.path().join(DATABASE)).unwrap();
    rival
        .execute_batch(
            "CREATE TRIGGER broken BEFORE INSERT ON taken BEGIN SELECT raise(ABORT, 'as if'); END",
        )
        .unwrap();
    let error = claim(&journal, &id(1)).commit(Taken::Whole).await;
    assert!(
        matches!(error, Err(JournalError::Unavailable { .. })),
        "{error:?}"
    );
    assert!(journal.ready().await.is_err());
    // The message is inside: until that is written down, nobody gets it.
    assert_eq!(word(&journal, &id(1)), "in hand");
    rival.execute_batch("DROP TRIGGER broken").unwrap();
    journal.ready().await.unwrap();
    assert_eq!(word(&journal, &id(1)), "taken");
}

// covers: R-DUP
#[tokio::test]
async fn what_is_owed_is_tried_once_more_at_the_end() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    let rival = Connection::open(folder.path().join(DATABASE)).unwrap();
    rival
        .execute_batch(
            "CREATE TRIGGER broken BEFORE INSERT ON taken BEGIN SELECT raise(ABORT, 'as if'); END",
        )
        .unwrap();
    let error = claim(&journal, &id(1)).commit(Taken::Whole).await;
    error.unwrap_err();
    rival.execute_batch("DROP TRIGGER broken").unwrap();
    journal.close();
    assert_eq!(ids(&folder), [id(1).to_string()]);
}

#[test]
fn what_is_not_a_journal_is_refused_in_one_line() {
    let made = |name: &str, make: &dyn Fn(&Path)| {
        let folder = TempDir::new().unwrap();
        make(&folder.path().join(DATABASE));
        let failure = Failure::from(Journal::open(folder.path()).unwrap_err());
        assert!(!failure.text.contains('\n'), "{name}: {failure}");
        assert!(failure.text.contains(DATABASE), "{name}: {failure}");
        (failure.text, failure.code)
    };
    let (text, code) = made("text", &|path| fs::write(path, "x".repeat(5_000)).unwrap());
    assert!(text.contains("damaged or not a journal"), "{text}");
    assert_eq!(code, ExitCode::Failed);
    let (text, _) = made("foreign", &|path| {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch("CREATE TABLE t (a)").unwrap();
    });
    assert!(text.contains("another program"), "{text}");
    let (text, code) = made("newer", &|path| {
        let folder = path.parent().unwrap();
        Journal::open(folder).unwrap().close();
        let connection = Connection::open(path).unwrap();
        connection.execute_batch("PRAGMA user_version = 9").unwrap();
    });
    assert!(text.contains("newer version"), "{text}");
    assert_eq!(code, ExitCode::Config);
    let (text, _) = made("damaged", &|path| {
        let folder = path.parent().unwrap();
        Journal::open(folder).unwrap().close();
        let mut file = File::options().write(true).open(path).unwrap();
        // The pages behind the first: the trees.
        file.seek(SeekFrom::Start(4096)).unwrap();
        file.write_all(&[0xff; 8192]).unwrap();
    });
    assert!(text.contains("damaged"), "{text}");
    let folder = TempDir::new().unwrap();
    assert!(Journal::open(&folder.path().join("none")).is_err());
    assert!(Journal::examine(folder.path()).unwrap().is_none());
}

#[test]
fn two_processes_may_make_it_at_once() {
    let folder = TempDir::new().unwrap();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let path = folder.path().to_owned();
            std::thread::spawn(move || Journal::open(&path).map(|journal| journal.close()))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
}

#[test]
fn all_that_is_wrong_with_a_journal_is_one_line() {
    let found = "*** in database main ***\nTree 2 page 2: btreeInitPage() returns error code 11";
    let error = OpenError::damaged(Path::new("journal.db"), found).to_string();
    let expected = "*** in database main ***; Tree 2 page 2: btreeInitPage()";
    assert!(error.contains(expected) && !error.contains('\n'), "{error}");
}
