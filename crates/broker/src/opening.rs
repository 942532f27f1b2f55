//! Opens the logs of partitions, at the start and anew.

use std::ops::Range;
use std::sync::Arc;

use taffrail_log::{Directory, OpenError, Opened};
use taffrail_model::{LogId, Offset, PartitionIndex, ProducerId, TopicName};

use crate::broker::Broker;
use crate::catalog::CatalogError;
use crate::partition::{Partition, PartitionDescription, Unopened};

impl Broker {
    /// Opens the log of a partition anew if it takes nothing or cannot be opened.
    pub(crate) async fn reopen_partition_now(
        self: Arc<Self>,
        name: TopicName,
        index: PartitionIndex,
    ) -> Result<PartitionDescription, CatalogError> {
        let partition = {
            // Nobody deletes what is let go of.
            let _changing = self.changing.lock().await;
            let partition = self.partition_of(&name, index)?;
            let released = Arc::clone(&partition);
            let release = move || released.release();
            if self.threads.on_admin_thread(release).await != Some(true) {
                return Ok(partition.describe());
            }
            partition
        };
        let open = self.opening_of(&partition);
        self.threads.on_opener_thread(open).await;
        Ok(partition.describe())
    }

    /// Opens the logs anew that take nothing because there was no room when they were opened, and for
    /// which there is some now; unless topics are being changed just now.
    pub(crate) fn reopen_where_room_was_wanting(&self) {
        let logs = self.directory.logs_with_room();
        if logs.is_empty() {
            return;
        }
        let Ok(_changing) = self.changing.try_lock() else { return };
        let topics = self.shared.topics.load_full();
        let ours = topics.all().filter(|served| !served.topic.name.is_internal());
        let waiting = ours.flat_map(|served| &served.partitions);
        for partition in waiting.filter(|it| logs.contains(&it.log_id) && it.release()) {
            self.threads.open(self.opening_of(partition));
        }
    }

    /// How to open a log that is not open: at the start, or once it was let go of.
    pub(crate) fn opening_of(&self, partition: &Arc<Partition>) -> impl FnOnce() + Send + use<> {
        let producers = self.shared.producers.fence_ids();
        let (directory, partition) = (Arc::clone(&self.directory), Arc::clone(partition));
        move || open_partition(&directory, &partition, producers)
    }

    /// A partition of a topic that is not the broker's own.
    fn partition_of(
        &self,
        name: &TopicName,
        index: PartitionIndex,
    ) -> Result<Arc<Partition>, CatalogError> {
        let served = self.served(name)?;
        if name.is_internal() {
            return Err(CatalogError::OpenedAtStart(name.to_string()));
        }
        served.partition(index)
    }
}

/// Opens a partition's log on a log thread, and says what was found.
pub(crate) fn open_partition(
    directory: &Directory,
    partition: &Arc<Partition>,
    producer_ids_end: ProducerId,
) {
    let config = partition.log_config();
    let (topic, index) = (&partition.topic, partition.index);
    match directory.open_log(partition.log_id, config, producer_ids_end) {
        Ok(Opened { log, report }) => {
            for damage in &report.damage {
                let (from, to, position) = (damage.from, damage.to, damage.position);
                let path = damage.path.display();
                tracing::error!(%topic, partition = %index, %from, %to, %path, position, cause = damage.cause, "records are damaged or missing");
            }
            for salvaged in &report.salvaged {
                let (path, cause) = (salvaged.path.display(), &salvaged.cause);
                tracing::warn!(%topic, partition = %index, %path, cause, "a segment's header is damaged; all it said is known from elsewhere, and no record is lost");
            }
            for path in &report.moved_aside {
                let path = path.display();
                tracing::warn!(%topic, partition = %index, %path, "a torn tail was moved aside");
            }
            if let Some(gap) = &report.skipped {
                let (from, to) = (gap.from, gap.to);
                tracing::warn!(%topic, partition = %index, %from, %to, "offsets are skipped: records there may have been lost with the machine's power");
            }
            if !report.was_clean && log.end() > Offset::ZERO {
                let (scanned, rewritten) = (report.scanned_bytes, report.rewritten_bytes);
                tracing::info!(%topic, partition = %index, end = %log.end(), scanned, rewritten, "recovered");
            }
            partition.open(Ok(log));
        }
        Err(error) => {
            tracing::error!(%topic, partition = %index, %error, "the log cannot be opened");
            let cause = error.to_string();
            let lost = lost_with(directory, partition.log_id, &error);
            let is_there = matches!(error, OpenError::Io { .. });
            partition.open(Err(Unopened { cause, lost, is_there }));
        }
    }
}

/// The offsets that were on disk, if what held them is not there any more.
fn lost_with(directory: &Directory, log: LogId, error: &OpenError) -> Range<Offset> {
    let point = directory.point(log).unwrap_or_default();
    match error {
        OpenError::Missing { .. } | OpenError::Damaged { .. } => {
            point.log_start..point.recovery_point
        }
        OpenError::Foreign { .. } | OpenError::Io { .. } | OpenError::Interrupted { .. } => {
            Offset::ZERO..Offset::ZERO
        }
    }
}
