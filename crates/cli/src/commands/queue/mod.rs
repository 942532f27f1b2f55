//! `taffrail queue`: create, alter, list, describe, delete, receive, and what is parked.

mod describe;
mod parked;
mod receive;
mod settings;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};
use taffrail_client::TopicName;
use taffrail_client::proto::{CreateQueueRequest, QueueSummary};

use crate::context::Context;
use crate::output::table;
use crate::place;
use settings::Settings;

/// What to do with work queues.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a queue on a topic
    Create {
        /// Its name
        queue: String,
        /// The topic whose records it hands out
        #[arg(long, value_name = "TOPIC", value_parser = TopicName::parse)]
        topic: TopicName,
        /// Where it begins: earliest, latest, an offset, -N for the last N, a time such as 2018-02-05T00:00Z
        /// or "10m ago"
        #[arg(long, value_name = "POS", allow_hyphen_values = true, default_value = "earliest")]
        from: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Change how a queue works; what is leased or delayed stays so
    Alter {
        /// Its name
        queue: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// List the queues
    List,
    /// Describe a queue: what its records are in, and why nothing is handed out
    Describe {
        /// Its name
        queue: String,
    },
    /// Delete a queue and what is parked in it; the topic stays as it is
    Delete {
        /// Its name
        queue: String,
    },
    /// Work on a queue: print each record, or run a command for it
    Receive(receive::Arguments),
    /// List the records that are not tried any more
    Parked(parked::List),
    /// Let parked records be tried again
    Redrive(parked::Act),
    /// Forget parked records
    Discard(parked::Act),
}

pub(crate) async fn run(command: Command, context: &Context) -> anyhow::Result<()> {
    let output = context.output;
    let queues = context.client()?.queues();
    match command {
        Command::Create { queue, topic, from, settings } => {
            let from = Some(place::parse(&from)?.into());
            let (topic, settings) = (topic.to_string(), Some(settings.message()));
            let request = CreateQueueRequest { queue: queue.clone(), topic, settings, from };
            let created = queues.create(request).await;
            created.with_context(|| format!("cannot create {queue}"))?;
            output.result(|| format!("created {queue}"), || json!({ "created": queue }))?;
        }
        Command::Alter { queue, settings } => {
            let altered = queues.alter(&queue, settings.message()).await;
            altered.with_context(|| format!("cannot alter {queue}"))?;
            output.result(|| format!("altered {queue}"), || json!({ "altered": queue }))?;
        }
        Command::List => {
            let listed = queues.list().await.context("cannot list the queues")?;
            if listed.is_empty() {
                output.note(
                    "there are no queues; `taffrail queue create QUEUE --topic TOPIC` makes one",
                );
            }
            output.result(|| list_text(&listed), || listed.iter().map(summary_json).collect())?;
        }
        Command::Describe { queue } => {
            let described = queues.describe(&queue).await;
            let described = described.with_context(|| format!("cannot describe {queue}"))?;
            output.result(|| describe::text(&described), || describe::json(&described))?;
        }
        Command::Delete { queue } => {
            let deleted = queues.delete(&queue).await;
            deleted.with_context(|| format!("cannot delete {queue}"))?;
            output.result(|| format!("deleted {queue}"), || json!({ "deleted": queue }))?;
        }
        Command::Receive(arguments) => receive::run(arguments, context).await?,
        Command::Parked(arguments) => parked::list(arguments, &queues, output).await?,
        Command::Redrive(arguments) => parked::redrive(arguments, &queues, output).await?,
        Command::Discard(arguments) => parked::discard(arguments, &queues, output).await?,
    }
    Ok(())
}

fn list_text(queues: &[QueueSummary]) -> String {
    let rows =
        queues.iter().map(|it| vec![it.queue.clone(), it.topic.clone(), it.parked.to_string()]);
    table(&["QUEUE", "TOPIC", "PARKED"], &[2], rows.collect())
}

fn summary_json(queue: &QueueSummary) -> Value {
    json!({ "queue": queue.queue, "topic": queue.topic, "created_ms": queue.created_ms, "parked": queue.parked })
}
