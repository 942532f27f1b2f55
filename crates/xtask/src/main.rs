//! What developers run: `cargo xtask ci | test | lint | fix | codegen`.

mod codegen;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Parser;

/// What developers run.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Command {
    /// Makes the generated files anew.
    Codegen {
        /// Only says whether they are up to date.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    let root = root();
    match Command::parse() {
        Command::Codegen { check: true } => codegen::check(&root),
        Command::Codegen { check: false } => codegen::write(&root),
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(PathBuf::from).unwrap_or_default()
}
