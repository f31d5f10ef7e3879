//! Who is proven to have sent a message may hear of what became of it.

use atrn_tests::dns::Dns;
use atrn_tests::inside::{Inside, Step};
use atrn_tests::message::{Message, plain};

use super::signing::{Key, message};
use super::{accepted, setup};

/// `reports = "verified-sender"`, as it is unless somebody says otherwise.
#[test]
fn a_report_goes_to_a_proven_sender_and_else_to_the_postmaster() {
    let dns = Dns::start();
    let key = Key::new();
    key.publish(&dns, "signed.example");
    dns.txt("_dmarc.signed.example", "v=DMARC1; p=none");
    dns.txt("proven.example", "v=spf1 ip4:127.0.0.1 -all");
    dns.txt("forged.example", "v=spf1 -all");
    let inside = Inside::smtp();
    inside
        .on(Step::Rcpt)
        .with("user@")
        .reply("550 5.1.1 no such user here");
    let outside = Inside::smtp();
    let world = setup(&dns)
        .target(&inside.target())
        .puller("reports.target", outside.target())
        .start();
    // A puller inside that takes nothing at all would not be believed.
    let taken = || world.send(&[Message::new("ann@example.org", plain(1))]);
    let by = |author: &str| message(&format!("alice@{author}"));
    taken();
    accepted(&world, "a@proven.example", &by("anybody.example"));
    taken();
    accepted(&world, "a@forged.example", &by("forged.example"));
    taken();
    accepted(&world, "a@unknown.example", &by("unknown.example"));
    taken();
    accepted(
        &world,
        "a@signed.example",
        &key.sign("signed.example", &by("signed.example")),
    );
    for _ in 0..2 {
        let _ = world.puller.pull().expect_code(0);
    }
    let to = |inside: &Inside| -> Vec<String> {
        let arrived = inside.messages();
        let arrived = arrived
            .into_iter()
            .filter(|message| message.mail.starts_with("<>"));
        let mut to: Vec<_> = arrived.flat_map(|report| report.recipients).collect();
        to.sort();
        to.iter()
            .map(|path| path.split(' ').next().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(to(&outside), ["<a@proven.example>", "<a@signed.example>"]);
    assert_eq!(
        to(&inside),
        ["<postmaster@example.org>", "<postmaster@example.org>"]
    );
}
