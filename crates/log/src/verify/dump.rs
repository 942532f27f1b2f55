//! One segment, batch by batch.

use std::io;
use std::path::Path;

use taffrail_model::Offset;
use taffrail_model::batch::Batch;

use super::InspectError;
use crate::segment::{HEADER_BYTES_MAX, Scanned, Scanner, SegmentHeader, decode_header};
use crate::vfs::{Vfs, read_bytes};

/// A segment's batches, in order, with the damaged ranges between them.
///
/// Ends behind the first error, which is one of reading.
#[derive(Debug)]
pub struct Dump {
    /// What the segment says of itself.
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
    let length = file.length().map_err(io)?;
    let bytes = read_bytes(file.as_ref(), 0, HEADER_BYTES_MAX).map_err(io)?;
    let (header, header_bytes) = decode_header(&bytes)
        .map_err(|cause| InspectError::Header { path: path.to_owned(), cause })?;
    let scanner = Scanner::new(file, &header, length, header_bytes as u64, header.base_offset);
    Ok(Dump { header, scanner: Some(scanner) })
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
