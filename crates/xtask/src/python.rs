//! A Python environment of our own in `target/python`, filled from pinned requirements.
//!
//! Everything here may be unobtainable, on a machine without Python or without a way to the
//! packages: then the answer is a sentence that says what is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Makes sure of the packages that a file of requirements names. Returns the folder of programs.
///
/// What was installed is remembered by the file's contents, so a second call costs nothing.
pub(crate) fn install(root: &Path, requirements: &str) -> Result<PathBuf, String> {
    let venv = root.join("target/python");
    let programs = venv.join("bin");
    let wanted = fs::read_to_string(root.join(requirements))
        .map_err(|error| format!("cannot read {requirements}: {error}"))?;
    let stamp = venv.join(requirements.replace('/', "-"));
    let python = programs.join("python");
    let runs = succeeds(Command::new(&python).arg("--version"));
    if runs && fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(programs);
    }
    if !runs {
        create(&venv)?;
    }
    let mut pip = Command::new(&python);
    pip.current_dir(root)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(["--only-binary", ":all:", "--requirement", requirements]);
    if !pip.status().is_ok_and(|status| status.success()) {
        return Err(format!("pip could not install {requirements}, see above"));
    }
    fs::write(&stamp, wanted)
        .map_err(|error| format!("cannot write {}: {error}", stamp.display()))?;
    Ok(programs)
}

/// Creates an empty environment with pip in it.
fn create(venv: &Path) -> Result<(), String> {
    let python = || Command::new("python3");
    if !succeeds(python().arg("--version")) {
        return Err("python3 is not on the PATH".to_owned());
    }
    if !succeeds(python().args(["-c", "import ensurepip, venv"])) {
        return Err("python3 has no venv: install it (Debian: apt-get install python3-venv)".into());
    }
    match python().args(["-m", "venv", "--clear"]).arg(venv).status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("python3 -m venv {} failed, see above", venv.display())),
    }
}

fn succeeds(command: &mut Command) -> bool {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
