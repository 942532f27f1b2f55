//! Where the workspace is, and what cargo builds of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// What builds everything that tests run: all steps name the whole workspace, so that cargo
/// resolves features once and nothing is built twice.
pub(crate) const BUILD: [&str; 5] = ["build", "--workspace", "--lib", "--bins", "--tests"];

/// The package whose test targets are suites of their own.
const SUITES_PACKAGE: &str = "tests";

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(PathBuf::from).unwrap_or_default()
}

/// A cargo command in the folder of the workspace.
pub(crate) fn cargo<'a>(root: &Path, arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(arguments);
    command
}

/// What [`BUILD`] has made.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// The product.
    pub(crate) binary: Option<PathBuf>,
    /// The programs that run tests: those of crates first, by name.
    pub(crate) suites: Vec<Suite>,
}

/// A program that runs tests.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Suite {
    is_of_the_whole: bool,
    /// The crate, with the target where a crate has several, or the name in `tests/`.
    pub(crate) name: String,
    /// The package's folder, in which cargo runs it.
    pub(crate) folder: PathBuf,
    /// Where it is.
    pub(crate) program: PathBuf,
}

impl Built {
    /// Asks cargo, which has built everything before.
    pub(crate) fn load(root: &Path) -> Result<Self> {
        let mut command = cargo(root, BUILD);
        command.args(["--quiet", "--message-format", "json-render-diagnostics"]);
        let output = command.output().context("running cargo build")?;
        if !output.status.success() {
            bail!("cargo build failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let mut built = Self::default();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            built.take(&serde_json::from_str(line)?);
        }
        built.suites.sort();
        Ok(built)
    }

    /// Takes one of cargo's messages.
    fn take(&mut self, message: &Value) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let (Some(program), Some(manifest), Some(target), Some(kind)) = (
            text(&message["executable"]),
            text(&message["manifest_path"]),
            text(&message["target"]["name"]),
            text(&message["target"]["kind"][0]),
        ) else {
            return;
        };
        if message["profile"]["test"] != true {
            if target == "taffrail" {
                self.binary = Some(program.into());
            }
            return;
        }
        let folder = Path::new(&manifest).parent().map(PathBuf::from).unwrap_or_default();
        let package = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_of_the_whole = package == SUITES_PACKAGE;
        let name = match kind.as_str() {
            _ if is_of_the_whole => target,
            "test" => format!("{package} {target}"),
            _ => package,
        };
        self.suites.push(Suite { is_of_the_whole, name, folder, program: program.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(package: &str, kind: &str, target: &str, is_test: bool) -> Value {
        serde_json::json!({
            "executable": format!("/t/{target}"),
            "manifest_path": format!("/w/{package}/Cargo.toml"),
            "target": { "name": target, "kind": [kind] },
            "profile": { "test": is_test },
        })
    }

    #[test]
    fn suites_of_the_whole_come_last_and_bear_their_own_names() {
        let mut built = Built::default();
        built.take(&message("tests", "test", "it", true));
        built.take(&message("client", "test", "it", true));
        built.take(&message("client", "lib", "taffrail_client", true));
        built.take(&message("cli", "bin", "taffrail", false));
        built.take(&message("xtask", "bin", "taffrail-xtask", false));
        built.take(&serde_json::json!({ "reason": "build-finished" }));
        built.suites.sort();
        let names: Vec<_> = built.suites.iter().map(|suite| suite.name.as_str()).collect();
        assert_eq!(names, ["client", "client it", "it"]);
        assert_eq!(built.binary, Some(PathBuf::from("/t/taffrail")));
    }
}
