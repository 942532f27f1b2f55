//! The batches or records of one segment file, a JSON object a line; records as `consume --format
//! json` writes them.

use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;
use taffrail_client::{Batch, Offset, PartitionIndex, TopicName};
use taffrail_log::SegmentHeader;
use taffrail_log::verify::{Dumped, dump};
use taffrail_log::vfs::Disk;

use crate::render::{Placed, Renderer};

pub(super) fn run(path: &Path, with_records: bool) -> anyhow::Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let segment = dump(&Disk, path)?;
    let (topic, partition) = place(&segment.header)?;
    let mut lines = Vec::new();
    let mut damaged = 0;
    for dumped in segment {
        match dumped.with_context(|| format!("cannot read {}", path.display()))? {
            Dumped::Batch { batch, .. } if with_records => {
                lines.clear();
                for record in batch.records() {
                    let record = record.context("a record cannot be decoded")?;
                    Renderer::Json.render(Placed { topic: &topic, partition, record }, &mut lines);
                }
                out.write_all(&lines)?;
            }
            Dumped::Batch { position, batch } => writeln!(out, "{}", describe(position, &batch))?,
            Dumped::Damaged { position, end_position, from, to, cause } => {
                let (from, to) = (from.get(), to.map(Offset::get));
                let line = json!({
                    "damaged": cause,
                    "position": position,
                    "end_position": end_position,
                    "from": from,
                    "to": to,
                });
                writeln!(out, "{line}")?;
                damaged += 1;
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

fn describe(position: u64, batch: &Batch) -> serde_json::Value {
    let header = &batch.header;
    json!({
        "position": position,
        "bytes": header.total_bytes(),
        "base_offset": header.base_offset.get(),
        "records": header.record_count(),
        "leader_epoch": header.leader_epoch.get(),
        "append_time": header.append_time.as_millis(),
        "max_timestamp": header.max_timestamp.as_millis(),
        "synced_end": header.synced_end.get(),
    })
}
