//! Disks that really run full.

use atrn_tests::faults::{Disk, Row};
use atrn_tests::process::wait_until;

use super::stage::{LARGE, SMALL, Stage, codes};

const MIB: u64 = 1024 * 1024;

pub(crate) fn relay() -> Vec<Row> {
    let mut stage = Stage::new("relay-full");
    stage.world.relay.kill();
    let disk = Disk::mount(&stage.world.relay.data_folder(), 64 * MIB);
    stage.world.relay.start();
    nearly(&mut stage, &disk);
    wholly(&mut stage, &disk);
    // The disk goes with its mount, the program before it.
    let rows = stage.end();
    drop(disk);
    rows
}

/// New mail is refused while there is still room to write down what became of the old.
fn nearly(stage: &mut Stage, disk: &Disk) {
    let mut sender = stage.connect();
    stage.send_taken(&mut sender, SMALL);
    stage.send_taken(&mut sender, LARGE);
    disk.fill(16 * MIB);
    let mark = stage.mark();
    let small = codes(&stage.send(&mut sender, SMALL));
    let large = codes(&stage.send(&mut sender, LARGE));
    assert_eq!(small, large);
    stage.assert_logged(&mark, "cannot hold a message");
    let _ = stage.world.puller.pull().expect_code(0);
    stage.world.relay.wait_for_queue(&[]);
    disk.empty();
    stage.send_taken(&mut sender, LARGE);
    stage.row(
        "disk",
        "less than 24 MiB free:",
        "statvfs",
        &small,
        "mail goes out all the same; with room there again the next message is taken",
    );
}

fn wholly(stage: &mut Stage, disk: &Disk) {
    let mut sender = stage.connect();
    stage.send_taken(&mut sender, SMALL);
    let arrived = stage.inside.messages().len();
    let queued = stage.queued();
    disk.fill(0);
    assert_eq!(disk.free(), 0);
    let small = codes(&stage.send(&mut sender, SMALL));
    let large = codes(&stage.send(&mut sender, LARGE));
    assert_eq!(small, large);
    let _ = stage.world.puller.pull();
    let _ = stage.world.puller.pull();
    assert_eq!(stage.inside.messages().len(), arrived + queued, "each once");
    // It can be started like this, too: mail that goes out is what makes room.
    stage.world.relay.restart();
    let mut sender = stage.connect();
    disk.empty();
    stage.world.relay.wait_for_queue(&[]);
    wait_until("no file is left", || stage.world.relay.spool_files() == 0);
    stage.send_taken(&mut sender, SMALL);
    stage.send_taken(&mut sender, LARGE);
    stage.row(
        "disk",
        "no free block: write",
        "ENOSPC",
        &small,
        "mail goes out, once; with room there again it is removed and the next message is taken",
    );
}
