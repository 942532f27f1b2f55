//! Tells batches what became of them, and counts.
//!
//! Invariant: `buffered_bytes` is what open and unsettled batches hold.

use super::accumulator::SealedBatch;
use super::delivery::Placed;
use super::state::Settled;
use super::{ProduceError, ProducerStats};
use crate::ServerError;

/// The counts of a producer, and its first failure that nobody has heard of.
#[derive(Debug, Default)]
pub(super) struct Tally {
    stats: ProducerStats,
    first_failure: Option<ProduceError>,
}

impl Tally {
    /// A record of so many bytes was taken.
    pub(super) fn accepted(&mut self, record_bytes: usize) {
        self.stats.buffered_bytes += record_bytes;
        self.stats.accepted_records += 1;
    }

    /// A batch was refused that was handed over without acknowledgement.
    pub(super) fn refused_unasked(&mut self, error: ServerError) {
        self.stats.refused_batches += 1;
        self.first_failure.get_or_insert(ProduceError::Refused(error));
    }

    /// Tells a batch's records what became of them.
    pub(super) fn settle(&mut self, settled: Settled<SealedBatch>) {
        let Settled { batch, outcome } = settled;
        self.stats.buffered_bytes -= batch.payload.len();
        let records = u64::from(batch.record_count);
        let partition = batch.partition;
        let outcome = match outcome {
            Ok(offset) => {
                self.stats.delivered_records += records;
                self.stats.delivered_bytes += batch.payload.len() as u64;
                Ok(Placed { partition, offset })
            }
            Err(error) => {
                let is_unknown = matches!(error, ProduceError::ResultUnknown { .. });
                let counted = if is_unknown {
                    &mut self.stats.unknown_records
                } else {
                    &mut self.stats.failed_records
                };
                *counted += records;
                self.first_failure.get_or_insert_with(|| error.clone());
                Err(error)
            }
        };
        batch.outcome.settle(outcome);
    }

    /// Counts so far.
    pub(super) fn stats(&self) -> ProducerStats {
        self.stats
    }

    /// The first failure since the last call.
    pub(super) fn take_failure(&mut self) -> Option<ProduceError> {
        self.first_failure.take()
    }
}
