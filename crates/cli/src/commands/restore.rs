//! `taffrail restore`: a backup, as a directory that is served.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;
use serde_json::json;
use taffrail_log::vfs::Disk;
use taffrail_log::{Restored, restore};

use crate::context::Context;
use crate::directory::resolve;
use crate::figures;

const AFTER_HELP: &str = "\
PATH is a directory that does not exist yet, or an empty one. The backup stays as it is, and shares no files
with what was restored. `taffrail serve --data PATH` serves it then.";

/// Copies a backup to where it is to be served, without a broker.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// What `taffrail backup` has made
    #[arg(value_name = "DIR")]
    backup: PathBuf,
    /// Where to
    #[arg(value_name = "PATH", default_value = "taffrail-data")]
    path: PathBuf,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> anyhow::Result<()> {
    let (backup, path) = (resolve(&arguments.backup)?, resolve(&arguments.path)?);
    let bar = context.output.progress(None);
    let restored = restore(&Disk, &backup, &path, &mut |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    let restored = restored?;
    context.output.result(|| text(&arguments.path, &restored), || json(&path, &restored))?;
    ensure!(
        restored.damaged == 0,
        "what was restored is damaged in {} places, as the backup is: see what `taffrail inspect` says",
        restored.damaged
    );
    Ok(())
}

fn text(path: &Path, restored: &Restored) -> String {
    format!(
        "restored to {}: {} files, {}, as of {}; `taffrail serve --data {}` serves it",
        path.display(),
        figures::count(restored.files),
        figures::bytes(restored.bytes as f64),
        figures::moment(restored.backup.taken.as_millis()),
        path.display(),
    )
}

fn json(path: &Path, restored: &Restored) -> serde_json::Value {
    json!({
        "directory": path,
        "taken": figures::moment(restored.backup.taken.as_millis()),
        "files": restored.files,
        "bytes": restored.bytes,
        "damaged": restored.damaged,
    })
}
