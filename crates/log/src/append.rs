//! Batches on their way into a log, together.
//!
//! Whoever appends asks of each batch whether it is there already, and adds it if it is not. So one
//! of an idempotent producer is seen by the next one of the same producer before either is written.

use taffrail_model::{Offset, ProducerId, Timestamp};

use crate::batch::{Appended, NewBatch};
use crate::error::AppendError;
use crate::log::Log;
use crate::producers::{Known, Mark, SequenceError};

/// Batches that will be appended together. Dropped without [`Append::write`], none of them is.
#[derive(Debug)]
pub struct Append<'a> {
    log: &'a mut Log,
    batches: Vec<NewBatch>,
    next: Offset,
    bytes: usize,
    now: Timestamp,
    /// Whose batches they are.
    producers: Vec<ProducerId>,
    is_written: bool,
}

impl Log {
    /// Begins to append. `now` is clamped so that append times never fall.
    pub fn begin(&mut self, now: Timestamp) -> Append<'_> {
        let (now, next) = (self.append_time(now), self.end());
        let (batches, producers) = (Vec::new(), Vec::new());
        Append { log: self, batches, next, bytes: 0, now, producers, is_written: false }
    }
}

impl Append<'_> {
    /// The offset that the next batch gets.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Bytes of the batches so far, with their headers.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a batch is in the log already, or among those added here.
    ///
    /// # Errors
    /// If its producer may not append it: something is missing before it, the producer's epoch is
    /// over, or nothing is remembered of the producer. As in Kafka's KIP-98.
    pub fn find(&mut self, batch: &NewBatch) -> Result<Known, SequenceError> {
        match &batch.producer {
            Some(stamp) => self.log.producers.find(stamp, batch.record_count, self.now),
            None => Ok(Known::New),
        }
    }

    /// Whether a batch goes into the next segment: whoever does not want to wait for the sync of this
    /// one writes what there is, and lets somebody else call [`Log::roll`].
    pub fn must_roll(&self, batch: &NewBatch) -> bool {
        // Where nothing can be written, that is said at once.
        self.log.check_writable().is_ok() && self.log.must_roll(self.bytes as u64, batch, self.now)
    }

    /// Adds a batch, which is not in the log already: see [`Self::find`].
    pub fn push(&mut self, batch: NewBatch) {
        if let Some(stamp) = &batch.producer {
            let mark = Mark {
                sequence: stamp.sequence,
                record_count: batch.record_count,
                base_offset: self.next,
                append_time: self.now,
            };
            self.log.producers.note(stamp, mark);
            if self.producers.last() != Some(&stamp.id) {
                self.producers.push(stamp.id);
            }
        }
        self.next = self.next.advance(u64::from(batch.record_count));
        self.bytes += batch.total_bytes();
        self.batches.push(batch);
    }

    /// The batches so far.
    pub fn batches(&self) -> &[NewBatch] {
        &self.batches
    }

    /// Appends the batches, in order, with one write for each segment that they go to.
    ///
    /// On return what was appended is in the page cache, not on disk: see
    /// [`LogSyncer::sync`](crate::LogSyncer::sync). The first value says where batches went; where
    /// it is shorter than there are batches, the error says why the next one and all behind it are
    /// not in the log.
    pub fn write(mut self) -> (Vec<Appended>, Option<AppendError>) {
        self.is_written = true;
        let batches = std::mem::take(&mut self.batches);
        let (appended, error) = self.log.write_all(&batches, self.now);
        if error.is_some() {
            self.forget();
        }
        self.log.trim_producers(&self.producers);
        (appended, error)
    }

    /// Takes back what was noted of batches that are not in the log.
    fn forget(&mut self) {
        let end = self.log.end();
        self.log.producers.cut(end);
    }
}

impl Drop for Append<'_> {
    fn drop(&mut self) {
        if !self.is_written && !self.batches.is_empty() {
            self.forget();
        }
    }
}
