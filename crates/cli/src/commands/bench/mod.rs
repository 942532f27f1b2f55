//! `taffrail bench`: measures a broker, as a user would see it: through the public client.
//!
//! ```text
//! arguments -> cases (standard) -> rounds -> workloads -> figures -> report
//! ```

mod broker;
mod case;
mod figure;
mod harness;
mod latencies;
mod report;
mod rounds;
mod standard;
mod values;
mod workloads;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use tokio::signal::unix::{SignalKind, signal};

use broker::Broker;
use case::{Case, Work};
use harness::Harness;
use report::{Before, Report};
use rounds::Rounds;

use crate::context::Context;
use crate::exit::Usage;
use workloads::{churn, commit, consume, crowd, load, queue, replay, start_up};

/// Runs of each standard case that count, and rounds before them.
const STANDARD_RUNS: u32 = 5;
const STANDARD_WARM_UP: u32 = 1;

/// What to measure, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    workload: Workload,
    /// Number of runs, of which median, minimum and maximum are told; default 1, of standard workloads 5
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// Number of runs before those, which do not count; default 0, of standard workloads 1
    #[arg(long, global = true, value_name = "N")]
    warm_up: Option<u32>,
    /// Compare with what an earlier run wrote with --output json
    #[arg(long, global = true, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Start a broker for this, with its data in a new directory in DIR, and remove both at the end;
    /// without it the one at --server is measured
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// What to measure.
#[derive(Debug, Subcommand)]
enum Workload {
    /// Run the standard workloads, all of them or those whose names begin so
    Standard(standard::Options),
    /// Append records as fast as the broker takes them, or at a rate
    Produce(load::Load),
    /// Read records from the beginning as fast as they come
    Consume(consume::Options),
    /// Append records at a rate, alone and then beside a replay, and see what the producer feels
    Replay(replay::Options),
    /// Stop and kill a broker with many partitions, and see how soon it is back
    StartUp(start_up::Options),
    /// Let members of a consumer group come and go under load, and see for how long partitions stand
    /// still
    Churn(churn::Options),
    /// Commit offsets of consumer groups as fast as the broker takes them
    Commit(commit::Options),
    /// Let many members join one consumer group
    Crowd(crowd::Options),
    /// Let workers share the records of a queue, some of which fail
    Queue(queue::Options),
}

pub(crate) async fn run(arguments: Arguments, context: &Context) -> anyhow::Result<()> {
    if let Workload::Standard(options) = &arguments.workload
        && options.is_list()
    {
        let names: Vec<_> = options.cases()?.into_iter().map(|case| case.name).collect();
        return Ok(context.output.result(|| names.join("\n"), || names.clone().into())?);
    }
    let before = arguments.compare.as_deref().map(Before::read).transpose()?;
    let is_standard = matches!(arguments.workload, Workload::Standard(_));
    let (runs, warm_up) = if is_standard { (STANDARD_RUNS, STANDARD_WARM_UP) } else { (1, 0) };
    let rounds = Rounds {
        warm_up: arguments.warm_up.unwrap_or(warm_up),
        runs: arguments.runs.unwrap_or(runs),
    };
    let mut cases = match arguments.workload {
        Workload::Standard(options) => options.cases()?,
        Workload::Produce(options) => vec![Case::of(Work::Produce(options))],
        Workload::Consume(options) => vec![Case::of(Work::Consume(options))],
        Workload::Replay(options) => vec![Case::of(Work::Replay(options))],
        Workload::StartUp(options) => vec![Case::of(Work::StartUp(options))],
        Workload::Churn(options) => vec![Case::of(Work::Churn(options))],
        Workload::Commit(options) => vec![Case::of(Work::Commit(options))],
        Workload::Crowd(options) => vec![Case::of(Work::Crowd(options))],
        Workload::Queue(options) => vec![Case::of(Work::Queue(options))],
    };
    if arguments.data.is_none() {
        leave_out_what_needs_its_own(&mut cases, is_standard, context)?;
    }
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let mut interrupted = listen(SignalKind::interrupt())?;
    let mut terminated = listen(SignalKind::terminate())?;
    let broker = match &arguments.data {
        Some(parent) => Broker::start(parent)?,
        None => Broker::find(&context.server).await,
    };
    if cfg!(debug_assertions) {
        context.output.note("this is a debug build: its figures say nothing");
    }
    let harness = Harness::new(broker, context.output);
    let mut report = Report::new(&cases, before);
    let measured = tokio::select! {
        measured = rounds.run(&cases, &harness, &mut report) => measured,
        _ = interrupted.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminated.recv() => Err(anyhow::anyhow!("terminated")),
    };
    harness.progress.finish_and_clear();
    // Those of a broker of its own go with it.
    if arguments.data.is_none() {
        tokio::select! {
            () = harness.clean() => {}
            _ = interrupted.recv() => context.output.note("interrupted: topics are left over"),
            _ = terminated.recv() => context.output.note("terminated: topics are left over"),
        }
    }
    let failure = measured?;
    context.output.result(|| report.text(), || report.json())?;
    match failure {
        Some(failure) => Err(anyhow::Error::from(failure).context("not all records were appended")),
        None => Ok(()),
    }
}

/// Without a broker of its own some cases cannot be: of the standard ones they are left out.
fn leave_out_what_needs_its_own(
    cases: &mut Vec<Case>,
    is_standard: bool,
    context: &Context,
) -> anyhow::Result<()> {
    let mut left_out = Vec::new();
    cases.retain(|case| {
        let stays = !case.work.needs_own_broker();
        if !stays {
            left_out.push(case.name.clone());
        }
        stays
    });
    if left_out.is_empty() {
        return Ok(());
    }
    let advice = "takes a broker of its own: name a directory for its data with --data";
    let left_out = left_out.join(", ");
    if !is_standard || cases.is_empty() {
        return Err(Usage(format!("{left_out} {advice}")).into());
    }
    context.output.note(format_args!("skipped {left_out}, which {advice}"));
    Ok(())
}
