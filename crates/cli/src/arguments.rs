//! The command line: global flags, and the commands.

use clap::Parser;

use crate::commands::Command;
use crate::context::Context;
use crate::output::{Format, Output};

const AFTER_HELP: &str = "\
Exit codes:
  0  it worked
  1  it failed
  2  the arguments are wrong
  3  the broker refused it
  4  the broker cannot be reached
  5  nothing was done: there is something to repair, and no word to do it";

/// A persistent append-only log that you stream from
#[derive(Debug, Parser)]
#[command(name = "taffrail", version, after_help = AFTER_HELP, propagate_version = true)]
pub(crate) struct Arguments {
    /// The broker's address
    #[arg(
        long,
        global = true,
        env = "TAFFRAIL_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:7245"
    )]
    server: String,
    /// How results are written
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    /// Say nothing but results and errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    pub(crate) fn context(&self) -> Context {
        let output = Output { format: self.output, is_quiet: self.quiet };
        Context::new(self.server.clone(), output, self.verbose)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
