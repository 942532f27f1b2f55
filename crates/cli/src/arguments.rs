//! The command line: global flags, and what every command gets of them.

use clap::Parser;
use taffrail_client::{AddressError, Client};

use crate::commands::Command;
use crate::output::{Format, Output};

const AFTER_HELP: &str = "\
Exit codes:
  0  it worked
  1  it failed
  2  the arguments are wrong
  3  the broker refused it
  4  the broker cannot be reached";

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

/// What every command gets.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) server: String,
    pub(crate) output: Output,
    verbose: u8,
}

impl Arguments {
    pub(crate) fn context(&self) -> Context {
        let output = Output { format: self.output, is_quiet: self.quiet };
        Context { server: self.server.clone(), output, verbose: self.verbose }
    }
}

impl Context {
    /// A client of the broker; call it inside a runtime.
    pub(crate) fn client(&self) -> Result<Client, AddressError> {
        Client::connect(&self.server)
    }

    /// How much a broker logs, if a flag says so.
    pub(crate) fn broker_log(&self) -> Option<&'static str> {
        match (self.output.is_quiet, self.verbose) {
            (true, _) => Some("error"),
            (false, 0) => None,
            (false, 1) => Some("debug"),
            (false, _) => Some("trace"),
        }
    }

    /// Writes what the client logs to standard error.
    pub(crate) fn log(&self) {
        let level = match (self.output.is_quiet, self.verbose) {
            (true, _) => "error",
            (false, 0) => "warn",
            (false, 1) => "info",
            (false, _) => "debug",
        };
        let filter = tracing_subscriber::EnvFilter::new(format!("warn,taffrail={level}"));
        let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        // The second of two calls changes nothing.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(is_terminal)
            .with_target(false)
            .try_init();
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
