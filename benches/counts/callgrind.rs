//! Runs a case under callgrind, and the one function that callgrind counts.

use std::env;
use std::fs;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::cases::Case;

/// What makes this program run one case, which callgrind watches.
pub(crate) const RUN: &str = "run";

/// What callgrind counts: [`counted_region`], until it returns.
const TOGGLE: &str = "--toggle-collect=*counted_region*";

/// What a case took.
pub(crate) struct Counted {
    /// On what: see [`machine`].
    pub(crate) machine: String,
    /// Of how many.
    pub(crate) units: u64,
    pub(crate) instructions: u64,
}

/// Runs a case in this process, which says what [`count`] reads.
pub(crate) fn run(case: &Case) -> anyhow::Result<()> {
    let units = (case.run)()?;
    println!("{units} {}", machine());
    Ok(())
}

/// Counts the instructions of a case, in a process of its own.
pub(crate) fn count(name: &str) -> anyhow::Result<Counted> {
    fs::create_dir_all(folder()?)?;
    let out = folder()?.join(format!("{name}.out"));
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--tool=callgrind", "--collect-atstart=no", TOGGLE]);
    command.arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(env::current_exe()?).args([RUN, name]);
    let output = command.output().context("starting valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}: {said}", output.status);
    let profile = fs::read_to_string(&out)?;
    let total = profile.lines().find_map(|line| line.strip_prefix("summary: "));
    let total = total.with_context(|| format!("{} has no summary", out.display()))?;
    let instructions = total.trim().parse().with_context(|| format!("summary: {total}"))?;
    ensure!(0 < instructions, "{name}: nothing was counted; does the program have its symbols?");
    let said = String::from_utf8_lossy(&output.stdout);
    let (units, machine) =
        said.trim().split_once(' ').with_context(|| format!("{name}: {said}"))?;
    Ok(Counted { machine: machine.to_owned(), units: units.parse()?, instructions })
}

/// Where callgrind's profiles go.
pub(crate) fn folder() -> anyhow::Result<PathBuf> {
    Ok(env::current_exe()?.with_file_name("callgrind"))
}

/// Runs `work`, the instructions of which are counted.
pub(crate) fn counted<T>(work: impl FnOnce() -> T) -> T {
    let mut work = Some(work);
    let mut result = None;
    counted_region(&mut || result = work.take().map(|work| work()));
    result.expect("the region runs what it is given")
}

/// Callgrind finds it by its name, so there is one of it, and it is a call.
#[inline(never)]
fn counted_region(work: &mut dyn FnMut()) {
    work();
    // So that the call above is not a jump.
    black_box(());
}

/// What decides which instructions there are for one purpose: checksums and copies take the widest
/// that the processor has, or that valgrind says it has.
fn machine() -> String {
    let mut words = vec![env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2").then_some("avx2");
        let pclmulqdq = is_x86_feature_detected!("pclmulqdq").then_some("pclmulqdq");
        words.extend(avx2.into_iter().chain(pclmulqdq));
    }
    words.join(" ")
}

/// With what it is counted: others make other instructions.
pub(crate) fn tools() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let commands = [
        (rustc, "--version"),
        ("getconf".into(), "GNU_LIBC_VERSION"),
        ("valgrind".into(), "--version"),
    ];
    let said = commands.map(|(program, argument)| {
        let output = Command::new(&program).arg(argument).output();
        let output = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        output.unwrap_or_else(|_| format!("{} unknown", program.display()))
    });
    said.join(", ")
}
