//! Brings what is remembered of idempotent producers up to the log's end: a checkpoint says it for
//! the offsets below it, the batches behind it say the rest.

use std::io;
use std::path::Path;
use std::sync::Arc;

use taffrail_model::batch::BatchHeader;
use taffrail_model::{GapReason, LogId, Offset, ProducerId};

use super::files::{Files, SegmentFile};
use super::last::LastSegment;
use crate::producers::{Checkpoints, Producers};
use crate::segment::{Scanned, Scanner, SegmentHeader};
use crate::vfs::{File, Vfs};

/// What is remembered of producers.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    pub(super) producers: Producers,
    /// The offset below which all batches are counted in.
    end: Offset,
    /// Whoever was made before this opening is below this.
    ids_end: ProducerId,
    has_checkpoint: bool,
}

impl Remembered {
    /// What the newest checkpoint says that is not behind `end_max`.
    pub(super) fn load(
        vfs: &dyn Vfs,
        path: &Path,
        id: LogId,
        end_max: Offset,
        ids_end: ProducerId,
    ) -> (Checkpoints, Self) {
        let (checkpoints, newest) = Checkpoints::load(vfs, path, id, end_max);
        let has_checkpoint = newest.is_some();
        let (mut producers, end) =
            newest.map_or_else(Default::default, |it| (it.producers, it.end));
        producers.know_from(ids_end);
        (checkpoints, Self { producers, end, ids_end, has_checkpoint })
    }

    /// The offset below which all batches are counted in.
    pub(super) fn end(&self) -> Offset {
        self.end
    }

    /// Takes note that a segment begins. Offsets that a power loss took away were never appended, as far
    /// as anybody knows now.
    pub(super) fn begin(&mut self, segment: &SegmentHeader) {
        let gap = segment.gap().filter(|gap| gap.reason == GapReason::PowerLoss);
        if let Some(gap) = gap.filter(|gap| gap.from <= self.end) {
            self.end = self.end.max(gap.to);
        }
    }

    /// Takes note of a batch.
    pub(super) fn note(&mut self, header: &BatchHeader) {
        if header.base_offset < self.end {
            return;
        }
        self.reach(header.base_offset);
        self.producers.note_header(header);
        self.end = header.end_offset();
    }

    /// Takes note that everything below `end` was read. What is not counted in by then cannot be read:
    /// nobody knows who sent it, and what was remembered may not be the last that a producer sent.
    pub(super) fn reach(&mut self, end: Offset) {
        if self.end < end {
            self.producers.forget_all(self.ids_end);
            self.end = end;
        }
    }

    /// Reads what the segments before the last one hold behind the checkpoint: one, or two. Without a
    /// checkpoint that could be all of a long log; then, or if one cannot be read, nobody in them is
    /// remembered.
    pub(super) fn catch_up(&mut self, vfs: &Arc<dyn Vfs>, files: &Files, last: &LastSegment) {
        if !self.has_checkpoint {
            return;
        }
        let behind = files.sound.iter().skip(1).map(|next| next.header.base_offset);
        let ends = behind.chain([last.header.base_offset]);
        for (segment, end) in files.sound.iter().zip(ends) {
            if end <= self.end {
                continue;
            }
            let SegmentFile { path, length, header, header_bytes } = segment;
            let file = vfs.open_read_only(path);
            if file.and_then(|file| self.read(file, header, *length, *header_bytes)).is_err() {
                return;
            }
        }
    }

    /// Reads what the last segment holds behind the checkpoint.
    pub(super) fn catch_up_with(&mut self, last: &LastSegment) -> io::Result<()> {
        self.read(Arc::clone(&last.file), &last.header, last.length, last.header_bytes)
    }

    fn read(
        &mut self,
        file: Arc<dyn File>,
        header: &SegmentHeader,
        length: u64,
        position: u64,
    ) -> io::Result<()> {
        self.begin(header);
        let mut scanner = Scanner::new(file, header, length, position, header.base_offset);
        while let Some(scanned) = scanner.next()? {
            if let Scanned::Batch { header, .. } = scanned {
                self.note(&header);
            }
        }
        Ok(())
    }
}
