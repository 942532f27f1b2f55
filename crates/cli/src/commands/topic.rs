//! `taffrail topic`: create, list, describe, alter, reopen, delete, and what is in it.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use serde_json::{Value, json};
use taffrail_client::proto::{OffsetRange, Partition, PartitionStatus, Setting, Topic};
use taffrail_client::{Offset, PartitionIndex, TopicName};

use crate::context::Context;
use crate::figures;
use crate::output::table;

/// What to do with topics.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a topic
    Create {
        /// Its name
        #[arg(value_parser = TopicName::parse)]
        name: TopicName,
        /// Number of partitions
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        partitions: u32,
        /// A setting that differs from its default
        #[arg(long, value_name = "K=V", value_parser = key_value)]
        set: Vec<(String, String)>,
    },
    /// List the topics
    List {
        /// The broker's own too
        #[arg(long)]
        internal: bool,
    },
    /// Describe a topic, its settings and its partitions
    Describe {
        /// Its name
        #[arg(value_parser = TopicName::parse)]
        name: TopicName,
    },
    /// Change settings of a topic
    Alter {
        /// Its name
        #[arg(value_parser = TopicName::parse)]
        name: TopicName,
        /// A setting; without a value it goes back to its default
        #[arg(long, required = true, value_name = "K=V", value_parser = key_value)]
        set: Vec<(String, String)>,
    },
    /// Add partitions to a topic; keys then map to other partitions, records stay
    AddPartitions {
        /// Its name
        #[arg(value_parser = TopicName::parse)]
        name: TopicName,
        /// How many there should be then
        #[arg(long, value_name = "N")]
        to: u32,
    },
    /// Open a partition anew that is read-only or offline, as a restart of the broker would
    Reopen {
        /// The topic's name
        #[arg(value_parser = TopicName::parse)]
        name: TopicName,
        /// The partition's number
        #[arg(long, value_name = "P")]
        partition: u32,
    },
    /// Delete the oldest records of a partition, for good
    DeleteRecords {
        /// The topic's name
        #[arg(value_parser = TopicName::parse)]
        name: TopicName,
        /// The partition's number
        #[arg(long, value_name = "P")]
        partition: u32,
        /// The offset of the first record that stays, or `latest` to delete all that there are
        #[arg(long, value_name = "OFFSET", value_parser = before)]
        before: Before,
    },
    /// Delete a topic and its records, for good
    Delete {
        /// Its name
        #[arg(value_parser = TopicName::parse)]
        name: TopicName,
    },
}

/// The first record that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// The one with this offset.
    Offset(Offset),
    /// The next one that is appended.
    Latest,
}

/// Reads an offset, or `latest`.
fn before(text: &str) -> Result<Before, String> {
    match text {
        "latest" => Ok(Before::Latest),
        _ => text
            .parse()
            .map(|offset| Before::Offset(Offset::new(offset)))
            .map_err(|_| format!("{text:?} is neither an offset nor `latest`")),
    }
}

/// Reads `K=V`.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not of the form K=V")),
    }
}

pub(crate) async fn run(command: Command, context: &Context) -> anyhow::Result<()> {
    let output = context.output;
    let admin = context.client()?.admin();
    match command {
        Command::Create { name, partitions, set } => {
            let topic = admin.create_topic(name.as_str(), partitions, settings(set)).await;
            let topic = topic.with_context(|| format!("cannot create the topic {name}"))?;
            let text = || format!("created {} with {}", topic.name, partition_count(&topic));
            output.result(text, || topic_json(&topic))?;
        }
        Command::List { internal } => {
            let topics = admin.list_topics(internal).await.context("cannot list the topics")?;
            if topics.is_empty() {
                output.note("there are no topics; `taffrail topic create NAME` makes one");
            }
            let json = || topics.iter().map(topic_json).collect();
            output.result(|| list_text(&topics), json)?;
        }
        Command::Describe { name } => {
            let described = admin.describe_topic(name.as_str()).await;
            let (topic, partitions) =
                described.with_context(|| format!("cannot describe the topic {name}"))?;
            let json = || {
                let mut json = topic_json(&topic);
                json["partition_list"] = partitions.iter().map(partition_json).collect();
                json
            };
            output.result(|| describe_text(&topic, &partitions), json)?;
        }
        Command::Alter { name, set } => {
            let topic = admin.alter_topic(name.as_str(), settings(set)).await;
            let topic = topic.with_context(|| format!("cannot alter the topic {name}"))?;
            let text = || format!("altered {}\n\n{}", topic.name, settings_text(&topic.settings));
            output.result(text, || topic_json(&topic))?;
        }
        Command::AddPartitions { name, to } => {
            let topic = admin.add_partitions(name.as_str(), to).await;
            let topic = topic.with_context(|| format!("cannot add partitions to {name}"))?;
            let text = || format!("{} has {}", topic.name, partition_count(&topic));
            output.result(text, || topic_json(&topic))?;
        }
        Command::Reopen { name, partition } => {
            let index = PartitionIndex::new(partition);
            let reopened = admin.reopen_partition(name.as_str(), index).await;
            let reopened =
                reopened.with_context(|| format!("cannot open {name}/{partition} anew"))?;
            let text = || {
                let problem = problems(&reopened);
                let separator = if problem.is_empty() { "" } else { ": " };
                format!("{name}/{partition} is {}{separator}{problem}", status(&reopened))
            };
            output.result(text, || partition_json(&reopened))?;
            let is_open =
                matches!(reopened.status(), PartitionStatus::Online | PartitionStatus::Recovering);
            ensure!(
                is_open,
                "{name}/{partition} is not online: see what its problem says, then retry"
            );
        }
        Command::DeleteRecords { name, partition, before } => {
            let before = match before {
                Before::Offset(offset) => Some(offset),
                Before::Latest => None,
            };
            let index = PartitionIndex::new(partition);
            let deleted = admin.delete_records(name.as_str(), index, before).await;
            let deleted =
                deleted.with_context(|| format!("cannot delete records of {name}/{partition}"))?;
            let text = || {
                let Partition { log_start, high_watermark, .. } = deleted;
                format!("{name}/{partition} has offsets {log_start} to {high_watermark} now")
            };
            output.result(text, || partition_json(&deleted))?;
        }
        Command::Delete { name } => {
            let deleted = admin.delete_topic(name.as_str()).await;
            deleted.with_context(|| format!("cannot delete the topic {name}"))?;
            output.result(|| format!("deleted {name}"), || json!({ "deleted": name.as_str() }))?;
        }
    }
    Ok(())
}

fn settings(set: Vec<(String, String)>) -> BTreeMap<String, String> {
    set.into_iter().collect()
}

fn partition_count(topic: &Topic) -> String {
    match topic.partitions {
        1 => "1 partition".to_owned(),
        count => format!("{} partitions", figures::count(count.into())),
    }
}

fn list_text(topics: &[Topic]) -> String {
    let row = |topic: &Topic| {
        let own: Vec<String> = topic
            .settings
            .iter()
            .filter(|setting| !setting.is_default)
            .map(|setting| format!("{}={}", setting.name, setting.value))
            .collect();
        let partitions = figures::count(topic.partitions.into());
        vec![topic.name.clone(), partitions, figures::moment(topic.created_ms), own.join(" ")]
    };
    if topics.is_empty() {
        return String::new();
    }
    let header = ["TOPIC", "PARTITIONS", "CREATED", "SETTINGS"];
    table(&header, &[1], topics.iter().map(row).collect())
}

fn describe_text(topic: &Topic, partitions: &[Partition]) -> String {
    let row = |partition: &Partition| {
        let held = partition.high_watermark.saturating_sub(partition.log_start);
        vec![
            partition.partition.to_string(),
            status(partition).to_owned(),
            figures::count(partition.log_start),
            figures::count(partition.high_watermark),
            figures::count(held),
            figures::bytes(partition.size_bytes as f64),
            partition.segments.to_string(),
            problems(partition),
        ]
    };
    let header = ["PARTITION", "STATUS", "START", "END", "RECORDS", "SIZE", "SEGMENTS", "PROBLEM"];
    let partitions = table(&header, &[2, 3, 4, 5, 6], partitions.iter().map(row).collect());
    format!(
        "{}  id {}  created {}\n\n{}\n\n{partitions}",
        topic.name,
        topic.id,
        figures::moment(topic.created_ms),
        settings_text(&topic.settings),
    )
}

/// What is the matter with a partition, if anything is.
fn problems(partition: &Partition) -> String {
    let damaged = partition.damaged.iter().map(|range| {
        let OffsetRange { from, to } = range;
        format!("offsets {from} to {to} are damaged")
    });
    let error = partition.error.iter().map(|error| error.message.clone());
    error.chain(damaged).collect::<Vec<_>>().join("; ")
}

fn settings_text(settings: &[Setting]) -> String {
    let row = |setting: &Setting| {
        let note = if setting.is_default { "default" } else { "" };
        vec![setting.name.clone(), setting.value.clone(), note.to_owned()]
    };
    table(&["SETTING", "VALUE", ""], &[], settings.iter().map(row).collect())
}

fn status(partition: &Partition) -> &'static str {
    match partition.status() {
        PartitionStatus::Unspecified => "unknown",
        PartitionStatus::Online => "online",
        PartitionStatus::Recovering => "recovering",
        PartitionStatus::ReadOnly => "read-only",
        PartitionStatus::Offline => "offline",
    }
}

fn topic_json(topic: &Topic) -> Value {
    let setting = |setting: &Setting| {
        let value = json!({ "value": setting.value, "is_default": setting.is_default });
        (setting.name.clone(), value)
    };
    json!({
        "name": topic.name,
        "id": topic.id,
        "partitions": topic.partitions,
        "created": figures::moment(topic.created_ms),
        "settings": topic.settings.iter().map(setting).collect::<serde_json::Map<_, _>>(),
    })
}

fn partition_json(partition: &Partition) -> Value {
    let error = partition.error.as_ref();
    json!({
        "partition": partition.partition,
        "status": status(partition),
        "log_start": partition.log_start,
        "high_watermark": partition.high_watermark,
        "log_end": partition.log_end,
        "size_bytes": partition.size_bytes,
        "segments": partition.segments,
        "leader_epoch": partition.leader_epoch,
        "damaged": partition.damaged.iter().map(range_json).collect::<Vec<_>>(),
        "error": error.map(|error| json!({ "reason": error.reason, "message": error.message })),
    })
}

fn range_json(range: &OffsetRange) -> Value {
    json!({ "from": range.from, "to": range.to })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_split_at_the_first_equals_sign() {
        let pair = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
        assert_eq!(key_value("a=b=c"), pair("a", "b=c"));
        assert_eq!(key_value("a="), pair("a", ""));
        assert!(key_value("a").is_err() && key_value("=b").is_err());
    }
}
