//! What a file holds: as programs see it, and as it would be found after a crash.

use std::collections::BTreeSet;

use super::Random;

const SECTOR_BYTES: usize = 512;

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that a sync would write.
    unsynced: BTreeSet<usize>,
}

impl Contents {
    pub(super) fn seen(&self) -> &[u8] {
        &self.seen
    }

    pub(super) fn read(&self, position: usize, buffer: &mut [u8]) -> usize {
        let available = self.seen.get(position..).unwrap_or_default();
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        length
    }

    pub(super) fn write(&mut self, position: usize, bytes: &[u8]) {
        let (before, end) = (self.seen.len(), position + bytes.len());
        if before < end {
            self.seen.resize(end, 0);
        }
        self.seen[position..end].copy_from_slice(bytes);
        self.mark(position.min(before), end);
    }

    pub(super) fn set_length(&mut self, length: usize) {
        let before = self.seen.len();
        self.seen.resize(length, 0);
        self.mark(before.min(length), before.max(length));
    }

    pub(super) fn flip(&mut self, position: usize, bits: u8) {
        for image in [&mut self.seen, &mut self.durable] {
            if let Some(byte) = image.get_mut(position) {
                *byte ^= bits;
            }
        }
    }

    pub(super) fn sync(&mut self) {
        self.durable.resize(self.seen.len(), 0);
        for sector in std::mem::take(&mut self.unsynced) {
            copy_sector(sector, &self.seen, &mut self.durable);
        }
    }

    /// What a sync should have written is never written, and nobody notices.
    pub(super) fn forget_unsynced(&mut self) {
        self.unsynced.clear();
    }

    /// The same, and what is seen is what lies on disk.
    pub(super) fn drop_unsynced(&mut self) {
        let mut on_disk = self.durable.clone();
        on_disk.resize(self.seen.len(), 0);
        for sector in std::mem::take(&mut self.unsynced) {
            copy_sector(sector, &on_disk, &mut self.seen);
        }
    }

    /// What is found after a crash: each unsynced sector new or old, the length new, old or any
    /// between.
    pub(super) fn crash(&self, random: &mut Random) -> Self {
        let (old, new) = (self.durable.len(), self.seen.len());
        let length = match random.below(3) {
            0 => old,
            1 => new,
            _ => old.min(new) + random.below(old.abs_diff(new)),
        };
        let mut image = self.durable.clone();
        image.resize(length, 0);
        for sector in &self.unsynced {
            if random.coin() {
                copy_sector(*sector, &self.seen, &mut image);
            }
        }
        Self { seen: image.clone(), durable: image, unsynced: BTreeSet::new() }
    }

    fn mark(&mut self, from: usize, to: usize) {
        self.unsynced.extend(from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES));
    }
}

/// Copies as much of a sector as both have.
fn copy_sector(sector: usize, from: &[u8], to: &mut [u8]) {
    let start = sector * SECTOR_BYTES;
    let end = (start + SECTOR_BYTES).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}
