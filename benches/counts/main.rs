//! Counts the instructions of what every record passes through, and compares them with what is
//! committed: `cargo xtask counts`.
//!
//! A clock on a shared machine says little; the number of instructions is the same in every run, to
//! a few in a thousand. Each case is a process of its own under valgrind's callgrind, which counts one
//! function of it. What the kernel does and what waiting costs is not in it: `w1` measures that.

mod baseline;
mod callgrind;
mod cases;
mod given;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use baseline::{Baseline, Verdict, thousands};
use callgrind::{Counted, count};
use cases::{CASES, Case};

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [] => compare(),
        ["--accept"] => accept(),
        [callgrind::RUN, name] => {
            let case = CASES.iter().find(|case| case.name == *name);
            callgrind::run(case.with_context(|| format!("there is no case {name}"))?)?;
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("counts [--accept]"),
    }
}

/// Compares each case with the baseline. Fails if one of them needs clearly more than it says.
fn compare() -> anyhow::Result<ExitCode> {
    let baseline = Baseline::load()?;
    let tools = callgrind::tools();
    let (mut failures, mut cheaper) = (Vec::new(), Vec::new());
    for case in CASES {
        let counted = count(case.name)?;
        if counted.machine != baseline.machine {
            skip(&format!("the baseline is of {}, this is {}", baseline.machine, counted.machine))?;
            return Ok(ExitCode::SUCCESS);
        }
        let verdict = baseline.judge(case.name, counted.instructions);
        print_line(&case, &counted, &verdict.to_string());
        match verdict {
            Verdict::Same(_) => {}
            Verdict::Fewer(_) => cheaper.push(case.name),
            Verdict::More(_) | Verdict::Unknown => {
                failures.push(format!("{}: {verdict}", case.name));
            }
        }
    }
    if !cheaper.is_empty() {
        println!("\n{} got cheaper: `cargo xtask counts --accept` keeps it so", cheaper.join(", "));
    }
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("\n{}", failures.join("\n"));
    println!(
        "Where the instructions go: `callgrind_annotate {}/CASE.out`. If they are meant to be spent:\n\
         `cargo xtask counts --accept`, in the commit that spends them.",
        callgrind::folder()?.display()
    );
    if tools != baseline.tools {
        println!("The baseline was counted with {}; this is {tools}.", baseline.tools);
    }
    Ok(ExitCode::FAILURE)
}

/// Makes what is counted now the baseline, and says what that changes.
fn accept() -> anyhow::Result<ExitCode> {
    let before = Baseline::load().unwrap_or_default();
    let mut baseline = Baseline { tools: callgrind::tools(), ..Baseline::default() };
    for case in CASES {
        let counted = count(case.name)?;
        print_line(&case, &counted, &before.judge(case.name, counted.instructions).to_string());
        baseline.cases.insert(case.name.to_owned(), counted.instructions);
        baseline.machine = counted.machine;
    }
    baseline.store()?;
    Ok(ExitCode::SUCCESS)
}

fn print_line(case: &Case, counted: &Counted, verdict: &str) {
    let (all, each) = (counted.instructions, counted.instructions / counted.units.max(1));
    let (all, each) = (thousands(all), thousands(each));
    println!("{:<18}{all:>12}{each:>12} a {:<8}{verdict}", case.name, case.unit);
}

/// Notes why nothing was compared, for whoever runs this among other steps.
fn skip(why: &str) -> anyhow::Result<()> {
    println!("SKIPPED: {why}");
    let Some(path) = std::env::var_os("TAFFRAIL_SKIPS") else { return Ok(()) };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    Ok(file.write_all(format!("instruction counts\t{why}\n").as_bytes())?)
}
