//! What a consumer gets.

use taffrail_model::batch::{Batch, RecordView, WireError};
use taffrail_model::{Offset, PartitionIndex, Timestamp, TopicName};
use taffrail_proto::v1;

/// One thing that a consumer gets.
#[derive(Clone, Debug)]
pub enum Event {
    /// Records.
    Batch(ConsumedBatch),
    /// Offsets that hold no records: retention, compaction or damage took them.
    Gap {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionIndex,
        /// The first offset that is missing.
        from: Offset,
        /// The first offset that is not.
        to: Offset,
        /// Why.
        reason: v1::GapReason,
    },
    /// A sign of life of the broker, every few seconds; where all partitions stand is in
    /// [`Consumer::places`](super::Consumer::places).
    Heartbeat {
        /// The broker's clock.
        broker_time: Timestamp,
    },
}

/// Records of one partition that were appended together. Shares the received bytes.
#[derive(Clone, Debug)]
pub struct ConsumedBatch {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionIndex,
    /// End of what readers may see of the partition, when this was read.
    pub high_watermark: Offset,
    /// The batch, opened if it was compressed. It may hold records outside of what was asked for:
    /// [`Self::records`] leaves them out.
    pub batch: Batch,
    pub(super) from: Offset,
    pub(super) until: Option<Offset>,
    /// The member's number for the assignment under which it was read; 0: not in a group.
    pub(crate) assignment: u64,
}

impl ConsumedBatch {
    /// Offset of the first record that was asked for.
    pub fn first_offset(&self) -> Offset {
        self.batch.header.base_offset.max(self.from)
    }

    /// The records that were asked for, in the order of their offsets. There may be none: where reading
    /// begins inside a batch, compaction may have removed what is behind that place.
    ///
    /// Decoded as they are asked for, without copying. Ends behind the first error, which a batch
    /// whose checksum was right has only if its producer made it so.
    pub fn records(&self) -> impl Iterator<Item = Result<RecordView<'_>, WireError>> {
        let from = self.from;
        let until = self.until.unwrap_or(Offset::new(u64::MAX));
        self.batch.records().filter(move |record| {
            record.as_ref().map_or(true, |record| from <= record.offset && record.offset < until)
        })
    }
}

/// Where a consumer stands in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionPlace {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionIndex,
    /// The next offset to come from the broker; `None` before the broker told where it begins.
    pub next_offset: Option<Offset>,
    /// Offset of the first record that is still there, as last heard.
    pub log_start: Offset,
    /// End of what readers may see, as last heard.
    pub high_watermark: Offset,
    /// Whether nothing more will come of it: its end was reached, or an error ended it.
    pub is_finished: bool,
}
