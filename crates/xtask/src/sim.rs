//! Runs the simulation: seeds that one names.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use crate::report::Report;
use crate::workspace::cargo;

/// What is run of the simulation at most.
const BUDGET: Duration = Duration::from_secs(24 * 60 * 60);

/// Which seeds.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Seeds {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many.
    #[arg(long, default_value_t = 1)]
    runs: u64,
}

/// Runs seeds, one after another on each core, and says what they came upon.
pub(crate) fn sim(report: &mut Report, root: &Path, Seeds { seed, runs }: Seeds) {
    let mut command = cargo(root, ["test", "--quiet", "-p", "taffrail-tests", "--test", "sim"]);
    command.args(["--", "--nocapture", "whatever_fails"]);
    command.env("TAFFRAIL_SIM_SEED", seed.to_string());
    command.env("TAFFRAIL_SIM_RUNS", runs.to_string());
    report.run("sim", BUDGET, &mut command);
}
