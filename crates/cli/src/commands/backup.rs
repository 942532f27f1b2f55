//! `taffrail backup`: everything of a running broker, in a directory that can be served.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::json;
use taffrail_client::proto::BackupSummary;

use crate::context::Context;
use crate::directory::resolve;
use crate::figures;

const AFTER_HELP: &str = "\
DIR is a directory on the broker's machine: one that does not exist yet, an empty one, or an earlier backup
of the same broker, which the new one replaces once it is whole, and whose unchanged files it shares. To
restore, say `taffrail restore DIR RESTORED` and `taffrail serve --data RESTORED`.";

/// Backs up a running broker.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Where to, on the broker's machine
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(crate) async fn run(arguments: Arguments, context: &Context) -> anyhow::Result<()> {
    let directory = absolute(&arguments.directory)?;
    let admin = context.client()?.admin();
    let bar = context.output.progress(None);
    let summary = admin.backup(&directory, |bytes| bar.set_position(bytes)).await;
    bar.finish_and_clear();
    let summary = summary.with_context(|| format!("there is no backup at {directory}"))?;
    context.output.result(|| text(&directory, &summary), || json(&directory, &summary))?;
    ensure!(
        summary.skipped.is_empty(),
        "{} cannot be opened and are not in the backup: see what `taffrail topic describe` says",
        summary.skipped.join(", ")
    );
    ensure!(
        summary.damaged == 0,
        "what was backed up is damaged in {} places: see what `taffrail inspect` says",
        summary.damaged
    );
    Ok(())
}

/// A path that the broker understands, wherever it runs on this machine.
fn absolute(path: &Path) -> anyhow::Result<String> {
    let path = resolve(path).context("the directory has no name")?;
    let text = path.to_str().map(str::to_owned);
    text.with_context(|| format!("{} is not UTF-8: name another directory", path.display()))
}

fn text(directory: &str, summary: &BackupSummary) -> String {
    let size = |bytes: u64| figures::bytes(bytes as f64);
    format!(
        "backed up to {directory}: {} logs, {} segments, {}; {} copied, the others shared; {} read \
         once more",
        figures::count(summary.logs),
        figures::count(summary.segments),
        size(summary.bytes),
        size(summary.copied_bytes),
        size(summary.verified_bytes),
    )
}

fn json(directory: &str, summary: &BackupSummary) -> serde_json::Value {
    json!({
        "directory": directory,
        "taken": figures::moment(summary.taken_ms),
        "logs": summary.logs,
        "segments": summary.segments,
        "bytes": summary.bytes,
        "copied_bytes": summary.copied_bytes,
        "verified_bytes": summary.verified_bytes,
        "damaged": summary.damaged,
        "skipped": summary.skipped,
    })
}
