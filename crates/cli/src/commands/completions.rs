//! `taffrail completions`: a script for a shell.

use std::io::Write as _;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The shell
    shell: clap_complete::Shell,
}

pub(crate) fn run(arguments: &Arguments, mut program: clap::Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut program, "taffrail", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(())
}
