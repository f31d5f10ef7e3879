//! Kernels that cannot: played by strace, which gives their answers.

use std::process::Command;

use atrn_tests::process::{Output, Process, wait_until};
use atrn_tests::software::Software;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Stage, last_line};

/// The relay's command, on a kernel where a call fails.
fn without(stage: &Stage, call: &str, error: &str, arguments: &[&str]) -> Option<Command> {
    let strace = Software::Strace.find()?;
    let relay = stage.relay.command();
    let mut command = Command::new(strace);
    command
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("trace={call}"))
        .arg("-e")
        .arg(format!("inject={call}:error={error}"))
        .arg(relay.get_program())
        .args(relay.get_args())
        .args(arguments);
    Some(command)
}

/// The settings insist on the sandbox: without it nothing is served, and the reason says what to do.
#[test]
fn where_the_kernel_cannot_the_relay_does_not_start() {
    let stage = Stage::new();
    for (call, error, missing) in [
        (
            "landlock_create_ruleset",
            "ENOSYS",
            "Landlock (it is not built in)",
        ),
        (
            "landlock_create_ruleset",
            "EOPNOTSUPP",
            "Landlock (it is switched off; add \"landlock\" to lsm= on the kernel's command line)",
        ),
        ("seccomp", "EINVAL", "seccomp filters"),
    ] {
        let Some(mut command) = without(&stage, call, error, &["run"]) else {
            return;
        };
        let said = Output::of(&mut command).expect_code(1);
        assert_eq!(
            last_line(&said),
            format!(
                "error: the sandbox cannot be put up: this kernel lacks {missing}; use a newer kernel, or set \
                 sandbox.enabled = \"best-effort\" to run with what there is"
            )
        );
        assert!(!stage.relay.data_folder().join("queue.db").exists());
        assert!(!stage.relay.data_folder().join("control.sock").exists());
    }
    let Some(mut command) = without(&stage, "landlock_create_ruleset", "ENOSYS", &["check"]) else {
        return;
    };
    let said = Output::of(&mut command).expect_code(1);
    assert!(
        last_line(&said).contains("this kernel lacks Landlock"),
        "{said:?}"
    );
}

/// A kernel that has Landlock, and refuses it all the same when it is to be put up.
#[test]
fn a_refusal_in_the_middle_ends_the_start() {
    let stage = Stage::new();
    for call in ["landlock_restrict_self", "landlock_add_rule"] {
        let Some(mut command) = without(&stage, call, "EPERM", &["run"]) else {
            return;
        };
        let said = Output::of(&mut command).expect_code(1);
        let last = last_line(&said);
        assert!(
            last.starts_with("error: the sandbox cannot be put up: Landlock: "),
            "{last}"
        );
    }
}

#[test]
fn best_effort_goes_on_and_says_what_is_missing() {
    let stage = Stage::new().sandbox("enabled", "best-effort");
    let Some(mut command) = without(&stage, "landlock_create_ruleset", "ENOSYS", &["run"]) else {
        return;
    };
    let log = stage.relay.folder().with_extension("log");
    let mut strace = Process::start("strace", &mut command, &log);
    let status = || stage.relay.cli(&["status", "--json"]);
    strace.wait_until("the relay says that it runs", || {
        status().stdout.contains("\"running\": true")
    });
    let status = status().json();
    let sandbox = &status["sandbox"];
    assert_eq!(sandbox["state"], "partial");
    assert_eq!(sandbox["missing"][0], "Landlock (it is not built in)");
    let shown = stage.relay.cli(&["status"]).expect_code(0).stdout;
    let line = "sandbox   best effort, without Landlock (it is not built in), user ";
    assert!(shown.contains(line), "{shown}");
    let warned = || stage.relay.log().contains("not confined as it should be");
    wait_until("the log has a warning", warned);

    let relay = status["pid"].as_i64().and_then(|pid| pid.try_into().ok());
    // What there is holds all the same: seccomp.
    #[cfg(target_arch = "x86_64")]
    {
        let seccomp = atrn_tests::intruder::status(
            u32::try_from(relay.expect("a process")).expect("a process"),
            relay.expect("a process"),
            "Seccomp",
        );
        assert_eq!(seccomp.as_deref(), Some("2"));
    }
    kill(Pid::from_raw(relay.expect("a process")), Signal::SIGTERM).expect("a signal");
    assert!(strace.wait().success());
}
