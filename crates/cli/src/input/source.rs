//! Reads files or standard input in large chunks that end where a record ends.
//!
//! Invariant: a chunk holds whole records only, and belongs to one source. A thread reads ahead by a
//! few chunks, so that a slow pipe never holds up what is being sent.

use std::io::{self, BufRead as _, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks read ahead.
const CHUNKS_AHEAD: usize = 8;
/// Bytes of one record; more is not a line but a mistake.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// Where records come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Stdin,
    File(PathBuf),
}

/// Whole records of one source, each ended by the delimiter but perhaps the last.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) source: Arc<str>,
    /// Number of the chunk's first record in its source, from 1.
    pub(crate) first_line: u64,
    delimiter: u8,
    bytes: Vec<u8>,
}

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("cannot read {source_name}")]
    Io {
        source_name: Arc<str>,
        #[source]
        cause: io::Error,
    },
    #[error(
        "{source_name}:{line}: no record ends within {} MiB: is the --format right?",
        RECORD_BYTES_MAX >> 20
    )]
    TooLong { source_name: Arc<str>, line: u64 },
}

impl Source {
    fn name(&self) -> Arc<str> {
        match self {
            Self::Stdin => "standard input".into(),
            Self::File(path) => path.display().to_string().into(),
        }
    }

    fn reader(&self) -> io::Result<Box<dyn Read>> {
        match self {
            Self::Stdin => Ok(Box::new(io::stdin())),
            Self::File(path) => open_file(path),
        }
    }

    /// Bytes it holds, if that is known before reading.
    pub(crate) fn known_bytes(&self) -> Option<u64> {
        match self {
            Self::Stdin => None,
            Self::File(path) => {
                let metadata = std::fs::metadata(path).ok()?;
                metadata.is_file().then_some(metadata.len())
            }
        }
    }
}

#[expect(clippy::disallowed_types, reason = "the user's own files, not the broker's")]
fn open_file(path: &Path) -> io::Result<Box<dyn Read>> {
    Ok(Box::new(std::fs::File::open(path)?))
}

/// Begins to read `sources` one after the other.
pub(crate) fn open(
    sources: Vec<Source>,
    delimiter: u8,
) -> mpsc::Receiver<Result<Chunk, ReadError>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    // Not joined: blocked on a terminal it would hold up the end of the program.
    std::thread::spawn(move || {
        for source in sources {
            let name = source.name();
            let read = match source.reader() {
                Ok(reader) => {
                    let framer = Framer { name, delimiter, line: 1, rest: Vec::new() };
                    framer.read_all(reader, &sender)
                }
                Err(cause) => Err(ReadError::Io { source_name: name, cause }),
            };
            match read {
                Ok(Listening::Yes) => {}
                Ok(Listening::No) => return,
                Err(error) => {
                    // Nobody listens: nobody needs to know.
                    drop(sender.blocking_send(Err(error)));
                    return;
                }
            }
        }
    });
    receiver
}

/// Whether somebody still takes the chunks.
enum Listening {
    Yes,
    No,
}

/// Cuts what is read behind the last whole record.
struct Framer {
    name: Arc<str>,
    delimiter: u8,
    line: u64,
    /// The beginning of a record whose end was not read yet.
    rest: Vec<u8>,
}

impl Framer {
    fn read_all(
        mut self,
        mut reader: Box<dyn Read>,
        chunks: &mpsc::Sender<Result<Chunk, ReadError>>,
    ) -> Result<Listening, ReadError> {
        loop {
            let mut bytes = std::mem::take(&mut self.rest);
            let begun = bytes.len();
            let read = read_some(&mut reader, &mut bytes);
            let read =
                read.map_err(|cause| ReadError::Io { source_name: self.name.clone(), cause })?;
            if read == 0 {
                return Ok(self.send(bytes, chunks));
            }
            let fresh = bytes.get(begun..).unwrap_or_default();
            match fresh.iter().rposition(|byte| *byte == self.delimiter) {
                Some(last) => {
                    self.rest = bytes.split_off(begun + last + 1);
                    if let Listening::No = self.send(bytes, chunks) {
                        return Ok(Listening::No);
                    }
                }
                None if bytes.len() > RECORD_BYTES_MAX => {
                    return Err(ReadError::TooLong { source_name: self.name, line: self.line });
                }
                None => self.rest = bytes,
            }
        }
    }

    fn send(
        &mut self,
        bytes: Vec<u8>,
        chunks: &mpsc::Sender<Result<Chunk, ReadError>>,
    ) -> Listening {
        if bytes.is_empty() {
            return Listening::Yes;
        }
        let source = Arc::clone(&self.name);
        let chunk = Chunk { source, first_line: self.line, delimiter: self.delimiter, bytes };
        self.line += chunk.records().count() as u64;
        match chunks.blocking_send(Ok(chunk)) {
            Ok(()) => Listening::Yes,
            Err(_) => Listening::No,
        }
    }
}

/// Reads once, up to a chunk, behind what is there. A pipe's small writes come through at once.
fn read_some(reader: &mut dyn Read, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let begun = bytes.len();
    bytes.resize(begun + CHUNK_BYTES, 0);
    let read = loop {
        match reader.read(&mut bytes[begun..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other,
        }
    };
    bytes.truncate(begun + read.as_ref().copied().unwrap_or(0));
    read
}

impl Chunk {
    /// Its records, without their delimiters.
    pub(crate) fn records(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let mut cursor = rest;
            // Reading from a slice cannot fail.
            let length = cursor.skip_until(self.delimiter).unwrap_or(rest.len());
            let (record, others) = rest.split_at(length);
            rest = others;
            Some(record.strip_suffix(&[self.delimiter]).unwrap_or(record))
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Yields a few bytes at a time.
    struct Trickle(&'static [u8]);

    impl Read for Trickle {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.0.len().min(3).min(buffer.len());
            let (now, later) = self.0.split_at(length);
            buffer[..length].copy_from_slice(now);
            self.0 = later;
            Ok(length)
        }
    }

    #[track_caller]
    fn check(input: &'static [u8], delimiter: u8, expected: &[(u64, &str)]) {
        let (sender, mut receiver) = mpsc::channel(1_000);
        let framer = Framer { name: "x".into(), delimiter, line: 1, rest: Vec::new() };
        let read = framer.read_all(Box::new(Trickle(input)), &sender);
        assert!(matches!(read, Ok(Listening::Yes)));
        let mut records = Vec::new();
        while let Ok(chunk) = receiver.try_recv() {
            let chunk = chunk.expect("read");
            for (index, record) in chunk.records().enumerate() {
                let line = chunk.first_line + index as u64;
                records.push((line, String::from_utf8_lossy(record).into_owned()));
            }
        }
        let expected: Vec<_> = expected.iter().map(|(n, text)| (*n, (*text).to_owned())).collect();
        assert_eq!(records, expected);
    }

    #[test]
    fn records_are_cut_at_delimiters_however_they_are_read() {
        check(b"", b'\n', &[]);
        check(b"one", b'\n', &[(1, "one")]);
        check(b"one\ntwo\n", b'\n', &[(1, "one"), (2, "two")]);
        check(b"\n\na long line\nx", b'\n', &[(1, ""), (2, ""), (3, "a long line"), (4, "x")]);
        check(b"a\nb\0c", 0, &[(1, "a\nb"), (2, "c")]);
    }
}
