//! Writes what machines can put right.

use std::path::Path;
use std::time::Duration;

use crate::codegen;
use crate::report::Report;
use crate::workspace::cargo;

const BUDGET: Duration = Duration::from_secs(900);

/// Makes the generated files anew, applies clippy's suggestions, formats.
pub(crate) fn fix(report: &mut Report, root: &Path) {
    report.check("codegen", || codegen::write(root));
    let clippy = ["clippy", "--fix", "--allow-dirty", "--allow-staged", "--workspace"];
    report.run("clippy", BUDGET, cargo(root, clippy).arg("--all-targets"));
    report.run("fmt", BUDGET, &mut cargo(root, ["fmt", "--all"]));
}
