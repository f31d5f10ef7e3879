//! The hand-over into a Maildir.

use std::path::{Path, PathBuf};

use super::*;

// covers: R5321-15, R5321-19
#[tokio::test]
async fn a_maildir_gets_the_octets_as_they_came() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mail");
    let mut handover = Handover::open(&setup(Target::Maildir(path.clone())))
        .await
        .unwrap();
    let big = "0123456789\r\n".repeat(100_000);
    for content in ["", "Subject: x\r\n\r\n.dot\r\n\u{f6}\r\n", &big] {
        let verdicts = handover.begin(&group("", &["u@example.org"], DATA)).await;
        assert_eq!(shown(&verdicts), "250 2.1.0, 250 2.1.5, 354");
        for part in content.as_bytes().chunks(10_000) {
            handover.body(part).await;
        }
        assert!(handover.finish().await.reply.is_positive());
        let files = files(&path.join("new"));
        assert_eq!(files.len(), 1);
        assert_eq!(std::fs::read_to_string(&files[0]).unwrap(), content);
        std::fs::remove_file(&files[0]).unwrap();
    }
    assert!(files(&path.join("tmp")).is_empty());
}

// covers: OWN-3
#[tokio::test]
async fn a_maildir_keeps_nothing_of_a_message_that_was_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let mut handover = Handover::open(&setup(Target::Maildir(folder.path().into())))
        .await
        .unwrap();
    handover.begin(&group("", &["u@example.org"], DATA)).await;
    handover.body(&vec![b'x'; 1 << 20]).await;
    assert_eq!(files(&folder.path().join("tmp")).len(), 1);
    drop(handover);
    assert!(
        files(&folder.path().join("tmp")).is_empty()
            && files(&folder.path().join("new")).is_empty()
    );
}

// covers: R5321-15
#[tokio::test]
async fn a_maildir_that_fails_is_no_verdict_on_mail() {
    let folder = tempfile::tempdir().unwrap();
    let mut handover = Handover::open(&setup(Target::Maildir(folder.path().into())))
        .await
        .unwrap();
    std::fs::remove_dir_all(folder.path().join("new")).unwrap();
    for octets in [10, 1 << 20] {
        handover.begin(&group("", &["u@example.org"], DATA)).await;
        handover.body(&vec![b'x'; octets]).await;
        assert_eq!(
            handover.finish().await.reply.to_string(),
            "451 4.3.0 The message cannot be stored now"
        );
    }
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Handover::open(&setup(Target::Maildir(file)))
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Directory { .. }), "{error}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// The files of `new/` and `cur/` by their names, in order.
fn messages(folder: &Path) -> Vec<String> {
    let all = [files(&folder.join("new")), files(&folder.join("cur"))].concat();
    let mut names: Vec<_> = all
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

async fn deliver(handover: &mut Handover, id: &str) -> Reply {
    let named = format!(" XDELIVERYID={id}");
    let (_, verdict) = send(handover, &group(&named, &["u@example.org"], DATA)).await;
    verdict.unwrap()
}

/// As if each time the process had died between the file and the journal, whatever readers did meanwhile.
// covers: R-DUP
#[tokio::test]
async fn a_named_delivery_is_in_a_maildir_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    // Each setup is a process: it looks at the folder once.
    let open = async || Handover::open(&setup(Target::Maildir(path.into()))).await;
    let mut handover = open().await.unwrap();
    for id in ["1M7.1.X", "1M7.2.X", ".._.", "1M7.1.X"] {
        assert!(deliver(&mut handover, id).await.is_positive());
    }
    let expected = ["delivery..._.", "delivery.1M7.1.X", "delivery.1M7.2.X"];
    assert_eq!(messages(path), expected);
    let moved = path.join("cur/delivery.1M7.1.X:2,S");
    std::fs::rename(path.join("new/delivery.1M7.1.X"), &moved).unwrap();
    let mut handover = open().await.unwrap();
    assert!(deliver(&mut handover, "1M7.1.X").await.is_positive());
    // What was there when it looked stays known when it is gone.
    std::fs::remove_file(&moved).unwrap();
    std::fs::remove_file(path.join("new/delivery.1M7.2.X")).unwrap();
    for id in ["1M7.1.X", "1M7.2.X", "1M7.3.X"] {
        assert!(deliver(&mut handover, id).await.is_positive());
    }
    assert_eq!(messages(path), ["delivery..._.", "delivery.1M7.3.X"]);
    assert!(files(&path.join("tmp")).is_empty());
}

/// Another process brought it since this one looked, a reader moved it, and the process was killed before its entry.
// covers: R-DUP
#[tokio::test]
async fn a_delivery_that_a_killed_process_had_in_hand_is_looked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let open = async || Handover::open(&setup(Target::Maildir(path.into()))).await;
    let mut daemon = open().await.unwrap();
    assert!(deliver(&mut daemon, "1M7.1.X").await.is_positive());
    let mut killed = open().await.unwrap();
    assert!(deliver(&mut killed, "1M7.2.X").await.is_positive());
    for name in ["delivery.1M7.1.X", "delivery.1M7.2.X"] {
        let moved = path.join(format!("cur/{name}:2,S"));
        std::fs::rename(path.join("new").join(name), moved).unwrap();
    }
    let abandoned = Group {
        was_abandoned: true,
        ..group(" XDELIVERYID=1M7.2.X", &["u@example.org"], DATA)
    };
    let (_, verdict) = send(&mut daemon, &abandoned).await;
    assert!(verdict.unwrap().is_positive());
    assert!(files(&path.join("new")).is_empty(), "{:?}", messages(path));
}

#[tokio::test]
async fn without_a_name_every_message_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut handover = Handover::open(&setup(Target::Maildir(folder.path().into())))
        .await
        .unwrap();
    for _ in 0..3 {
        let (_, verdict) = send(&mut handover, &group("", &["u@example.org"], DATA)).await;
        assert!(verdict.unwrap().is_positive());
    }
    assert_eq!(messages(folder.path()).len(), 3);
}
