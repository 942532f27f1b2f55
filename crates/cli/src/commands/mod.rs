//! The commands, one file each.

mod backup;
mod bench;
mod completions;
mod consume;
mod demo;
mod group;
mod inspect;
mod produce;
mod queue;
mod remedy;
mod repair;
mod restore;
mod serve;
mod topic;

use std::future::Future;

use clap::Subcommand;

use crate::context::Context;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a broker
    Serve(serve::Arguments),
    /// Create, list, describe, alter and delete topics
    #[command(subcommand)]
    Topic(topic::Command),
    /// Append records to a topic, one per line of files or standard input
    Produce(produce::Arguments),
    /// Print the records of a topic, and then what comes
    Consume(consume::Arguments),
    /// List, describe, reset and delete consumer groups
    #[command(subcommand)]
    Group(group::Command),
    /// Create, describe and delete work queues, and work on them
    #[command(subcommand)]
    Queue(queue::Command),
    /// Back up a running broker
    Backup(backup::Arguments),
    /// Copy a backup to where it is to be served, without a broker
    Restore(restore::Arguments),
    /// Show it: stream events, kill the broker in the middle, lose nothing
    Demo(demo::Arguments),
    /// Verify what lies on disk, without a broker
    Inspect(inspect::Arguments),
    /// Repair what lies on disk, without a broker, as far as told
    Repair(repair::Arguments),
    /// Measure a broker
    Bench(bench::Arguments),
    /// Print a script that makes a shell complete commands
    Completions(completions::Arguments),
}

impl Command {
    /// Runs it; `program` describes the whole command line.
    pub(crate) fn run(
        self,
        context: &Context,
        program: fn() -> clap::Command,
    ) -> anyhow::Result<()> {
        match self {
            Self::Serve(arguments) => serve::run(arguments, context),
            // Its client loses its broker on purpose: there is nothing to warn of.
            Self::Demo(arguments) => block_on(demo::run(arguments, context)),
            Self::Topic(command) => client_block_on(context, topic::run(command, context)),
            Self::Group(command) => client_block_on(context, group::run(command, context)),
            Self::Queue(command) => client_block_on(context, queue::run(command, context)),
            Self::Backup(arguments) => client_block_on(context, backup::run(arguments, context)),
            Self::Produce(arguments) => client_block_on(context, produce::run(arguments, context)),
            Self::Consume(arguments) => {
                // A worker of its own answers the broker while this thread waits for a pipe.
                let mut runtime = tokio::runtime::Builder::new_multi_thread();
                context.log();
                let runtime = runtime.worker_threads(1).enable_all().build()?;
                runtime.block_on(consume::run(arguments, context))
            }
            Self::Inspect(arguments) => inspect::run(&arguments, context),
            Self::Repair(arguments) => repair::run(&arguments, context),
            Self::Restore(arguments) => restore::run(&arguments, context),
            Self::Bench(arguments) => client_block_on(context, bench::run(arguments, context)),
            Self::Completions(arguments) => completions::run(&arguments, program()),
        }
    }
}

/// Runs a command that is a client on this thread alone: quicker than handing over between threads.
fn client_block_on<F>(context: &Context, command: F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    context.log();
    block_on(command)
}

fn block_on<F>(command: F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}
