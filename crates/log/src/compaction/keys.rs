//! Which of many records are the last of their key, in bounded memory.
//!
//! Records are numbered as they come. Of each key only a fingerprint of 128 bits is kept, under a secret
//! that is made anew each time: that two keys have the same one does not happen, nor can somebody make it
//! happen. If there are more keys than may be in memory, fingerprints are sorted into files by their
//! first bits, so many that the keys of each fit, and these are looked at one after another. What is in
//! memory then are the keys of one file, and a bit for each record.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use taffrail_model::limits;

use super::plan::Span;
use super::{CompactionError, failed};
use crate::vfs::{File, Vfs, read_bytes, write_full};

/// What the names of the files begin and end with.
const PREFIX: &str = "keys-";
const ENDING: &str = ".new";

/// Bytes of a fingerprint and a number in a file.
const ENTRY_BYTES: usize = 20;
/// Bytes that are gathered before they are written to a file.
const BUFFER_BYTES: usize = 16 << 10;
/// Bytes that are read from a file at once.
const READ_BYTES: usize = ENTRY_BYTES << 15;
/// Files, at the most.
const FILES_MAX: u64 = 256;

/// What a key is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint([u32; 4]);

/// The last record of each key, by its number.
type LastOf = HashMap<Fingerprint, u32, BuildHasherDefault<FirstBits>>;

/// Which records are the last of their keys.
#[derive(Debug)]
pub(super) struct Keys {
    secrets: [RandomState; 2],
    in_memory_max: usize,
    last_of: LastOf,
    files: Option<Files>,
    /// For each record, whether it is the last of its key, as far as is known.
    is_last: Vec<u64>,
    count: u32,
}

/// Whether there is room for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Enough,
    TooManyKeys,
    TooManyRecords,
}

/// Fingerprints on disk, by their first bits.
#[derive(Debug)]
struct Files {
    vfs: Arc<dyn Vfs>,
    all: Vec<KeyFile>,
    /// Which one is looked at.
    at: usize,
    /// How much of it was.
    position: u64,
}

#[derive(Debug)]
struct KeyFile {
    path: PathBuf,
    file: Arc<dyn File>,
    length: u64,
    buffer: Vec<u8>,
}

/// Bytes that the keys of so many records take in files.
pub(super) fn file_bytes(records: u64) -> u64 {
    records.min(limits::COMPACTION_RECORDS_MAX.into()) * ENTRY_BYTES as u64
}

impl Keys {
    /// Keeps up to `keys_max` keys in memory.
    pub(super) fn in_memory(keys_max: usize) -> Self {
        Self {
            secrets: [RandomState::new(), RandomState::new()],
            in_memory_max: keys_max,
            last_of: LastOf::default(),
            files: None,
            is_last: Vec::new(),
            count: 0,
        }
    }

    /// Sorts the keys of up to `records_max` records into files, so that up to `keys_max` are in memory
    /// at a time.
    pub(super) fn in_files(
        vfs: Arc<dyn Vfs>,
        directory: &Path,
        keys_max: usize,
        records_max: u64,
    ) -> io::Result<Self> {
        // Fingerprints are spread evenly, but not exactly so.
        let spread = (keys_max as u64 - keys_max as u64 / 8).max(1);
        let count = records_max.div_ceil(spread).clamp(1, FILES_MAX);
        let mut files = Files { vfs, all: Vec::new(), at: 0, position: 0 };
        for index in 0..count {
            let path = directory.join(format!("{PREFIX}{index:03}{ENDING}"));
            // What an earlier run left.
            let _ = files.vfs.remove_file(&path);
            let file = files.vfs.create(&path)?;
            files.all.push(KeyFile { path, file, length: 0, buffer: Vec::new() });
        }
        Ok(Self { files: Some(files), ..Self::in_memory(keys_max) })
    }

    /// Number of records so far.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Takes note of the next record. One without a key is the last of its own.
    pub(super) fn note(&mut self, key: Option<&[u8]>) -> io::Result<Room> {
        if self.count == limits::COMPACTION_RECORDS_MAX {
            return Ok(Room::TooManyRecords);
        }
        let number = self.count;
        if let Some(key) = key {
            let fingerprint = self.fingerprint(key);
            if let Some(files) = &mut self.files {
                files.put(fingerprint, number)?;
            } else if !self.supersede(fingerprint, number) {
                return Ok(Room::TooManyKeys);
            }
        }
        self.count += 1;
        // Beside what was superseded before it was noted.
        self.set(number, true);
        Ok(Room::Enough)
    }

    /// Looks at some of the keys in files, and says how many bytes that were; `None` if all are known.
    pub(super) fn sort(&mut self) -> io::Result<Option<u64>> {
        let Some(files) = &mut self.files else {
            self.last_of = LastOf::default();
            return Ok(None);
        };
        let Some(entries) = files.take()? else {
            self.last_of = LastOf::default();
            self.files = None;
            return Ok(None);
        };
        if files.position == entries.len() as u64 {
            // The first ones of a file, which has no key of another.
            self.last_of.clear();
        }
        for entry in entries.chunks_exact(ENTRY_BYTES) {
            let field = |at: usize| {
                let bytes = entry.get(at * 4..).and_then(<[u8]>::first_chunk);
                u32::from_le_bytes(*bytes.expect("an entry has five"))
            };
            let fingerprint = Fingerprint([field(0), field(1), field(2), field(3)]);
            if let Some(before) = self.last_of.insert(fingerprint, field(4)) {
                self.set(before, false);
            }
        }
        Ok(Some(entries.len() as u64))
    }

    /// Whether a record is the last of its key, or has none.
    pub(super) fn is_last(&self, number: u32) -> bool {
        let word = self.is_last.get(number as usize / 64).copied().unwrap_or(0);
        word >> (number % 64) & 1 == 1
    }

    /// How many records of a span are.
    pub(super) fn count_last(&self, span: Span) -> u32 {
        (span.first..span.first + span.count).filter(|number| self.is_last(*number)).count() as u32
    }

    /// What to say of an error of the files.
    pub(super) fn failed(&self, error: io::Error) -> CompactionError {
        let path = self.files.as_ref().and_then(|files| files.all.first());
        failed(path.map_or(Path::new("keys"), |file| &file.path), error)
    }

    /// Takes note that a record is the last of its key so far; false if there are too many keys.
    fn supersede(&mut self, fingerprint: Fingerprint, number: u32) -> bool {
        if let Some(last) = self.last_of.get_mut(&fingerprint) {
            let before = std::mem::replace(last, number);
            self.set(before, false);
            return true;
        }
        if self.last_of.len() >= self.in_memory_max {
            return false;
        }
        self.last_of.insert(fingerprint, number);
        true
    }

    fn set(&mut self, number: u32, is_last: bool) {
        let (word, bit) = (number as usize / 64, 1u64 << (number % 64));
        if self.is_last.len() <= word {
            self.is_last.resize(word + 1, 0);
        }
        if let Some(word) = self.is_last.get_mut(word) {
            *word = if is_last { *word | bit } else { *word & !bit };
        }
    }

    fn fingerprint(&self, key: &[u8]) -> Fingerprint {
        let [a, b] = &self.secrets;
        let (a, b) = (a.hash_one(key), b.hash_one(key));
        Fingerprint([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32])
    }
}

/// Whether a file is one into which a compaction sorts keys.
pub(crate) fn is_key_file(name: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(ENDING)
}

impl Files {
    fn put(&mut self, Fingerprint(parts): Fingerprint, number: u32) -> io::Result<()> {
        // Not the bits that a map looks at first.
        let at = ((u64::from(parts[3]) * self.all.len() as u64) >> 32) as usize;
        let file = self.all.get_mut(at).expect("the product is below the number of files");
        for field in parts.into_iter().chain([number]) {
            file.buffer.extend_from_slice(&field.to_le_bytes());
        }
        if file.buffer.len() >= BUFFER_BYTES { file.flush() } else { Ok(()) }
    }

    /// The next entries; `None` behind the last file.
    fn take(&mut self) -> io::Result<Option<bytes::Bytes>> {
        while let Some(file) = self.all.get_mut(self.at) {
            file.flush()?;
            if self.position == 0 && file.length > 0 || self.position < file.length {
                let wanted = (file.length - self.position).min(READ_BYTES as u64);
                let bytes = read_bytes(file.file.as_ref(), self.position, wanted as usize)?;
                if bytes.len() as u64 != wanted {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.position += wanted;
                return Ok(Some(bytes));
            }
            (self.at, self.position) = (self.at + 1, 0);
        }
        Ok(None)
    }
}

impl KeyFile {
    fn flush(&mut self) -> io::Result<()> {
        let written = write_full(self.file.as_ref(), self.length, &self.buffer);
        written.map_err(|(_, error)| error)?;
        self.length += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for file in &self.all {
            // If it stays, the next opening of the log removes it.
            let _ = self.vfs.remove_file(&file.path);
        }
    }
}

impl std::hash::Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, ..] = self.0;
        state.write_u64(u64::from(a) | u64::from(b) << 32);
    }
}

/// Takes the first bits of a fingerprint as they are: they are as good as any.
#[derive(Clone, Copy, Debug, Default)]
struct FirstBits(u64);

impl Hasher for FirstBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, bits: u64) {
        self.0 = bits;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are hashed");
    }
}
