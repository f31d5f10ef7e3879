use std::net::IpAddr;

use tempfile::TempDir;

use super::super::query::{Report, Wanted, read};
use super::super::{Audit, FailedLogin, path};
use super::*;

struct Setup {
    directory: TempDir,
}

impl Setup {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    fn start(&self) -> (Audit, Remembered) {
        Audit::start(self.directory.path())
    }

    fn report(&self, wanted: Wanted) -> Report {
        read(self.directory.path(), wanted).unwrap().unwrap()
    }

    fn connection(&self) -> Connection {
        open(&path(self.directory.path())).unwrap()
    }
}

fn failed(audit: &Audit, name: Option<&str>, address: &str, mechanism: Mechanism) {
    audit.login_failed(FailedLogin {
        name,
        address: address.parse().unwrap(),
        mechanism,
    });
}

#[test]
fn what_was_tried_is_found_by_name_address_and_network() {
    let setup = Setup::new();
    let (audit, _) = setup.start();
    failed(&audit, Some("admin"), "192.0.2.1", Mechanism::Plain);
    failed(&audit, Some("admin"), "192.0.2.1", Mechanism::CramMd5);
    failed(&audit, Some("admin"), "192.0.2.9", Mechanism::Plain);
    failed(&audit, Some("admin"), "2001:db8::1", Mechanism::Plain);
    failed(&audit, None, "198.51.100.1", Mechanism::External);
    audit.close();
    let report = setup.report(Wanted::default());
    let names: Vec<_> = report
        .names
        .iter()
        .map(|name| (name.name.as_str(), name.tries))
        .collect();
    assert_eq!(names, [("admin", 4), ("", 1)]);
    let admin = &report.names[0];
    assert_eq!(admin.mechanisms, ["CRAM-MD5", "PLAIN"]);
    let addresses: Vec<_> = admin
        .addresses
        .iter()
        .map(|each| (each.address.as_str(), each.tries))
        .collect();
    assert_eq!(
        addresses,
        [("192.0.2.1", 2), ("192.0.2.9", 1), ("2001:db8::1", 1)]
    );
    let networks: Vec<_> = admin
        .networks
        .iter()
        .map(|each| (each.network.as_str(), each.tries))
        .collect();
    assert_eq!(networks, [("192.0.2.0/24", 3), ("2001:db8::/56", 1)]);
}

#[test]
fn it_adds_up_over_restarts_and_new_names_are_told_apart() {
    let setup = Setup::new();
    let (audit, _) = setup.start();
    failed(&audit, Some("admin"), "192.0.2.1", Mechanism::Plain);
    audit.close();
    drop(audit);
    // As if that had been long ago.
    let past =
        "UPDATE name SET first = 1000, last = 2000; UPDATE attempt SET first = 1000, last = 2000";
    setup.connection().execute_batch(past).unwrap();
    let (audit, _) = setup.start();
    failed(&audit, Some("admin"), "192.0.2.1", Mechanism::Plain);
    failed(&audit, Some("root"), "192.0.2.1", Mechanism::Plain);
    audit.close();
    let names = |wanted| -> Vec<(String, u64)> {
        let names = setup.report(wanted).names.into_iter();
        names.map(|name| (name.name, name.tries)).collect()
    };
    let since = Some(Timestamp::from_second(3_000).unwrap());
    let all = [("admin".to_owned(), 2), ("root".to_owned(), 1)];
    assert_eq!(names(Wanted::default()), all);
    assert_eq!(
        names(Wanted {
            since,
            new_since: None
        }),
        all
    );
    assert_eq!(
        names(Wanted {
            since: None,
            new_since: since
        }),
        all[1..]
    );
    let first = setup.report(Wanted::default()).names[0].first;
    assert_eq!(first.as_second(), 1_000);
}

#[test]
fn refusals_are_summed_by_reason_and_network() {
    let setup = Setup::new();
    let (audit, _) = setup.start();
    for address in ["192.0.2.1", "192.0.2.2", "198.51.100.1"] {
        audit.refused("smtp", "relaying", address.parse().unwrap());
    }
    audit.refused("odmr", "not permitted", "192.0.2.1".parse().unwrap());
    audit.close();
    let refusals = setup.report(Wanted::default()).refusals;
    let shown: Vec<_> = refusals
        .iter()
        .map(|each| {
            (
                &*each.service,
                &*each.reason,
                each.times,
                each.networks,
                &*each.most_from,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("smtp", "relaying", 3, 2, "192.0.2.0/24"),
            ("odmr", "not permitted", 1, 1, "192.0.2.0/24"),
        ]
    );
}

#[test]
fn logins_locks_and_the_decoy_key_outlive_a_restart() {
    let setup = Setup::new();
    let (audit, first) = setup.start();
    assert!(first.logins.is_empty() && first.locks.is_empty());
    let address: IpAddr = "192.0.2.7".parse().unwrap();
    let until = Timestamp::now() + jiff::SignedDuration::from_mins(10);
    audit.logged_in("corp", address);
    audit.locked("corp", until);
    audit.locked("past", Timestamp::UNIX_EPOCH);
    audit.close();
    drop(audit);
    let (_audit, again) = setup.start();
    assert_eq!(again.logins, [("corp".to_owned(), address)]);
    let locks: Vec<_> = again.locks.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(locks, ["corp"]);
    assert!(first.decoy_key.is_some());
    assert_eq!(again.decoy_key, first.decoy_key);
}

#[test]
fn a_flood_of_names_leaves_those_that_are_tried_again_and_again() {
    let setup = Setup::new();
    let mut connection = setup.connection();
    let bound = Bound {
        rows: 100,
        ..BOUNDS[0]
    };
    let mut now = 0;
    let mut batch = |names: &mut dyn Iterator<Item = String>| {
        let mut batch = Batch::default();
        for name in names {
            now += 1;
            let note = Note::Failed {
                name,
                address: "192.0.2.1".parse().unwrap(),
                mechanism: Mechanism::Plain,
            };
            batch.add(note, now).unwrap();
        }
        write(&mut connection, &batch, 0, std::slice::from_ref(&bound)).unwrap();
    };
    batch(&mut ["corp", "corp", "once"].into_iter().map(str::to_owned));
    batch(&mut (0..500).map(|number| format!("name{number}")));
    batch(&mut ["last"].into_iter().map(str::to_owned));
    let names: Vec<_> = setup.report(Wanted::default()).names;
    assert!(names.len() <= 100, "{}", names.len());
    assert_eq!(names[0].name, "corp");
    assert!(names.iter().any(|name| name.name == "last"));
    assert!(names.iter().all(|name| name.name != "once"));
    let orphans = "SELECT count(*) FROM attempt WHERE name NOT IN (SELECT key FROM name)";
    let orphans: i64 = setup
        .connection()
        .query_row(orphans, [], |row| row.get(0))
        .unwrap();
    assert_eq!(orphans, 0);
}

#[test]
fn a_damaged_database_is_put_aside() {
    let setup = Setup::new();
    let file = path(setup.directory.path());
    fs::write(
        &file,
        "this is no database, and it is long enough to be looked at".repeat(100),
    )
    .unwrap();
    let (audit, _) = setup.start();
    failed(&audit, Some("admin"), "192.0.2.1", Mechanism::Plain);
    audit.close();
    assert_eq!(setup.report(Wanted::default()).names.len(), 1);
    assert!(file.with_extension("db.damaged").exists());
}

#[test]
fn without_a_place_to_write_entries_are_counted_as_lost() {
    let setup = Setup::new();
    let nowhere = setup.directory.path().join("missing");
    let (audit, remembered) = Audit::start(&nowhere);
    assert!(remembered.decoy_key.is_none());
    failed(&audit, Some("admin"), "192.0.2.1", Mechanism::Plain);
    audit.close();
    assert_eq!(audit.lost(), 1);
    assert!(read(&nowhere, Wanted::default()).unwrap().is_none());
}

#[test]
fn the_migrations_hold_together() {
    assert_eq!(Migrations::from_slice(STEPS).validate(), Ok(()));
}
