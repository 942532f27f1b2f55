//! `taffrail repair`: acts only when told, keeps what it replaces, and says what it did.

mod act;
mod action;
mod advise;

use std::path::PathBuf;

use clap::Args;

use crate::context::Context;

const AFTER_HELP: &str = "\
Without an action nothing is changed: it says which action would do what, and ends with exit code 5.
LOG is a log's id, or its label such as quakes/2. Nothing is ever deleted: a log that is replaced is kept
as logs/ID.quarantine-N, one that is taken away as removed/ID. A repair that was interrupted is finished
by saying it again. `taffrail inspect` shows what is wrong.";

/// Repairs a data directory that no broker uses.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// A data directory
    #[arg(value_name = "PATH", default_value = "taffrail-data")]
    path: PathBuf,
    /// Give up what a log has lost, so that readers get a gap there and it takes appends again; `all`:
    /// every log that has lost something
    #[arg(long, value_name = "LOG")]
    accept_loss: Vec<String>,
    /// Take a log away that no topic names
    #[arg(long, value_name = "LOG")]
    remove: Vec<String>,
    /// Build a damaged or lost catalog anew, from what is left of it and from the logs themselves
    #[arg(long)]
    rebuild_catalog: bool,
    /// Build a damaged or lost log of idempotent producers anew
    #[arg(long)]
    rebuild_producers: bool,
    /// Build a damaged or lost log of consumer groups anew
    #[arg(long)]
    rebuild_groups: bool,
    /// Build a damaged or lost log of work queues anew
    #[arg(long)]
    rebuild_queues: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Arguments {
    fn has_action(&self) -> bool {
        let has_log = !self.accept_loss.is_empty() || !self.remove.is_empty();
        let rebuilds = [
            self.rebuild_catalog,
            self.rebuild_producers,
            self.rebuild_groups,
            self.rebuild_queues,
        ];
        has_log || rebuilds.contains(&true)
    }
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> anyhow::Result<()> {
    if arguments.has_action() {
        act::run(arguments, context)
    } else {
        advise::run(&arguments.path, context)
    }
}
