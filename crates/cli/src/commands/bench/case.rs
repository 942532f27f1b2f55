//! One case: a workload with all its options, and what one run of it gave.

use serde_json::Value;
use taffrail_client::ProduceError;

use super::figure::Figure;
use super::harness::Harness;
use super::workloads::{churn, commit, consume, crowd, load, produce, queue, replay, start_up};

/// A workload, by name.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) work: Work,
}

/// What is done.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Produce(load::Load),
    Consume(consume::Options),
    Replay(replay::Options),
    StartUp(start_up::Options),
    Churn(churn::Options),
    Commit(commit::Options),
    Crowd(crowd::Options),
    Queue(queue::Options),
}

/// What one run gave.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) figures: Vec<Figure>,
    /// Why the first record failed, if one did.
    pub(super) failure: Option<ProduceError>,
}

impl From<Vec<Figure>> for Outcome {
    fn from(figures: Vec<Figure>) -> Self {
        Self { figures, failure: None }
    }
}

impl Case {
    /// One that is called like its workload.
    pub(super) fn of(work: Work) -> Self {
        Self { name: work.name().to_owned(), work }
    }
}

impl Work {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Produce(_) => "produce",
            Self::Consume(_) => "consume",
            Self::Replay(_) => "replay",
            Self::StartUp(_) => "start-up",
            Self::Churn(_) => "churn",
            Self::Commit(_) => "commit",
            Self::Crowd(_) => "crowd",
            Self::Queue(_) => "queue",
        }
    }

    /// Whether it takes a broker that may be stopped, or whose files may be touched.
    pub(super) const fn needs_own_broker(&self) -> bool {
        match self {
            Self::StartUp(_) => true,
            Self::Consume(options) => options.cold,
            Self::Produce(_)
            | Self::Replay(_)
            | Self::Churn(_)
            | Self::Commit(_)
            | Self::Crowd(_)
            | Self::Queue(_) => false,
        }
    }

    pub(super) fn options(&self) -> Value {
        match self {
            Self::Produce(options) => options.json(),
            Self::Consume(options) => options.json(),
            Self::Replay(options) => options.json(),
            Self::StartUp(options) => options.json(),
            Self::Churn(options) => options.json(),
            Self::Commit(options) => options.json(),
            Self::Crowd(options) => options.json(),
            Self::Queue(options) => options.json(),
        }
    }

    /// Runs it once.
    pub(super) async fn run(&self, harness: &Harness) -> anyhow::Result<Outcome> {
        match self {
            Self::Produce(options) => produce::measure(options, harness).await,
            Self::Consume(options) => consume::measure(options, harness).await.map(Outcome::from),
            Self::Replay(options) => replay::measure(options, harness).await.map(Outcome::from),
            Self::StartUp(options) => start_up::measure(options, harness).await.map(Outcome::from),
            Self::Churn(options) => churn::measure(options, harness).await.map(Outcome::from),
            Self::Commit(options) => commit::measure(options, harness).await.map(Outcome::from),
            Self::Crowd(options) => crowd::measure(options, harness).await.map(Outcome::from),
            Self::Queue(options) => queue::measure(options, harness).await.map(Outcome::from),
        }
    }
}
