//! Runs every test, each suite within its budget.
//!
//! Everything is built once and first: all steps name the whole workspace, so that cargo resolves
//! features once and a budget measures tests, not compiling. `TAFFRAIL_BIN` tells suites which
//! binary to start, `TAFFRAIL_DEEP=1` that they may take long.

use std::process::Command;
use std::time::Duration;

use crate::python;
use crate::report::Report;
use crate::workspace::{Workspace, cargo};

const PYTHON_REQUIREMENTS: &str = "tests/python/requirements.txt";
const PYTHON_NAME: &str = "python clients";

const BUILD_BUDGET: Duration = Duration::from_secs(900);

/// Seconds that suites may take, by name: quick, and deep. Others get the last line.
const BUDGETS: [(&str, u64, u64); 7] = [
    ("unit and property tests", 180, 1800),
    ("doctests", 120, 120),
    ("tidy", 30, 30),
    ("it", 180, 900),
    ("crash", 180, 1800),
    (PYTHON_NAME, 120, 300),
    ("", 120, 600),
];

/// Builds everything, then runs every suite.
pub(crate) fn test(report: &mut Report, workspace: &Workspace, deep: bool) {
    let cargo = |arguments: &[&str]| {
        let mut command = cargo(&workspace.root, arguments.iter().copied());
        environment(&mut command, workspace, deep);
        command
    };
    let build = ["build", "--workspace", "--lib", "--bins", "--tests"];
    if !report.run("build", BUILD_BUDGET, &mut cargo(&build)) {
        return;
    }
    let unit = ["test", "--workspace", "--lib", "--bins", "--quiet"];
    run(report, "unit and property tests", deep, &mut cargo(&unit));
    run(report, "doctests", deep, &mut cargo(&["test", "--workspace", "--doc", "--quiet"]));
    for name in &workspace.tests {
        run(report, name, deep, &mut cargo(&["test", "--workspace", "--test", name]));
    }
    python(report, workspace, deep);
    if !deep {
        report.skip("deep cases", "more cases and longer runs: --deep");
    }
}

fn run(report: &mut Report, name: &str, deep: bool, command: &mut Command) {
    report.run(name, budget(name, deep), command);
}

/// Clients of another language over the real binary.
fn python(report: &mut Report, workspace: &Workspace, deep: bool) {
    if !workspace.has_binary {
        report.skip(PYTHON_NAME, "there is no binary yet");
        return;
    }
    match python::install(&workspace.root, PYTHON_REQUIREMENTS) {
        Ok(programs) => {
            let mut command = Command::new(programs.join("python"));
            command.current_dir(&workspace.root).arg("tests/python/run.py");
            command.arg(workspace.binary());
            environment(&mut command, workspace, deep);
            run(report, PYTHON_NAME, deep, &mut command);
        }
        Err(why) => report.skip(PYTHON_NAME, &why),
    }
}

fn environment(command: &mut Command, workspace: &Workspace, deep: bool) {
    command.env("TAFFRAIL_BIN", workspace.binary());
    if deep {
        command.env("TAFFRAIL_DEEP", "1");
    }
}

fn budget(name: &str, deep: bool) -> Duration {
    let line = BUDGETS.iter().find(|(suite, ..)| *suite == name || suite.is_empty());
    let &(_, quick, long) = line.unwrap_or(&("", 120, 600));
    Duration::from_secs(if deep { long } else { quick })
}
