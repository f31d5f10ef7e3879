//! Parameters of MAIL and RCPT that are wrong (RFC 5321 §4.1.1.11, RFC 3461 §4).

use super::{MAIL, RCPT, patient_world, session};

// covers: R5321-12, R3461-1
#[test]
fn bad_parameters_of_mail_are_refused() {
    let world = patient_world();
    let mut peer = session(&world);
    let long = "e".repeat(101);
    for (parameters, reply) in [
        ("FOO", "555 5.5.4"),
        ("FOO=bar", "555 5.5.4"),
        ("XDELIVERYID=1", "555 5.5.4"),
        ("AUTH=<>", "555 5.5.4"),
        ("NOTIFY=NEVER", "555 5.5.4"),
        ("SIZE=10 SIZE=10", "501 5.5.4"),
        ("BODY=7BIT body=8BITMIME", "501 5.5.4"),
        ("SMTPUTF8 SMTPUTF8", "501 5.5.4"),
        ("SMTPUTF8=yes", "501 5.5.4"),
        ("BODY", "501 5.5.4"),
        ("BODY=9BIT", "501 5.5.4"),
        ("RET=ALL", "501 5.5.4"),
        ("RET=FULL RET=HDRS", "501 5.5.4"),
        ("ENVID=", "501 5.5.4"),
        ("ENVID=a+b", "501 5.5.4"),
        ("ENVID=a+0a", "501 5.5.4"),
        ("ENVID=a=b", "501 5.5.4"),
        (&format!("ENVID={long}"), "501 5.5.4"),
        ("SIZE=10 FOO", "555 5.5.4"),
    ] {
        peer.ask(&format!("{MAIL} {parameters}"), reply);
        peer.ask(RCPT, "503 5.5.1");
    }
    peer.ask(&format!("{MAIL}  size=10   Body=7bit  "), "250 2.1.0");
}

// covers: R5321-12, R3461-1
#[test]
fn bad_parameters_of_rcpt_are_refused() {
    let world = patient_world();
    let mut peer = session(&world);
    peer.ask(MAIL, "250");
    let long = "o".repeat(495);
    for (parameters, reply) in [
        ("FOO=bar", "555 5.5.4"),
        ("SIZE=10", "555 5.5.4"),
        ("NOTIFY", "501 5.5.4"),
        ("NOTIFY=", "501 5.5.4"),
        ("NOTIFY=ALWAYS", "501 5.5.4"),
        ("NOTIFY=NEVER,SUCCESS", "501 5.5.4"),
        ("NOTIFY=SUCCESS,SUCCESS", "501 5.5.4"),
        ("NOTIFY=NEVER NOTIFY=NEVER", "501 5.5.4"),
        ("ORCPT=user@example.org", "501 5.5.4"),
        ("ORCPT=;user@example.org", "501 5.5.4"),
        ("ORCPT=rfc822;", "501 5.5.4"),
        ("ORCPT=rfc822;us+er@example.org", "501 5.5.4"),
        (&format!("ORCPT=rfc822;{long}"), "501 5.5.4"),
        ("ORCPT=rfc822;a@b ORCPT=rfc822;a@b", "501 5.5.4"),
    ] {
        peer.ask(&format!("{RCPT} {parameters}"), reply);
    }
    peer.ask("DATA", "554 5.5.1");
    let longest = "o".repeat(493);
    peer.ask(
        &format!("{RCPT} NOTIFY=never ORCPT=rfc822;{longest}"),
        "250 2.1.5",
    );
}
