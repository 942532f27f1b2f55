//! How far a log has come: what its writer, its syncer and its readers tell one another without a lock.
//!
//! Invariants, whoever looks when: what is durable was written before; who sees the durable end sees
//! everything that was written below it. `tests/loom.rs` tries every order of these steps.

use taffrail_model::Offset;

use crate::atomic::{AtomicU64, Ordering};

/// How far a log has come. Each number only grows.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Offset of the first record.
    start: AtomicU64,
    /// The offset below which everything is on disk.
    durable_end: AtomicU64,
    /// Bytes ever written to this opening of the log.
    written_bytes: AtomicU64,
    /// Bytes of these that are on disk.
    durable_bytes: AtomicU64,
}

/// How much was written when somebody looked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WrittenBytes(u64);

impl Progress {
    /// Of a log that was just opened, with everything on disk.
    pub(crate) fn at(start: Offset, end: Offset) -> Self {
        Self {
            start: AtomicU64::new(start.get()),
            durable_end: AtomicU64::new(end.get()),
            written_bytes: AtomicU64::new(0),
            durable_bytes: AtomicU64::new(0),
        }
    }

    /// Offset of the first record.
    pub(crate) fn start(&self) -> Offset {
        Offset::new(self.start.load(Ordering::Acquire))
    }

    /// The log begins at `start` from now on, where a segment does that is on disk.
    pub(crate) fn starts_at(&self, start: Offset) {
        let durable_end = self.durable_end();
        assert!(start <= durable_end, "start {start} > durable end {durable_end}");
        self.start.fetch_max(start.get(), Ordering::AcqRel);
    }

    /// The offset below which everything is on disk.
    pub(crate) fn durable_end(&self) -> Offset {
        Offset::new(self.durable_end.load(Ordering::Acquire))
    }

    /// The writer has written so many more bytes, and the log's end has moved behind them.
    pub(crate) fn wrote(&self, bytes: u64) {
        self.written_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// What is written by now. Whoever syncs looks here before he looks for the log's end: so that this
    /// is never more than what his sync covers.
    pub(crate) fn written_bytes(&self) -> WrittenBytes {
        WrittenBytes(self.written_bytes.load(Ordering::Acquire))
    }

    /// A sync has returned that began when `written` had been written and the log ended at `end`. One at
    /// a time.
    pub(crate) fn synced(&self, written: WrittenBytes, end: Offset) {
        let before = self.durable_end();
        assert!(before <= end, "durable end {before} > end {end}");
        self.durable_end.store(end.get(), Ordering::Release);
        self.durable_bytes.fetch_max(written.0, Ordering::AcqRel);
    }

    /// Bytes that are written and not on disk.
    pub(crate) fn unsynced_bytes(&self) -> u64 {
        // Durable first: it is never ahead of what was written before it was read.
        let durable = self.durable_bytes.load(Ordering::Acquire);
        let written = self.written_bytes.load(Ordering::Acquire);
        assert!(durable <= written, "durable bytes {durable} > written bytes {written}");
        written - durable
    }
}
