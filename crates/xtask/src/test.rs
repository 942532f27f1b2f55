//! Runs every test, each suite within its budget, and counts instructions.
//!
//! Everything is built once and first, so that a budget measures tests, not compiling.
//! `TAFFRAIL_BIN` tells suites which binary to start, `TAFFRAIL_DEEP=1` that they may take long, and
//! `TAFFRAIL_SKIPS` where to note tests that cannot run here: a line each, name, tab, reason.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::counts::counts;
use crate::python;
use crate::report::Report;
use crate::workspace::{BUILD, Built, cargo};

const PYTHON_REQUIREMENTS: &str = "tests/python/requirements.txt";
const PYTHON_NAME: &str = "python clients";

/// Where suites note what they skip.
const SKIPS: &str = "target/skips";

const BUILD_BUDGET: Duration = Duration::from_secs(900);

/// The threads of a log in every order: with a feature of its own, so that nothing else has it.
const LOOM: [&str; 7] =
    ["test", "--package", "taffrail-log", "--features", "loom", "--test", "loom"];

/// Seconds that suites may take, by name: quick, and deep.
const BUDGETS: [(&str, u64, u64); 8] = [
    ("loom", 60, 60),
    ("log log", 120, 1200),
    ("doctests", 120, 120),
    ("tidy", 30, 30),
    ("sim", 180, 3600),
    ("it", 180, 900),
    ("crash", 180, 1800),
    (PYTHON_NAME, 120, 300),
];
/// The same for all others.
const BUDGET: (u64, u64) = (90, 900);

/// Builds everything, runs every suite, and then counts.
pub(crate) fn test(report: &mut Report, root: &Path, deep: bool) {
    if !report.run("build", BUILD_BUDGET, &mut cargo(root, BUILD)) {
        return;
    }
    let built = match Built::load(root) {
        Ok(built) => built,
        Err(error) => return report.fail("list suites", &format!("{error:#}")),
    };
    let skips = root.join(SKIPS);
    // What a run before this one has noted.
    let cleared = fs::create_dir_all(root.join("target")).and_then(|()| fs::write(&skips, ""));
    if let Err(error) = cleared {
        return report.fail(SKIPS, &error.to_string());
    }
    let run = |report: &mut Report, name: &str, command: &mut Command| {
        command.env("TAFFRAIL_SKIPS", &skips);
        if let Some(binary) = &built.binary {
            command.env("TAFFRAIL_BIN", binary);
        }
        if deep {
            command.env("TAFFRAIL_DEEP", "1");
        }
        report.run(name, budget(name, deep), command);
    };
    for suite in &built.suites {
        let mut command = Command::new(&suite.program);
        command.current_dir(&suite.folder).env("CARGO_MANIFEST_DIR", &suite.folder);
        run(report, &suite.name, &mut command);
    }
    if report.run("build loom", BUILD_BUDGET, cargo(root, LOOM).arg("--no-run")) {
        run(report, "loom", cargo(root, LOOM).arg("--quiet"));
    }
    run(report, "doctests", &mut cargo(root, ["test", "--workspace", "--doc", "--quiet"]));
    match (&built.binary, python::install(root, PYTHON_REQUIREMENTS)) {
        (None, _) => report.skip(PYTHON_NAME, "no package makes the binary"),
        (_, Err(why)) => report.skip(PYTHON_NAME, &why),
        (Some(binary), Ok(programs)) => {
            let mut command = Command::new(programs.join("python"));
            command.current_dir(root).arg("tests/python/run.py").arg(binary);
            run(report, PYTHON_NAME, &mut command);
        }
    }
    counts(report, root, false);
    match fs::read_to_string(&skips) {
        Ok(notes) => skipped(&notes).for_each(|(name, why)| report.skip(name, why)),
        Err(error) => report.fail(SKIPS, &error.to_string()),
    }
    if !deep {
        report.skip("deep cases", "more cases and longer runs: --deep");
    }
}

/// What suites have noted: names and reasons.
pub(crate) fn skipped(notes: &str) -> impl Iterator<Item = (&str, &str)> {
    notes.lines().map(|line| line.split_once('\t').unwrap_or((line, "it does not say why")))
}

fn budget(name: &str, deep: bool) -> Duration {
    let own = BUDGETS.iter().find(|(suite, ..)| *suite == name);
    let (quick, long) = own.map_or(BUDGET, |&(_, quick, long)| (quick, long));
    Duration::from_secs(if deep { long } else { quick })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_a_name_and_a_reason() {
        let notes = "crash: failed sync\tno strace\ncrash: full disk\n";
        let found: Vec<_> = skipped(notes).collect();
        let expected =
            [("crash: failed sync", "no strace"), ("crash: full disk", "it does not say why")];
        assert_eq!(found, expected);
    }
}
