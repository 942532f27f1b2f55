//! `taffrail inspect`: what lies on disk, verified, without a broker.
//!
//! Reads only: it may look at a directory that a broker uses. Exit code 1 says that something is
//! damaged.

mod contents;
mod dump;
mod events;
mod json;
mod text;

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use taffrail_log::verify::{self, Severity};
use taffrail_log::vfs::Disk;
use taffrail_server::repair::Own;

use super::remedy::survey;
use crate::context::Context;

const AFTER_HELP: &str = "\
Of an index (*.index), of what a log remembers of producers (producers.a, .b) and of the recovery points
(recovery-points.a, .b) it prints what they hold. What is damaged is named with its file, its place and
its offsets, and with the `taffrail repair` command that does something about it, where one does.";

/// Verifies a data directory, the directory of one log, or one file.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// A data directory, a log's directory in it, or a file in that
    #[arg(value_name = "PATH", default_value = "taffrail-data")]
    path: PathBuf,
    /// List every segment too
    #[arg(long)]
    segments: bool,
    /// Print the header of one segment file and those of its batches
    #[arg(long, alias = "batches", group = "part")]
    headers: bool,
    /// Print the records of one segment file
    #[arg(long, group = "part")]
    records: bool,
    /// Print the events of the catalog of a data directory
    #[arg(long, group = "part")]
    catalog: bool,
    /// Print the events that say who idempotent producers are
    #[arg(long, group = "part")]
    producers: bool,
    /// Print the events of consumer groups
    #[arg(long, group = "part")]
    groups: bool,
    /// Print the events of consumer queues
    #[arg(long, group = "part")]
    queues: bool,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> anyhow::Result<()> {
    let path = &arguments.path;
    if arguments.headers {
        return dump::headers(path, context);
    }
    if arguments.records {
        return dump::records(path, context);
    }
    if arguments.catalog {
        return events::run(path, Own::Catalog, context);
    }
    if arguments.producers {
        return events::run(path, Own::Producers, context);
    }
    if arguments.groups {
        return events::run(path, Own::Groups, context);
    }
    if arguments.queues {
        return events::run(path, Own::Queues, context);
    }
    if path.is_file()
        && let Some(contents) = verify::contents(&Disk, path)?
    {
        return contents::run(&contents, context);
    }
    let report = survey(path)?;
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
