//! Runs every test, each suite within its budget.
//!
//! Everything is built once and first, so that a budget measures tests, not compiling.
//! `TAFFRAIL_BIN` tells suites which binary to start, `TAFFRAIL_DEEP=1` that they may take long.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::python;
use crate::report::Report;
use crate::workspace::{BUILD, Built, cargo};

const PYTHON_REQUIREMENTS: &str = "tests/python/requirements.txt";
const PYTHON_NAME: &str = "python clients";

const BUILD_BUDGET: Duration = Duration::from_secs(900);

/// Seconds that suites may take, by name: quick, and deep.
const BUDGETS: [(&str, u64, u64); 5] = [
    ("doctests", 120, 120),
    ("tidy", 30, 30),
    ("it", 180, 900),
    ("crash", 180, 1800),
    (PYTHON_NAME, 120, 300),
];
/// The same for all others.
const BUDGET: (u64, u64) = (90, 900);

/// Builds everything, then runs every suite.
pub(crate) fn test(report: &mut Report, root: &Path, deep: bool) {
    if !report.run("build", BUILD_BUDGET, &mut cargo(root, BUILD)) {
        return;
    }
    let built = match Built::load(root) {
        Ok(built) => built,
        Err(error) => return report.fail("list suites", &format!("{error:#}")),
    };
    let run = |report: &mut Report, name: &str, command: &mut Command| {
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
    if !deep {
        report.skip("deep cases", "more cases and longer runs: --deep");
    }
}

fn budget(name: &str, deep: bool) -> Duration {
    let own = BUDGETS.iter().find(|(suite, ..)| *suite == name);
    let (quick, long) = own.map_or(BUDGET, |&(_, quick, long)| (quick, long));
    Duration::from_secs(if deep { long } else { quick })
}
