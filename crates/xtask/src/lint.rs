//! Checks form: format, lints, generated files, documentation, spelling, dependencies.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::report::Report;
use crate::workspace::cargo;
use crate::{codegen, python};

/// For what compiles the workspace.
const COMPILE_BUDGET: Duration = Duration::from_secs(600);
/// For what only reads it.
const READ_BUDGET: Duration = Duration::from_secs(60);
/// For a tool that has to be compiled.
const INSTALL_BUDGET: Duration = Duration::from_secs(1200);

const PYTHON_LINTERS: &str = ".ci/lint-requirements.txt";

/// A linter that is a cargo subcommand: its program, version and arguments.
struct CargoTool {
    program: &'static str,
    version: &'static str,
    arguments: &'static [&'static str],
}

const CARGO_TOOLS: [CargoTool; 2] = [
    CargoTool {
        program: "cargo-deny",
        version: "0.20.2",
        arguments: &["check", "bans", "licenses", "sources"],
    },
    CargoTool { program: "cargo-machete", version: "0.9.2", arguments: &["--skip-target-dir"] },
];

/// Runs every check. Tools that would have to be compiled are skipped unless `deep`.
pub(crate) fn lint(report: &mut Report, root: &Path, deep: bool) {
    report.run("fmt", READ_BUDGET, &mut cargo(root, ["fmt", "--all", "--check"]));
    report.check("codegen", || codegen::check(root));
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    report.run("clippy", COMPILE_BUDGET, &mut cargo(root, clippy));
    let mut doc = cargo(root, ["doc", "--workspace", "--no-deps", "--quiet"]);
    report.run("doc", COMPILE_BUDGET, doc.env("RUSTDOCFLAGS", "-D warnings"));
    python_linters(report, root);
    for tool in &CARGO_TOOLS {
        cargo_tool(report, root, tool, deep);
    }
}

/// Spelling and the contract's form, with linters that come as Python wheels.
fn python_linters(report: &mut Report, root: &Path) {
    let linters: [(&str, &[&str]); 2] = [("typos", &[]), ("buf", &["lint"])];
    let installed = python::install(root, PYTHON_LINTERS);
    for (program, arguments) in linters {
        match &installed {
            Ok(programs) => {
                let mut command = std::process::Command::new(programs.join(program));
                report.run(program, READ_BUDGET, command.current_dir(root).args(arguments));
            }
            Err(why) => report.skip(program, why),
        }
    }
}

fn cargo_tool(report: &mut Report, root: &Path, tool: &CargoTool, deep: bool) {
    let own = root.join("target/tools");
    let CargoTool { program, version, arguments } = tool;
    let mut found = find(program, &own);
    if found.is_none() && deep {
        let install = ["install", "--locked", "--version", version, program, "--root"];
        let name = format!("install {program}");
        report.run(&name, INSTALL_BUDGET, cargo(root, install).arg(&own));
        found = find(program, &own);
    }
    let Some(found) = found else {
        report.skip(program, "not on the PATH; --deep compiles it into target/tools");
        return;
    };
    let mut command = std::process::Command::new(found);
    report.run(program, READ_BUDGET, command.current_dir(root).args(*arguments));
}

/// Where a program is: on the PATH, or among our own tools.
fn find(program: &str, own: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([own.join("bin")]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}
