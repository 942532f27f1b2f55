//! What an index, a checkpoint of producers, or a copy of the recovery points holds.

use serde_json::{Value, json};
use taffrail_log::verify::{CheckpointContents, Contents, IndexContents, PointsContents};

use super::json::point;
use crate::context::Context;
use crate::figures;
use crate::output::table;

pub(super) fn run(contents: &Contents, context: &Context) -> anyhow::Result<()> {
    let (text, json): (String, Value) = match contents {
        Contents::Index(index) => (index_text(index), index_json(index)),
        Contents::Checkpoint(checkpoint) => {
            (checkpoint_text(checkpoint), checkpoint_json(checkpoint))
        }
        Contents::Points(points) => (points_text(points), points_json(points)),
    };
    Ok(context.output.result(|| text, || json)?)
}

fn index_text(index: &IndexContents) -> String {
    let row = |(offset, position, before): &(_, u64, taffrail_client::Timestamp)| {
        vec![format!("{offset}"), position.to_string(), before.as_millis().to_string()]
    };
    let rows = index.entries.iter().map(row).collect();
    let header = ["OFFSET", "POSITION", "LATEST BEFORE"];
    format!(
        "index of a segment of {} bytes, offsets {} to {}, salt {:#010x}, latest timestamp {}\n\n{}",
        index.segment_bytes,
        index.base_offset,
        index.end_offset,
        index.salt,
        index.max_timestamp.as_millis(),
        table(&header, &[0, 1, 2], rows),
    )
}

fn index_json(index: &IndexContents) -> Value {
    let entry = |(offset, position, before): &(
        taffrail_client::Offset,
        u64,
        taffrail_client::Timestamp,
    )| {
        json!({
            "offset": offset.get(),
            "position": position,
            "max_timestamp_before": before.as_millis(),
        })
    };
    json!({
        "kind": "index",
        "salt": index.salt,
        "segment_bytes": index.segment_bytes,
        "base_offset": index.base_offset.get(),
        "end_offset": index.end_offset.get(),
        "max_timestamp": index.max_timestamp.as_millis(),
        "entries": index.entries.iter().map(entry).collect::<Vec<_>>(),
    })
}

fn checkpoint_text(checkpoint: &CheckpointContents) -> String {
    let rows = checkpoint.producers.iter().map(|producer| {
        let last = producer.batches.last();
        let next = last.map(|(sequence, records, _)| sequence.advance(*records));
        vec![
            producer.id.to_string(),
            producer.epoch.to_string(),
            next.map_or_else(String::new, |next| next.to_string()),
            producer.batches.len().to_string(),
            last.map_or_else(String::new, |(_, _, offset)| offset.to_string()),
            producer.last_append.as_millis().to_string(),
        ]
    });
    let header = ["PRODUCER", "EPOCH", "NEXT SEQUENCE", "BATCHES", "LAST OFFSET", "LAST APPEND"];
    format!(
        "producers of log {} below offset {}; ids below {} that are not listed may have been forgotten\n\n{}",
        checkpoint.log,
        checkpoint.end,
        checkpoint.known_from,
        table(&header, &[0, 1, 2, 3, 4, 5], rows.collect()),
    )
}

fn checkpoint_json(checkpoint: &CheckpointContents) -> Value {
    let producers = checkpoint.producers.iter().map(|producer| {
        let batches = producer.batches.iter().map(|(sequence, records, offset)| {
            json!({ "sequence": sequence.get(), "records": records, "base_offset": offset.get() })
        });
        json!({
            "id": producer.id.get(),
            "epoch": producer.epoch.get(),
            "last_append": producer.last_append.as_millis(),
            "batches": batches.collect::<Vec<_>>(),
        })
    });
    json!({
        "kind": "producers",
        "log": checkpoint.log.to_string(),
        "end": checkpoint.end.get(),
        "known_from": checkpoint.known_from.get(),
        "producers": producers.collect::<Vec<_>>(),
    })
}

fn points_text(points: &PointsContents) -> String {
    let rows = points.entries.iter().map(|(log, point)| {
        vec![
            log.to_string(),
            point.log_start.to_string(),
            point.first_segment.to_string(),
            point.recovery_point.to_string(),
            point.reserved_end.to_string(),
            point.leader_epoch.to_string(),
            if point.is_clean { "clean" } else { "open" }.to_owned(),
            if point.may_have_lost { "may have lost something" } else { "" }.to_owned(),
        ]
    });
    let header =
        ["LOG", "START", "FIRST SEGMENT", "RECOVERY POINT", "RESERVED END", "EPOCH", "CLOSED", ""];
    format!(
        "recovery points, generation {}, boot {}, last seen {}\n\n{}",
        points.generation,
        boot_id(points),
        figures::moment(points.last_seen.as_millis()),
        table(&header, &[1, 2, 3, 4, 5], rows.collect()),
    )
}

fn points_json(points: &PointsContents) -> Value {
    let entries = points.entries.iter().map(|(log, known)| {
        let mut entry = json!({ "log": log.to_string() });
        if let (Some(entry), Value::Object(known)) = (entry.as_object_mut(), point(known)) {
            entry.extend(known);
        }
        entry
    });
    json!({
        "kind": "recovery_points",
        "generation": points.generation,
        "boot_id": boot_id(points),
        "last_seen": figures::moment(points.last_seen.as_millis()),
        "entries": entries.collect::<Vec<_>>(),
    })
}

fn boot_id(points: &PointsContents) -> String {
    format!("{:032x}", u128::from_be_bytes(points.boot_id))
}
