//! One segment file: its header and those of its batches, or its records. A line each; as JSON an object
//! a line, records as `consume --format json` writes them.

use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};
use taffrail_client::{Batch, Offset, PartitionIndex, TopicName};
use taffrail_log::SegmentHeader;
use taffrail_log::verify::{Dumped, dump};
use taffrail_log::vfs::Disk;

use crate::context::Context;
use crate::output::Format;
use crate::render::{Placed, Renderer};

/// How a record stands in a line.
const RECORD: &str = "{offset} {timestamp} {key} {value} {headers}\\n";

/// Prints the header of the segment at `path` and those of its batches.
pub(super) fn headers(path: &Path, context: &Context) -> anyhow::Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let format = context.output.format;
    let segment = dump(&Disk, path)?;
    writeln!(out, "{}", line(format, "segment", segment_fields(&segment.header)))?;
    let mut damaged = 0;
    for dumped in segment {
        let dumped = dumped.with_context(|| format!("cannot read {}", path.display()))?;
        let line = match dumped {
            Dumped::Batch { position, batch } => {
                line(format, "batch", batch_fields(position, &batch))
            }
            Dumped::Damaged { .. } => {
                damaged += 1;
                line(format, "damaged", damage_fields(&dumped))
            }
        };
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    super::judge(damaged)
}

/// Prints the records of the segment at `path`.
pub(super) fn records(path: &Path, context: &Context) -> anyhow::Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let format = context.output.format;
    let renderer = match format {
        Format::Text => RECORD.parse()?,
        Format::Json => Renderer::Json,
    };
    let segment = dump(&Disk, path)?;
    let (topic, partition) = place(&segment.header)?;
    let mut lines = Vec::new();
    let mut damaged = 0;
    for dumped in segment {
        let dumped = dumped.with_context(|| format!("cannot read {}", path.display()))?;
        match &dumped {
            Dumped::Batch { batch, .. } => {
                lines.clear();
                let batch = batch.open()?;
                for record in batch.records() {
                    let record = record.context("a record cannot be decoded")?;
                    renderer.render(Placed { topic: &topic, partition, record }, &mut lines);
                }
                out.write_all(&lines)?;
            }
            Dumped::Damaged { .. } => {
                damaged += 1;
                writeln!(out, "{}", line(format, "damaged", damage_fields(&dumped)))?;
            }
        }
    }
    out.flush()?;
    super::judge(damaged)
}

/// The topic and partition that the segment's label names.
fn place(header: &SegmentHeader) -> anyhow::Result<(TopicName, PartitionIndex)> {
    let label = &header.label;
    let place = || {
        let (topic, partition) = label.rsplit_once('/')?;
        let partition = PartitionIndex::new(partition.parse().ok()?);
        Some((TopicName::parse(topic).ok()?, partition))
    };
    place().with_context(|| format!("the segment's label {label:?} names no topic and partition"))
}

/// Fields of one thing, on a line.
fn line(format: Format, kind: &str, fields: Value) -> String {
    match (format, fields) {
        (Format::Json, mut fields) => {
            fields["kind"] = kind.into();
            fields.to_string()
        }
        (Format::Text, Value::Object(fields)) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            let fields: Vec<_> = fields.map(|(name, value)| format!("{name}={value}")).collect();
            format!("{kind} {}", fields.join(" "))
        }
        (Format::Text, other) => format!("{kind} {other}"),
    }
}

fn segment_fields(header: &SegmentHeader) -> Value {
    json!({
        "log": header.log_id.to_string(),
        "label": header.label,
        "base_offset": header.base_offset.get(),
        "previous_end": header.previous_end.get(),
        "gap": header.gap_reason.map(|reason| format!("{reason:?}")),
        "compacted_end": header.compacted.map(|compacted| compacted.end.get()),
        "created": header.created.as_millis(),
        "salt": header.salt.get(),
    })
}

fn batch_fields(position: u64, batch: &Batch) -> Value {
    let header = &batch.header;
    let producer = header.producer.as_ref();
    json!({
        "position": position,
        "bytes": header.total_bytes(),
        "base_offset": header.base_offset.get(),
        "records": header.record_count(),
        "leader_epoch": header.leader_epoch.get(),
        "append_time": header.append_time.as_millis(),
        "max_timestamp": header.max_timestamp.as_millis(),
        "synced_end": header.synced_end.get(),
        "producer_id": producer.map(|producer| producer.id.get()),
        "producer_epoch": producer.map(|producer| producer.epoch.get()),
        "base_sequence": producer.map(|producer| producer.sequence.get()),
        "records_crc": header.records_crc,
    })
}

fn damage_fields(dumped: &Dumped) -> Value {
    let Dumped::Damaged { position, end_position, from, to, cause } = dumped else {
        return Value::Null;
    };
    json!({
        "damaged": cause,
        "position": position,
        "end_position": end_position,
        "from": from.get(),
        "to": to.map(Offset::get),
    })
}
