//! Prints records as a member of a consumer group: what was printed is done.

use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use taffrail_client::{Client, GroupConsumer, GroupEvent, TopicPartition};

use super::Arguments;
use super::printer::Printer;
use crate::context::Context;

/// How often it is seen whether all that there is was printed.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

pub(super) async fn run(
    arguments: &Arguments,
    group: &str,
    client: &Client,
    context: &Context,
) -> anyhow::Result<()> {
    let mut builder = client
        .group(group)
        .topic(&arguments.topic)
        .from(arguments.from)
        .session_timeout(arguments.session_timeout)
        .client_id("taffrail-consume");
    if let Some(instance) = &arguments.instance {
        builder = builder.instance(instance);
    }
    let joined = builder.build().await;
    let mut consumer =
        joined.with_context(|| format!("cannot read {} as group {group}", arguments.topic))?;
    let printer = Printer::new(arguments.format.clone(), arguments.count, context.output);
    let ends_when_caught_up = arguments.no_follow && !arguments.follow;
    let printed = print(&mut consumer, printer, ends_when_caught_up, context).await;
    if printed.is_err() {
        // What may not have been printed comes again.
        consumer.abandon_batch();
    }
    let closed = consumer.close().await;
    printed.and(closed.context("cannot say how far it has come"))
}

async fn print(
    consumer: &mut GroupConsumer,
    mut printer: Printer,
    ends_when_caught_up: bool,
    context: &Context,
) -> anyhow::Result<()> {
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    while !printer.is_done() && interrupted.as_mut().now_or_never().is_none() {
        // Before more is asked for: whoever asks says that what it had is done.
        printer.flush()?;
        if ends_when_caught_up && consumer.is_caught_up() {
            break;
        }
        let event = tokio::select! {
            biased;
            _ = &mut interrupted => break,
            event = consumer.next_event() => event,
            _ = look.tick(), if ends_when_caught_up => continue,
        };
        match event {
            None => break,
            Some(Ok(GroupEvent::Batch(batch))) => {
                if let Some(next) = printer.batch(&batch)? {
                    printer.flush()?;
                    consumer.abandon_batch();
                    consumer.commit_offset(&TopicPartition::of(&batch), next, "").await?;
                }
            }
            Some(Ok(GroupEvent::Gap { place, from, to, reason })) => {
                printer.gap(&place, from, to, reason)?;
            }
            Some(Ok(GroupEvent::Assigned(places))) => say(context, "now reading", &places),
            Some(Ok(GroupEvent::Revoked(places))) => say(context, "giving on", &places),
            Some(Ok(GroupEvent::Lost(places))) => say(context, "lost", &places),
            Some(Err(error)) => return Err(error.into()),
        }
    }
    printer.flush()?;
    Ok(())
}

fn say(context: &Context, what: &str, places: &[TopicPartition]) {
    let places: Vec<_> = places.iter().map(ToString::to_string).collect();
    context.output.note(format_args!("{what} {}", places.join(", ")));
}
