//! Where the workspace is, and which test targets it has.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

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

/// What `cargo metadata` says of the workspace.
pub(crate) struct Workspace {
    /// Its folder.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
    /// Names of the targets of kind `test`, in the order of the manifests.
    pub(crate) tests: Vec<String>,
    /// Whether there is a package that makes the binary.
    pub(crate) has_binary: bool,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let root = root();
        let output = cargo(&root, ["metadata", "--no-deps", "--format-version", "1"])
            .output()
            .context("running cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let target = metadata["target_directory"].as_str().context("no target directory")?.into();
        let packages = metadata["packages"].as_array().context("no packages")?;
        let targets: Vec<_> =
            packages.iter().filter_map(|package| package["targets"].as_array()).flatten().collect();
        let named = |target: &Value| target["name"].as_str().map(str::to_owned);
        let is_kind = |target: &Value, kind: &str| {
            target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|it| it == kind))
        };
        let tests = targets.iter().filter(|it| is_kind(it, "test")).filter_map(|it| named(it));
        let tests = tests.collect();
        let has_binary =
            targets.iter().any(|it| is_kind(it, "bin") && named(it).as_deref() == Some("taffrail"));
        Ok(Self { root, target, tests, has_binary })
    }

    /// The binary as `cargo build` makes it.
    pub(crate) fn binary(&self) -> PathBuf {
        self.target.join("debug/taffrail")
    }
}
