//! `taffrail serve`: runs a broker.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use serde_json::json;
use taffrail_server::{SETTINGS, Settings};

use crate::context::Context;

/// Flags win over the environment, and that over the settings file.
#[derive(Debug, Args)]
#[command(after_long_help = settings_help())]
pub(crate) struct Arguments {
    /// The data directory [default: ./taffrail-data]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Make an existing empty directory a data directory
    #[arg(long)]
    init: bool,
    /// Where to listen; port 0 picks one [default: 127.0.0.1:7245]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen on other addresses than loopback although anybody may do everything
    #[arg(long)]
    allow_unauthenticated: bool,
    /// Any other setting; `--help` lists them
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_set)]
    set: Vec<(String, String)>,
}

pub(crate) fn run(arguments: Arguments, context: &Context) -> anyhow::Result<()> {
    let mut flags = BTreeMap::new();
    let mut flag = |name, value: Option<String>| value.map(|value| flags.insert(name, value));
    flag("log", context.broker_log().map(str::to_owned));
    for (name, value) in &arguments.set {
        flag(name.as_str(), Some(value.clone()));
    }
    flag("data", arguments.data);
    flag("init", arguments.init.then(|| "true".to_owned()));
    flag("listen", arguments.listen);
    flag("allow_unauthenticated", arguments.allow_unauthenticated.then(|| "true".to_owned()));
    let environment = environment()?.into_iter();
    let settings = Settings::load(arguments.config.as_deref(), environment, &flags)?;
    let output = context.output;
    taffrail_server::run(&settings, |ready| {
        let (url, data) = (format!("http://{}", ready.address), ready.data.display());
        let text = || format!("taffrail is ready on {url} (data in {data})");
        // Whoever waits for this line may be gone: the broker serves all the same.
        let _ = output.result(text, || json!({ "server": url, "data": data.to_string() }));
    })?;
    Ok(())
}

/// The environment; what is not text is refused only where it would be a setting.
fn environment() -> anyhow::Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => variables.push((name, value)),
            Err(_) => ensure!(!name.starts_with("TAFFRAIL_"), "{name} is not UTF-8: set it anew"),
        }
    }
    Ok(variables)
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err("write NAME=VALUE".to_owned()),
    }
}

fn settings_help() -> String {
    let mut help = String::from(
        "Settings, as keys of the file, as TAFFRAIL_ and capitals in the environment, or with --set:\n",
    );
    for info in SETTINGS {
        let (name, kind, description) = (info.name, info.kind, info.description);
        // Writing to a string cannot fail.
        let _ = writeln!(help, "  {name:<22} {kind}\n{:25}{description}", "");
    }
    help
}
