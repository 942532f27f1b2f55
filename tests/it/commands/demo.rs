//! `demo`: it loses nothing, and when it ends, or is told to, its broker ends with it.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::broker::Home;
use crate::program::{Program, product};

/// A demo whose data is below `home`.
fn demo(home: &Home, rate: u32) -> Command {
    let mut command = product();
    command.args(["demo", "--rate", &rate.to_string()]).env("TMPDIR", home.path());
    // It starts processes of its own: a test that fails while it runs ends them too.
    command.process_group(0);
    command
}

/// The processes whose arguments name something in `folder`.
fn processes_on(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().expect("text");
    let processes = std::fs::read_dir("/proc").expect("Linux has it").flatten();
    let words = processes.filter_map(|process| {
        // It may be gone.
        let words = std::fs::read(process.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&words).replace('\0', " "))
    });
    words.filter(|words| words.contains(folder)).collect()
}

/// Checks that a demo which has ended left neither a process nor a file.
#[track_caller]
fn check_nothing_is_left(home: &Home) {
    assert_eq!(processes_on(home.path()), [""; 0]);
    assert_eq!(std::fs::read_dir(home.path()).expect("ours").count(), 0, "files");
}

#[test]
fn the_demo_kills_its_broker_and_loses_nothing() {
    let home = Home::new();
    let output = Program::start(&mut demo(&home, 100_000)).end().success();
    for words in ["SIGKILL after 853 events", "all 1707 events are there", "nothing was lost"] {
        assert!(output.contains(words), "{output:?} does not say {words:?}");
    }
    check_nothing_is_left(&home);
}

#[test]
fn a_demo_that_nobody_reads_ends_with_its_broker() {
    // Nobody from the beginning, or from when the first broker runs, or before the second starts.
    for lines in [0, 1, 3] {
        let home = Home::new();
        let ended = Program::start_heard(&mut demo(&home, 5_000), lines).end();
        ended.check(0, &[]);
        assert_eq!(ended.errors, "", "{lines} lines were read");
        check_nothing_is_left(&home);
    }
}

#[test]
fn a_demo_that_is_told_to_end_ends_its_broker() {
    for signal in ["TERM", "INT"] {
        let home = Home::new();
        let demo = Program::start(&mut demo(&home, 1));
        assert!(demo.lines(1).concat().starts_with("started a broker"));
        assert_eq!(processes_on(home.path()).len(), 1, "its broker");
        demo.signal(signal);
        let ended = demo.end();
        ended.check(1, &["error: "]);
        assert!(!ended.output.contains("nothing was lost"), "{}", ended.output);
        check_nothing_is_left(&home);
    }
}
