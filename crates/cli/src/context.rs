//! What every command gets of the global flags.

use taffrail_client::{AddressError, Client};

use crate::output::Output;

/// What every command gets.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) server: String,
    pub(crate) output: Output,
    verbose: u8,
}

impl Context {
    pub(crate) fn new(server: String, output: Output, verbose: u8) -> Self {
        Self { server, output, verbose }
    }

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
