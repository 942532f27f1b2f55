//! A broker as a process: settings, wiring, telemetry, shutdown.
//!
//! One address serves everything: gRPC, and plain HTTP beside it (`/healthz`, `/metrics`).
//!
//! - `settings`: what can be set, from a file, the environment and flags; the only place that reads
//!   them
//! - `run`: the only place that builds the parts and puts them together
//! - `accept`: the accept loop, with its limits and timeouts
//! - `http`, `metrics`: what is served beside gRPC
//! - `repair`: what only the broker knows how to repair, for the command line
//! - `telemetry`: logs

mod accept;
mod http;
mod linger;
mod metrics;
pub mod repair;
mod run;
mod settings;
mod telemetry;

pub use run::{Ready, ServeError, run};
pub use settings::{LogFormat, SETTINGS, SettingInfo, Settings, SettingsError};
