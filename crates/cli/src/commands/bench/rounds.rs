//! Runs cases in turn, a round at a time, every second round backwards: a machine that is busy for a
//! while slows all of them.

use taffrail_client::ProduceError;

use super::case::{Case, Outcome};
use super::harness::Harness;
use super::report::Report;

/// How often everything is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounds {
    /// Rounds that do not count.
    pub(super) warm_up: u32,
    pub(super) runs: u32,
}

impl Rounds {
    /// Runs all cases so often, and reports those runs that count. Returns why the first record failed,
    /// if one did.
    pub(super) async fn run(
        self,
        cases: &[Case],
        harness: &Harness,
        report: &mut Report,
    ) -> anyhow::Result<Option<ProduceError>> {
        let mut first_failure = None;
        let is_long = cases.len() > 1 || self.warm_up.saturating_add(self.runs) > 1;
        for round in 0..self.warm_up.saturating_add(self.runs) {
            let mut order: Vec<_> = cases.iter().collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for case in order {
                let label = match round.checked_sub(self.warm_up) {
                    Some(run) => format!("{}, run {} of {}", case.name, run + 1, self.runs),
                    None => format!("{}, warming up", case.name),
                };
                if is_long && harness.progress.is_hidden() {
                    harness.output.note(&label);
                }
                harness.progress.reset();
                harness.progress.set_message(label);
                let Outcome { figures, failure } = case.work.run(harness).await?;
                if self.warm_up <= round {
                    report.add(case, figures)?;
                }
                first_failure = first_failure.or(failure);
            }
        }
        Ok(first_failure)
    }
}
