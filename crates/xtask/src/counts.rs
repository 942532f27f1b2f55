//! Counts instructions of what every record passes through, and compares them with what is committed.
//!
//! `benches/counts` does both; this builds it as a release is built, under budgets. A build that tests
//! do not need: it takes the model, the log and what they need, and nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::report::Report;
use crate::test::skipped;
use crate::workspace::cargo;

const NAME: &str = "instruction counts";
const PACKAGE: [&str; 3] = ["--release", "--package", "taffrail-counts"];

/// For compiling it on two cores with nothing compiled before, several times over.
const BUILD_BUDGET: Duration = Duration::from_secs(600);
/// For counting.
const BUDGET: Duration = Duration::from_secs(120);

/// Where it notes why nothing was compared.
const SKIPS: &str = "target/skips-counts";

/// Compares, or makes what is counted now the baseline.
pub(crate) fn counts(report: &mut Report, root: &Path, accept: bool) {
    let version = Command::new("valgrind").arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        let why = "valgrind is not on the PATH: install it (Debian: apt-get install valgrind)";
        return report.skip(NAME, why);
    }
    if !report.run("build counts", BUILD_BUDGET, cargo(root, ["build"]).args(PACKAGE)) {
        return;
    }
    let skips = root.join(SKIPS);
    if let Err(error) = fs::create_dir_all(root.join("target")).and_then(|()| fs::write(&skips, ""))
    {
        return report.fail(SKIPS, &error.to_string());
    }
    let mut command = cargo(root, ["run", "--quiet"]);
    command.args(PACKAGE).arg("--").args(accept.then_some("--accept"));
    report.run(NAME, BUDGET, command.env("TAFFRAIL_SKIPS", &skips));
    match fs::read_to_string(&skips) {
        Ok(notes) => skipped(&notes).for_each(|(name, why)| report.skip(name, why)),
        Err(error) => report.fail(SKIPS, &error.to_string()),
    }
}
