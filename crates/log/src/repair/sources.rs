//! Reads the segments of a log for a repair: which runs of batches are sound, and what lies between.

use std::io;
use std::path::{Path, PathBuf};

use taffrail_model::{LogId, Offset, ProducerId};

use super::error::{RepairError, io_at};
use crate::delete::count_left;
use crate::segment::{
    HEADER_BYTES_MAX, Hole, Salvaged, Scanned, Scanner, SegmentHeader, SegmentHeaderError,
    decode_header, parse_segment_name, salvage_header, segment_path,
};
use crate::vfs::{Vfs, read_bytes};

/// A segment file.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// The offset that its name states.
    pub(super) base_offset: Offset,
    /// Its batches; what is wrong with it if they cannot be told from other bytes.
    pub(super) contents: Result<Contents, String>,
}

/// The batches of a segment.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) header: SegmentHeader,
    /// What is wrong with its header on disk, if it had to be restored.
    pub(super) header_error: Option<String>,
    /// Where its batches begin.
    header_bytes: u64,
    /// How long it should be.
    pub(super) length: u64,
    pub(super) pieces: Vec<Piece>,
    pub(super) holes: Vec<Hole>,
    /// The offset below which all was synced, as far as its batches say.
    pub(super) synced_end: Offset,
    /// The latest idempotent producer that sent one of its batches.
    pub(super) last_producer: Option<ProducerId>,
}

/// A run of sound batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where it begins.
    pub(super) position: u64,
    /// Where it ends.
    pub(super) end_position: u64,
    /// The base offset of its first batch.
    pub(super) from: Offset,
    /// The offset behind its last one.
    pub(super) to: Offset,
    /// Whether it begins right behind the segment's header.
    pub(super) is_first: bool,
}

/// Reads every segment of the log in `directory`, ascending, but for those that lie wholly below its
/// start, which a deletion has left; none if there is no directory.
pub(super) fn read_sources(
    vfs: &dyn Vfs,
    directory: &Path,
    id: LogId,
    first_segment: Offset,
) -> Result<Vec<Source>, RepairError> {
    let entries = match vfs.list(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_at(directory)(error)),
    };
    let mut bases: Vec<_> = entries.iter().filter_map(|e| parse_segment_name(&e.name)).collect();
    bases.sort_unstable();
    bases.drain(..count_left(&bases, first_segment));
    let mut sources: Vec<Source> = Vec::with_capacity(bases.len());
    for base in bases {
        // One that was compacted stands for what a compaction that did not end has left.
        if sources.last().is_none_or(|last| last.covered_end() <= base) {
            sources.push(read_source(vfs, directory, id, base)?);
        }
    }
    Ok(sources)
}

fn read_source(
    vfs: &dyn Vfs,
    directory: &Path,
    id: LogId,
    base_offset: Offset,
) -> Result<Source, RepairError> {
    let path = segment_path(directory, base_offset);
    let io = io_at(&path);
    let misplaced = |cause: String| RepairError::Misplaced { path: path.clone(), cause };
    let file = vfs.open_read_only(&path).map_err(&io)?;
    let bytes = read_bytes(file.as_ref(), 0, HEADER_BYTES_MAX).map_err(&io)?;
    let (header, header_bytes, header_error) = match decode_header(&bytes) {
        Ok((header, _)) if header.log_id != id => {
            return Err(misplaced(format!("it is of log {}", header.log_id)));
        }
        Ok((header, _)) if header.base_offset != base_offset => {
            let cause = format!("its header says that it begins at {}", header.base_offset);
            return Err(misplaced(cause));
        }
        Ok((header, header_bytes)) => (header, header_bytes as u64, None),
        Err(cause @ SegmentHeaderError::Version { .. }) => {
            return Err(misplaced(cause.to_string()));
        }
        Err(cause) => match salvage_header(vfs, &path, id, base_offset).map_err(&io)? {
            Some(Salvaged { header, header_bytes }) => {
                (header, header_bytes, Some(cause.to_string()))
            }
            None => return Ok(Source { path, base_offset, contents: Err(cause.to_string()) }),
        },
    };
    let length = header.length(file.length().map_err(&io)?);
    let mut contents = Contents {
        header_bytes,
        length,
        header_error,
        pieces: Vec::new(),
        holes: Vec::new(),
        synced_end: Offset::ZERO,
        last_producer: None,
        header,
    };
    let scanner = Scanner::new(file, &contents.header, length, header_bytes, base_offset);
    contents.read(scanner).map_err(&io)?;
    Ok(Source { path, base_offset, contents: Ok(contents) })
}

impl Source {
    /// Where those behind it begin.
    pub(super) fn covered_end(&self) -> Offset {
        let contents = self.contents.as_ref();
        contents.map_or(self.base_offset, |contents| contents.header.covered_end())
    }
}

impl Contents {
    fn read(&mut self, mut scanner: Scanner) -> io::Result<()> {
        while let Some(scanned) = scanner.next()? {
            match scanned {
                Scanned::Batch { position, header, .. } => {
                    self.synced_end = self.synced_end.max(header.synced_end);
                    let producer = header.producer.map(|producer| producer.id);
                    self.last_producer = self.last_producer.max(producer);
                    let end_position = position + header.total_bytes() as u64;
                    let (from, to) = (header.base_offset, header.end_offset());
                    match self.pieces.last_mut() {
                        Some(piece) if piece.end_position == position => {
                            (piece.end_position, piece.to) = (end_position, to);
                        }
                        _ => {
                            let is_first = position == self.header_bytes;
                            self.pieces.push(Piece { position, end_position, from, to, is_first });
                        }
                    }
                }
                Scanned::Hole(hole) => {
                    self.synced_end = self.synced_end.max(hole.synced_end);
                    self.holes.push(hole);
                }
            }
        }
        self.note_empty();
        self.note_compacted();
        Ok(())
    }

    /// Forgets what lies at and behind a position.
    pub(super) fn cut(&mut self, position: u64) {
        self.pieces.retain(|piece| piece.position < position);
        self.holes.retain(|hole| hole.position < position);
        self.note_empty();
    }

    /// One that was compacted stands for offsets behind its last record too.
    fn note_compacted(&mut self) {
        let end = self.header.covered_end();
        if let Some(piece) = self.pieces.last_mut().filter(|it| it.end_position == self.length) {
            piece.to = piece.to.max(end);
        }
    }

    /// A segment that holds nothing, and nothing bad, still says where the log stood.
    fn note_empty(&mut self) {
        if self.pieces.is_empty() && self.holes.is_empty() {
            let (position, from) = (self.header_bytes, self.header.base_offset);
            let end_position = position;
            self.pieces.push(Piece { position, end_position, from, to: from, is_first: true });
        }
    }
}
