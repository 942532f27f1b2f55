//! Reads one segment through and holds its index against it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use taffrail_model::batch::{Batch, BatchHeader, OpenError, scan};
use taffrail_model::{LogId, Offset};

use super::{Finding, IndexState, SegmentReport, Severity};
use crate::index::{Index, decode, index_path};
use crate::segment::{
    HEADER_BYTES_MAX, Hole, Salvaged, Scanned, Scanner, SegmentHeader, SegmentHeaderError,
    decode_header, salvage_header,
};
use crate::vfs::{File, Vfs, read_bytes, read_file};

/// A segment that was read through.
pub(super) struct Inspected {
    pub(super) report: SegmentReport,
    /// Bytes that are not sound batches.
    pub(super) holes: Vec<Hole>,
    /// The offset below which all was synced, as far as its headers say.
    pub(super) synced_end: Offset,
    /// Where its last sound batch ends.
    pub(super) position: u64,
    /// What is wrong with its header. Unless the report has one all the same, because it could be
    /// restored, all else is empty then.
    pub(super) header_error: Option<SegmentHeaderError>,
    /// What else is wrong.
    pub(super) findings: Vec<Finding>,
}

/// What to inspect as a segment.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) path: &'a Path,
    /// The log that it should belong to, if that is known.
    pub(super) id: Option<LogId>,
    pub(super) base_offset: Offset,
    pub(super) is_active: bool,
    /// Where to stop.
    pub(super) length_max: u64,
}

/// Reads a segment through.
pub(super) fn inspect_segment(vfs: &dyn Vfs, wanted: Wanted<'_>) -> Inspected {
    let Wanted { path, base_offset, is_active, .. } = wanted;
    let report = SegmentReport {
        path: path.to_owned(),
        base_offset,
        end_offset: base_offset,
        bytes: 0,
        header: None,
        is_active,
        batches: 0,
        records: 0,
        index: IndexState::Missing,
    };
    let mut inspected = Inspected {
        report,
        holes: Vec::new(),
        synced_end: Offset::ZERO,
        position: 0,
        header_error: None,
        findings: Vec::new(),
    };
    if let Err(error) = inspected.read(vfs, wanted) {
        inspected.findings.push(Finding {
            severity: Severity::Damage,
            path: path.to_owned(),
            position: None,
            from: None,
            to: None,
            what: format!("it cannot be read: {error}"),
            advice:
                "look at the disk and at who may read the file; nothing is said of what it holds"
                    .into(),
            remedy: None,
        });
    }
    inspected
}

impl Inspected {
    /// Where the one behind it begins at the earliest.
    pub(super) fn covered_end(&self) -> Offset {
        let header = self.report.header.as_ref();
        header.map_or(self.report.base_offset, SegmentHeader::covered_end)
    }

    fn read(&mut self, vfs: &dyn Vfs, wanted: Wanted<'_>) -> io::Result<()> {
        let file = vfs.open_read_only(&self.report.path)?;
        self.report.bytes = file.length()?;
        let bytes = read_bytes(file.as_ref(), 0, HEADER_BYTES_MAX)?;
        let (header, header_bytes) = match decode_header(&bytes) {
            Ok((header, header_bytes)) => (header, header_bytes as u64),
            Err(cause) => {
                let is_newer = matches!(cause, SegmentHeaderError::Version { .. });
                self.header_error = Some(cause);
                let Some(id) = wanted.id.filter(|_| !is_newer) else { return Ok(()) };
                match salvage_header(vfs, wanted.path, id, wanted.base_offset)? {
                    Some(Salvaged { header, header_bytes }) => (header, header_bytes),
                    None => return Ok(()),
                }
            }
        };
        self.position = header_bytes;
        let length = header.length(self.report.bytes);
        if length < self.report.bytes {
            self.note_surplus(length);
        }
        let length = length.min(wanted.length_max);
        let index = self.walk(file, &header, length)?;
        self.report.index = self.compare_index(vfs, &header, &index);
        self.report.header = Some(header);
        Ok(())
    }

    /// Walks over all batches, and returns the index that the segment should have.
    fn walk(
        &mut self,
        file: Arc<dyn File>,
        header: &SegmentHeader,
        length: u64,
    ) -> io::Result<Index> {
        let mut index = Index::default();
        let mut scanner =
            Scanner::new(file, header, length, self.position, self.report.base_offset);
        while let Some(scanned) = scanner.next()? {
            match scanned {
                Scanned::Batch { position, header: batch, payload } => {
                    index.note(position, &batch);
                    self.position = position + batch.total_bytes() as u64;
                    self.synced_end = self.synced_end.max(batch.synced_end);
                    self.report.end_offset = batch.end_offset();
                    self.report.batches += 1;
                    let batch = Batch { header: batch, payload };
                    let opened = batch.open();
                    if header.compacted.is_some() {
                        let records = opened.map_or(0, |batch| batch.records().count());
                        self.report.records += records as u64;
                        continue;
                    }
                    self.report.records += batch.header.record_count();
                    self.check_records(position, &batch.header, opened);
                }
                Scanned::Hole(hole) => {
                    self.synced_end = self.synced_end.max(hole.synced_end);
                    self.holes.push(hole);
                }
            }
        }
        let ends_in_a_hole = self.holes.last().is_some_and(|hole| self.position <= hole.position);
        if !ends_in_a_hole {
            self.report.end_offset = self.report.end_offset.max(header.covered_end());
        }
        Ok(index)
    }

    /// Bytes that no reader comes to.
    fn note_surplus(&mut self, length: u64) {
        self.findings.push(Finding {
            severity: Severity::Warning,
            path: self.report.path.clone(),
            position: Some(length),
            from: None,
            to: None,
            what: format!("{} bytes lie behind where it ends", self.report.bytes - length),
            advice: "nobody reads them, and nothing is lost: they can be cut off".into(),
            remedy: None,
        });
    }

    /// A payload may be what the producer sent and still not be what a consumer can read.
    fn check_records(
        &mut self,
        position: u64,
        batch: &BatchHeader,
        opened: Result<Batch, OpenError>,
    ) {
        let scanned = opened.map(|opened| scan(&opened.payload));
        let what = match scanned {
            Ok(Ok(summary)) if u64::from(summary.record_count) == batch.record_count() => return,
            Ok(Ok(summary)) => {
                let (found, stated) = (summary.record_count, batch.record_count());
                format!("the batch holds {found} records, its header says {stated}")
            }
            Ok(Err(error)) => {
                format!("the batch is whole, but not all of it can be decoded: {error}")
            }
            Err(error) => format!("the batch is whole, but cannot be opened: {error}"),
        };
        self.findings.push(Finding {
            severity: Severity::Warning,
            path: self.report.path.clone(),
            position: Some(position),
            from: Some(batch.base_offset),
            to: Some(batch.end_offset()),
            what,
            advice: "this should have been refused when it was produced: please report it".into(),
            remedy: None,
        });
    }

    fn compare_index(&self, vfs: &dyn Vfs, header: &SegmentHeader, index: &Index) -> IndexState {
        let file = match read_file(vfs, &index_path(&self.report.path), self.report.bytes) {
            Ok(bytes) => decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return IndexState::Missing,
            Err(_) => None,
        };
        let Some(file) = file else { return IndexState::Damaged };
        let belongs = file.salt == header.salt
            && file.base_offset == self.report.base_offset
            && file.segment_bytes == header.length(self.report.bytes);
        if !belongs {
            return IndexState::Stale;
        }
        // Where batches are damaged it may know more than can be seen now.
        let is_right = !self.holes.is_empty() || file.index == *index;
        if is_right { IndexState::Sound } else { IndexState::Damaged }
    }
}
