//! Reads what no longer changes once more, so that rot is found before somebody needs what has rotted.
//!
//! Past the page cache where that can be: what counts is what the disk returns. In small steps, so that
//! whoever does it says how fast. What is found is known to the log from then on, as if it had been read;
//! nothing is changed.
//! Deliberately absent: when, and how fast.

mod state;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use taffrail_model::{Offset, limits};

use crate::damage::Damage;
use crate::reader::LogReader;
use crate::segment::{HEADER_BYTES_MAX, Scanned, Scanner, SealedSegment, decode_header};
use crate::shared::Shared;
use crate::vfs::{File, read_bytes};

pub(crate) use state::NAME;
pub(crate) use state::load;
pub use state::{ScrubPass, ScrubState};

/// A look at the sealed segments of a log, which is going on.
#[derive(Debug)]
pub struct Scrub {
    shared: Arc<Shared>,
    /// Not kept alive: what takes their place frees the disk of them.
    segments: std::vec::IntoIter<Weak<SealedSegment>>,
    current: Option<Current>,
}

/// The segment that is looked at.
#[derive(Debug)]
struct Current {
    segment: Arc<SealedSegment>,
    scanner: Scanner,
    /// The offset behind the last batch, or behind what is damaged.
    reached: Offset,
}

/// What a step found.
#[derive(Debug)]
pub enum ScrubStep {
    /// So much was read, and is sound.
    Sound {
        /// Bytes.
        bytes: u64,
        /// Segments of which this was the end.
        segments: u64,
    },
    /// Something is damaged.
    Damaged(Damage),
    /// A segment could not be read, or not to its end.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// That was all.
    Done,
}

impl LogReader {
    /// Begins to look at the segments that no longer change.
    pub fn begin_scrub(&self) -> Scrub {
        let segments: Vec<_> = self.segments().sealed.iter().map(Arc::downgrade).collect();
        let segments = segments.into_iter();
        Scrub { shared: Arc::clone(self.shared()), segments, current: None }
    }
}

impl Scrub {
    /// Looks at a little: some MiB at the most.
    pub fn step(&mut self) -> ScrubStep {
        match &mut self.current {
            None => match self.segments.next() {
                None => ScrubStep::Done,
                Some(segment) => match segment.upgrade() {
                    Some(segment) => self.begin(segment),
                    None => ScrubStep::sound(),
                },
            },
            Some(current) => match current.step() {
                Ok(Looked::Sound { bytes, is_over }) => {
                    if is_over {
                        self.current = None;
                    }
                    ScrubStep::Sound { bytes, segments: is_over.into() }
                }
                Ok(Looked::Damaged(damage)) => self.found(damage),
                Err(error) => self.failed(error),
            },
        }
    }

    fn begin(&mut self, segment: Arc<SealedSegment>) -> ScrubStep {
        let opened = segment.open_uncached().and_then(|file| {
            let bytes = read_bytes(file.as_ref(), 0, HEADER_BYTES_MAX)?;
            Ok((file, decode_header(&bytes)))
        });
        let (base, path) = (segment.header.base_offset, segment.path.clone());
        let (file, header): (Arc<dyn File>, _) = match opened {
            Ok(opened) => opened,
            // It was deleted, or another one stands for it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return ScrubStep::sound(),
            Err(source) => return ScrubStep::Unreadable { path, source },
        };
        let (length, position) = (segment.length, segment.header_bytes);
        let scanner = Scanner::new(file, &segment.header, length, position, base);
        let cause = match header {
            Ok((header, _)) if header == segment.header => None,
            Ok(_) => Some("its header is another one than when it was opened".to_owned()),
            Err(cause) => Some(cause.to_string()),
        };
        self.current = Some(Current { segment, scanner, reached: base });
        match cause {
            // No record is lost with it, as long as it is known what it said.
            Some(cause) => self.found(Damage { from: base, to: base, path, position: 0, cause }),
            None => ScrubStep::sound(),
        }
    }

    fn found(&mut self, damage: Damage) -> ScrubStep {
        if !self.is_current() {
            self.current = None;
            return ScrubStep::sound();
        }
        if damage.from < damage.to {
            self.shared.damage.note(damage.from, damage.to);
        }
        ScrubStep::Damaged(damage)
    }

    fn failed(&mut self, source: io::Error) -> ScrubStep {
        let is_current = self.is_current();
        match self.current.take() {
            Some(Current { segment, .. }) if is_current => {
                ScrubStep::Unreadable { path: segment.path.clone(), source }
            }
            _ => ScrubStep::sound(),
        }
    }

    /// Whether the log still has the segment that is looked at.
    fn is_current(&self) -> bool {
        let segments = self.shared.segments.load();
        let has =
            |current: &Current| segments.sealed.iter().any(|it| Arc::ptr_eq(it, &current.segment));
        self.current.as_ref().is_some_and(has)
    }
}

impl ScrubStep {
    /// There was nothing to read.
    fn sound() -> Self {
        Self::Sound { bytes: 0, segments: 0 }
    }
}

/// What a look at a segment found.
enum Looked {
    Sound { bytes: u64, is_over: bool },
    Damaged(Damage),
}

impl Current {
    fn step(&mut self) -> io::Result<Looked> {
        let mut bytes = 0;
        while bytes < limits::SCRUB_STEP_BYTES {
            match self.scanner.next()? {
                Some(Scanned::Batch { header, .. }) => {
                    bytes += header.total_bytes() as u64;
                    self.reached = header.end_offset();
                }
                Some(Scanned::Hole(hole)) => {
                    let to = hole.to.unwrap_or(self.segment.end_offset.max(hole.from));
                    self.reached = to;
                    let (path, position, cause) =
                        (self.segment.path.clone(), hole.position, hole.cause);
                    return Ok(Looked::Damaged(Damage {
                        from: hole.from,
                        to,
                        path,
                        position,
                        cause,
                    }));
                }
                None => return Ok(self.end(bytes)),
            }
        }
        Ok(Looked::Sound { bytes, is_over: false })
    }

    /// What is missing at its end.
    fn end(&mut self, bytes: u64) -> Looked {
        let (from, to) = (self.reached, self.segment.end_offset);
        if to <= from || self.segment.header.compacted.is_some() {
            return Looked::Sound { bytes, is_over: true };
        }
        self.reached = to;
        let (path, position) = (self.segment.path.clone(), self.segment.length);
        Looked::Damaged(Damage {
            from,
            to,
            path,
            position,
            cause: "the file ends too early".into(),
        })
    }
}
