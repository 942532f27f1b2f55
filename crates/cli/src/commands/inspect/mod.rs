//! `taffrail inspect`: what lies on disk, verified, without a broker.
//!
//! Reads only: it may look at a directory that a broker uses. Exit code 1 says that something is
//! damaged.

mod dump;
mod json;
mod text;

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use taffrail_log::verify::{Severity, inspect};
use taffrail_log::vfs::Disk;

use crate::context::Context;

/// Verifies a data directory, the directory of one log, or one segment file.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A data directory, a log's directory in it, or a segment file
    #[arg(value_name = "PATH", default_value = "taffrail-data")]
    path: PathBuf,
    /// List every segment too
    #[arg(long)]
    segments: bool,
    /// Print the batches of one segment file, headers only
    #[arg(long, conflicts_with = "records")]
    batches: bool,
    /// Print the records of one segment file
    #[arg(long)]
    records: bool,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> anyhow::Result<()> {
    if arguments.batches || arguments.records {
        return dump::run(&arguments.path, arguments.records);
    }
    let report = inspect(&Disk, &arguments.path)?;
    let render = || text::render(&report, arguments.segments);
    context.output.result(render, || json::render(&report))?;
    let damaged = report.findings().filter(|found| found.severity == Severity::Damage).count();
    judge(damaged)
}

/// Damage is a failure, so that scripts hear of it.
fn judge(damaged: usize) -> anyhow::Result<()> {
    match damaged {
        0 => Ok(()),
        1 => bail!("there is damage in one place"),
        _ => bail!("there is damage in {damaged} places"),
    }
}
