//! One segment, batch by batch.

use std::io;
use std::path::Path;

use taffrail_model::Offset;
use taffrail_model::batch::Batch;

use super::InspectError;
use super::log::owner;
use crate::segment::{
    HEADER_BYTES_MAX, Salvaged, Scanned, Scanner, SegmentHeader, SegmentHeaderError, decode_header,
    parse_segment_name, salvage_header,
};
use crate::vfs::{Vfs, read_bytes};

/// A segment's batches, in order, with the damaged ranges between them.
///
/// Ends behind the first error, which is one of reading.
#[derive(Debug)]
pub struct Dump {
    /// What the segment says of itself, or said before its header was damaged.
    pub header: SegmentHeader,
    scanner: Option<Scanner>,
}

/// What comes next in a segment.
#[derive(Clone, Debug)]
pub enum Dumped {
    /// A sound batch.
    Batch {
        /// Where it begins.
        position: u64,
        /// Its header and its records.
        batch: Batch,
    },
    /// Bytes that are not one.
    Damaged {
        /// Where they begin.
        position: u64,
        /// Where they end.
        end_position: u64,
        /// The first offset that they should hold.
        from: Offset,
        /// The offset at which the segment goes on behind them; `None` if it does not say.
        to: Option<Offset>,
        /// What is wrong with them.
        cause: String,
    },
}

/// Opens a segment file to walk through its batches. Reads as it goes.
///
/// # Errors
/// If the file cannot be read, or its header is damaged.
pub fn dump(vfs: &dyn Vfs, path: &Path) -> Result<Dump, InspectError> {
    let io = |source| InspectError::Io { path: path.to_owned(), source };
    let file = vfs.open_read_only(path).map_err(io)?;
    let file_bytes = file.length().map_err(io)?;
    let bytes = read_bytes(file.as_ref(), 0, HEADER_BYTES_MAX).map_err(io)?;
    let (header, header_bytes) = match decode_header(&bytes) {
        Ok((header, header_bytes)) => (header, header_bytes as u64),
        Err(cause) => match salvage(vfs, path, &cause).map_err(io)? {
            Some(Salvaged { header, header_bytes }) => (header, header_bytes),
            None => return Err(InspectError::Header { path: path.to_owned(), cause }),
        },
    };
    let length = header.length(file_bytes);
    let scanner = Scanner::new(file, &header, length, header_bytes, header.base_offset);
    Ok(Dump { header, scanner: Some(scanner) })
}

/// Restores a damaged header of a segment that stands in its place.
fn salvage(vfs: &dyn Vfs, path: &Path, cause: &SegmentHeaderError) -> io::Result<Option<Salvaged>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_newer = matches!(cause, SegmentHeaderError::Version { .. });
    match (owner(vfs, path).filter(|_| !is_newer), parse_segment_name(&name)) {
        (Some(id), Some(base_offset)) => salvage_header(vfs, path, id, base_offset),
        _ => Ok(None),
    }
}

impl Iterator for Dump {
    type Item = io::Result<Dumped>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.scanner.as_mut()?.next() {
            Ok(scanned) => scanned.map(|scanned| Ok(scanned.into())),
            Err(error) => {
                self.scanner = None;
                Some(Err(error))
            }
        }
    }
}

impl From<Scanned> for Dumped {
    fn from(scanned: Scanned) -> Self {
        match scanned {
            Scanned::Batch { position, header, payload } => {
                Self::Batch { position, batch: Batch { header, payload } }
            }
            Scanned::Hole(hole) => Self::Damaged {
                position: hole.position,
                end_position: hole.end_position,
                from: hole.from,
                to: hole.to,
                cause: hole.cause,
            },
        }
    }
}
