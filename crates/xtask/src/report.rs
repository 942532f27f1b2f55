//! Runs one step after another, and says at the end what became of each.
//!
//! A step that fails does not keep the next ones from running, so that one run tells all.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::process::{Ending, run};

/// What became of the steps so far.
#[derive(Default)]
pub(crate) struct Report {
    steps: Vec<Step>,
}

struct Step {
    name: String,
    outcome: Outcome,
}

enum Outcome {
    Passed(String),
    Failed(String),
    Skipped(String),
}

impl Report {
    /// Runs `command`, which fails if it takes longer than `budget`. Returns whether it passed.
    pub(crate) fn run(&mut self, name: &str, budget: Duration, command: &mut Command) -> bool {
        println!("\n==> {name} (budget {} s)", budget.as_secs());
        let start = Instant::now();
        let ending = run(command, budget);
        let took = format!("{:.1} s of {} s", start.elapsed().as_secs_f32(), budget.as_secs());
        match ending {
            Ok(Ending::Success) => self.add(name, Outcome::Passed(took)),
            Ok(Ending::Failure(status)) => {
                self.add(name, Outcome::Failed(format!("{status}, after {took}")))
            }
            Ok(Ending::OutOfTime) => {
                self.add(name, Outcome::Failed(format!("exceeded its budget: {took}")))
            }
            Err(error) => self.add(name, Outcome::Failed(format!("{error:#}"))),
        }
    }

    /// Notes a step that is a function of our own. Returns whether it passed.
    pub(crate) fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) -> bool {
        println!("\n==> {name}");
        let start = Instant::now();
        match check() {
            Ok(()) => {
                let took = format!("{:.1} s", start.elapsed().as_secs_f32());
                self.add(name, Outcome::Passed(took))
            }
            Err(error) => self.add(name, Outcome::Failed(format!("{error:#}"))),
        }
    }

    /// Notes what was not run, and why.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        println!("\n==> {name}");
        self.add(name, Outcome::Skipped(why.to_owned()));
    }

    /// Notes what failed before it could run.
    pub(crate) fn fail(&mut self, name: &str, why: &str) {
        println!("\n==> {name}");
        self.add(name, Outcome::Failed(why.to_owned()));
    }

    fn add(&mut self, name: &str, outcome: Outcome) -> bool {
        let step = Step { name: name.to_owned(), outcome };
        println!("{}", step.line());
        let passed = matches!(step.outcome, Outcome::Passed(_));
        self.steps.push(step);
        passed
    }

    /// Prints the summary. The exit code says whether a step failed.
    pub(crate) fn finish(self) -> ExitCode {
        if self.steps.is_empty() {
            return ExitCode::SUCCESS;
        }
        println!("\n==> summary");
        let [mut passed, mut failed, mut skipped] = [0_u32; 3];
        for step in &self.steps {
            println!("{}", step.line());
            match step.outcome {
                Outcome::Passed(_) => passed += 1,
                Outcome::Failed(_) => failed += 1,
                Outcome::Skipped(_) => skipped += 1,
            }
        }
        println!("steps: {passed} passed, {failed} failed, {skipped} skipped");
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl Step {
    fn line(&self) -> String {
        let (word, detail) = match &self.outcome {
            Outcome::Passed(detail) => ("ok", detail),
            Outcome::Failed(detail) => ("FAILED", detail),
            Outcome::Skipped(detail) => ("SKIPPED", detail),
        };
        format!("{word:<8} {:<28} {detail}", self.name)
    }
}
