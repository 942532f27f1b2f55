//! Restores what a damaged segment header said, so that no record is lost with it.
//!
//! Three ways, the surest first. One rotten byte, or rot where the header says what is known anyway, is
//! found out by the header's own CRC. Else the salt is in the segment's index. Else it is solved from
//! the first batch, in whose CRC it is linear, and confirmed by the next batch or by the payload.
//!
//! Invariant: a file of another log does not pass. A restored CRC covers the log's id; without one, what
//! is still legible must not name another log, and the batches must fit between the files around them.
//! Not told apart are a recorded gap in front of the segment and a lost one, unless the CRC is restored.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use taffrail_model::batch::{BatchHeader, HEADER_BYTES, HeaderBytes, Salt, records_crc};
use taffrail_model::{LogId, Offset, Timestamp, limits};

use super::header::{BASE_OFFSET, FIXED_BYTES, FORMAT_VERSION, LOG_ID, TAGS, VERSION, label_bytes};
use super::{
    Compacted, HEADER_BYTES_MAX, Scanned, Scanner, SegmentHeader, decode_header,
    parse_segment_name, segment_path,
};
use crate::index::{IndexFile, decode, index_path};
use crate::vfs::{File, Vfs, parent, read_bytes, read_file};

/// A segment header that was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Salvaged {
    pub(crate) header: SegmentHeader,
    /// Where the batches begin.
    pub(crate) header_bytes: u64,
}

/// What is needed to read a segment's batches.
struct Key {
    salt: Salt,
    /// Where the batches begin.
    position: u64,
    /// When the first one was appended, if there is one.
    created: Timestamp,
    compacted: Option<Compacted>,
}

/// What stands around a segment in its directory.
#[derive(Default)]
struct Around {
    /// What the log is called.
    label: Option<String>,
    /// Where the segment before it ends.
    previous_end: Offset,
    /// Where the one behind it begins.
    next: Option<Offset>,
}

/// Restores the header of the segment at `path`, which should be that of the log `id` that begins at
/// `base_offset`; `None` if that cannot be done for sure. Reads the segment and the one before it.
///
/// # Errors
/// If a file cannot be read.
pub(crate) fn salvage_header(
    vfs: &dyn Vfs,
    path: &Path,
    id: LogId,
    base_offset: Offset,
) -> io::Result<Option<Salvaged>> {
    let file = vfs.open_read_only(path)?;
    let bytes = read_bytes(file.as_ref(), 0, HEADER_BYTES_MAX)?;
    if let Some(salvaged) = correct(&bytes, id, base_offset) {
        return Ok(Some(salvaged));
    }
    if names_another(&bytes, id) {
        return Ok(None);
    }
    let around = look_around(vfs, path, id, base_offset)?;
    let key = match index_key(vfs, path, file.as_ref(), base_offset)? {
        Some(key) => Some(key),
        None => solve_key(file.as_ref(), around.label.as_deref(), base_offset)?,
    };
    let Some(Key { salt, position, created, compacted }) = key else { return Ok(None) };
    let header = SegmentHeader {
        salt,
        compacted,
        base_offset,
        previous_end: base_offset,
        gap_reason: None,
        created,
        log_id: id,
        label: around.label.unwrap_or_default(),
    };
    let end = end_offset(&file, &header, position)?;
    let fits = around.previous_end <= base_offset && around.next.is_none_or(|next| end <= next);
    Ok(fits.then_some(Salvaged { header, header_bytes: position }))
}

/// The header that `bytes` begin with, if all that is wrong is one byte, and what is known anyway.
fn correct(bytes: &[u8], id: LogId, base_offset: Offset) -> Option<Salvaged> {
    if bytes.len() < FIXED_BYTES {
        return None;
    }
    let mut bytes = bytes.to_vec();
    put_known(&mut bytes, id, base_offset)?;
    let read = |bytes: &[u8]| {
        let (header, length) = decode_header(bytes).ok()?;
        let belongs = header.log_id == id && header.base_offset == base_offset;
        belongs.then_some(Salvaged { header, header_bytes: length as u64 })
    };
    if let Some(salvaged) = read(&bytes) {
        return Some(salvaged);
    }
    let mut found = None;
    // What lies behind the header is not covered by its CRC.
    for at in 0..bytes.len().min(FIXED_BYTES + label_bytes(&bytes)) {
        let byte = bytes[at];
        for bits in 1..=u8::MAX {
            bytes[at] = byte ^ bits;
            if let Some(salvaged) = read(&bytes)
                && found.replace(salvaged).is_some()
            {
                // Two readings: then neither is sure.
                return None;
            }
        }
        bytes[at] = byte;
    }
    found
}

/// Puts the bytes in place that the header of this segment has, whatever became of them.
fn put_known(bytes: &mut [u8], id: LogId, base_offset: Offset) -> Option<()> {
    let mut put = |at: usize, known: &[u8]| {
        bytes.get_mut(at..at + known.len()).map(|place| place.copy_from_slice(known))
    };
    for (at, tag) in TAGS {
        put(at, &[tag])?;
    }
    put(VERSION + 1, &FORMAT_VERSION.to_le_bytes())?;
    put(BASE_OFFSET + 1, &base_offset.get().to_le_bytes())?;
    put(LOG_ID + 1, &[LogId::BYTES as u8])?;
    put(LOG_ID + 2, &id.bytes())
}

/// Whether a damaged header still names another format or another log.
fn names_another(bytes: &[u8], id: LogId) -> bool {
    let says_other = |at: usize, tag: &[u8], value: &[u8]| {
        let rest = bytes.get(at..).unwrap_or_default().strip_prefix(tag);
        rest.is_some_and(|rest| !rest.starts_with(value))
    };
    says_other(VERSION, &[0x15], &FORMAT_VERSION.to_le_bytes())
        || says_other(LOG_ID, &[0x5a, LogId::BYTES as u8], &id.bytes())
}

/// What the segment's index says, if a batch of the segment confirms it.
fn index_key(
    vfs: &dyn Vfs,
    path: &Path,
    file: &dyn File,
    base_offset: Offset,
) -> io::Result<Option<Key>> {
    let Ok(bytes) = read_file(vfs, &index_path(path), limits::SEGMENT_BYTES_MAX) else {
        // A cache, like any other time.
        return Ok(None);
    };
    let Some(IndexFile { salt, base_offset: stated, compacted, index, .. }) = decode(&bytes) else {
        return Ok(None);
    };
    let Some(first) = index.entries().first().filter(|_| stated == base_offset) else {
        return Ok(None);
    };
    for entry in index.entries() {
        let header = header_at(file, entry.position)?;
        let decoded = header.and_then(|bytes| BatchHeader::decode(&bytes, salt).ok());
        if let Some(header) = decoded.filter(|header| header.base_offset == entry.offset) {
            let created = header.append_time;
            return Ok(Some(Key { salt, position: first.position, created, compacted }));
        }
    }
    Ok(None)
}

/// Solves the salt from the first batch, which begins behind a header with this label, or with any if
/// none is known.
fn solve_key(file: &dyn File, label: Option<&str>, base_offset: Offset) -> io::Result<Option<Key>> {
    let positions = match label {
        Some(label) => FIXED_BYTES + label.len()..=FIXED_BYTES + label.len(),
        None => FIXED_BYTES..=HEADER_BYTES_MAX,
    };
    for position in positions {
        let position = position as u64;
        let Some(bytes) = header_at(file, position)? else { return Ok(None) };
        let (Ok(header), Ok(salt)) =
            (BatchHeader::decode_unverified(&bytes), BatchHeader::solve_salt(&bytes))
        else {
            continue;
        };
        let is_first = header.base_offset == base_offset
            && header.synced_end <= base_offset
            && header.total_bytes() <= limits::BATCH_BYTES_MAX as usize;
        if is_first && is_confirmed(file, position, &header, salt)? {
            let (created, compacted) = (header.append_time, None);
            return Ok(Some(Key { salt, position, created, compacted }));
        }
    }
    Ok(None)
}

/// Whether the batch behind this one has the same salt, or the payload of this one is sound.
fn is_confirmed(
    file: &dyn File,
    position: u64,
    header: &BatchHeader,
    salt: Salt,
) -> io::Result<bool> {
    let next = header_at(file, position + header.total_bytes() as u64)?;
    let next = next.and_then(|bytes| BatchHeader::decode(&bytes, salt).ok());
    if next.is_some_and(|next| next.base_offset == header.end_offset()) {
        return Ok(true);
    }
    let payload_bytes = header.payload_bytes as usize;
    let payload: Bytes = read_bytes(file, position + HEADER_BYTES as u64, payload_bytes)?;
    Ok(payload.len() == payload_bytes && records_crc(&payload) == header.records_crc)
}

/// What stands around the segment. Files without a sound header say nothing but their names.
fn look_around(vfs: &dyn Vfs, path: &Path, id: LogId, base_offset: Offset) -> io::Result<Around> {
    let directory = parent(path);
    let mut around = Around::default();
    let mut previous = None;
    let entries = vfs.list(directory)?;
    for base in entries.iter().filter_map(|entry| parse_segment_name(&entry.name)) {
        if base == base_offset {
            continue;
        }
        let file = vfs.open_read_only(&segment_path(directory, base))?;
        let bytes = read_bytes(file.as_ref(), 0, HEADER_BYTES_MAX)?;
        let sound = decode_header(&bytes).ok().filter(|(header, _)| header.log_id == id);
        if base_offset < base {
            around.next.get_or_insert(base);
        }
        if let Some((header, length)) = sound {
            around.label = Some(header.label.clone());
            if base < base_offset {
                previous = Some((file, header, length as u64));
            }
        }
    }
    if let Some((file, header, position)) = previous {
        around.previous_end = end_offset(&file, &header, position)?;
    }
    Ok(around)
}

/// The offset behind the last sound batch of a segment.
fn end_offset(file: &Arc<dyn File>, header: &SegmentHeader, position: u64) -> io::Result<Offset> {
    let length = header.length(file.length()?);
    let base = header.base_offset;
    let mut scanner = Scanner::new(Arc::clone(file), header, length, position, base);
    let mut end = base;
    while let Some(scanned) = scanner.next()? {
        if let Scanned::Batch { header, .. } = scanned {
            end = header.end_offset();
        }
    }
    Ok(end)
}

fn header_at(file: &dyn File, position: u64) -> io::Result<Option<HeaderBytes>> {
    let bytes = read_bytes(file, position, HEADER_BYTES)?;
    Ok(bytes.as_ref().try_into().ok())
}
