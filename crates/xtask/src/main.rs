//! What developers run: `cargo xtask ci | test | lint | counts | sim | fix | codegen`.
//!
//! `ci` is everything a change has to pass; `fix`, `codegen` and `counts --accept` are the only ones
//! that write anything but `target/`. Nothing has to be installed by hand: tools beyond the Rust toolchain are
//! fetched into `target/`, and where that fails the summary says what was skipped.

mod codegen;
mod counts;
mod fix;
mod lint;
mod process;
mod python;
mod report;
mod sim;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use report::Report;
use workspace::root;

/// What developers run.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Command {
    /// Everything a change has to pass: lint and test.
    Ci {
        /// Also what takes long: more cases, and tools that have to be compiled first.
        #[arg(long)]
        deep: bool,
    },
    /// Runs every test, each suite within its budget, and counts instructions.
    Test {
        /// More cases, larger budgets.
        #[arg(long)]
        deep: bool,
    },
    /// Checks form: format, lints, generated files, documentation, spelling, dependencies.
    Lint {
        /// Compiles the tools that are missing.
        #[arg(long)]
        deep: bool,
    },
    /// Counts instructions, and compares them with what is committed. `test` does it too.
    Counts {
        /// Makes what is counted now the baseline.
        #[arg(long)]
        accept: bool,
    },
    /// Runs whole brokers in a simulation, for seeds that one names.
    Sim(sim::Seeds),
    /// Formats, applies what clippy suggests, and makes the generated files anew.
    Fix,
    /// Makes the generated files anew.
    Codegen {
        /// Only says whether they are up to date.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<ExitCode> {
    let root = root();
    let mut report = Report::default();
    match Command::parse() {
        Command::Ci { deep } => {
            lint::lint(&mut report, &root, deep);
            test::test(&mut report, &root, deep);
        }
        Command::Test { deep } => test::test(&mut report, &root, deep),
        Command::Lint { deep } => lint::lint(&mut report, &root, deep),
        Command::Counts { accept } => counts::counts(&mut report, &root, accept),
        Command::Sim(seeds) => sim::sim(&mut report, &root, seeds),
        Command::Fix => fix::fix(&mut report, &root),
        Command::Codegen { check: true } => codegen::check(&root)?,
        Command::Codegen { check: false } => codegen::write(&root)?,
    }
    Ok(report.finish())
}
