//! A change to one file that no broker made.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use taffrail_log::vfs::{Memory, Vfs};

/// A change to one file.
pub(super) struct Mutation {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    /// None at all.
    Nothing,
    /// Bits of one byte are turned over.
    Flip { position: usize, bits: u8 },
    /// Only so many bytes are left.
    Cut { length: usize },
    /// More bytes follow.
    Append { bytes: Vec<u8> },
    /// It is gone.
    Remove,
    /// Another file stands in its place.
    Replace { bytes: Vec<u8> },
}

impl Mutation {
    pub(super) fn apply(&self, memory: &Memory) -> io::Result<()> {
        let path = &self.path;
        match &self.kind {
            Kind::Nothing => Ok(()),
            Kind::Flip { position, bits } => memory.flip(path, *position, *bits),
            Kind::Cut { length } => memory.open(path)?.set_length(*length as u64),
            Kind::Append { bytes } => {
                let file = memory.open(path)?;
                file.write_at(file.length()?, bytes).map(drop)
            }
            Kind::Remove => memory.remove_file(path),
            Kind::Replace { bytes } => {
                let file = memory.open(path)?;
                file.set_length(0)?;
                file.write_at(0, bytes).map(drop)
            }
        }
    }

    /// Whether it is one of the two files that say what producers have sent.
    pub(super) fn is_of_producers(&self) -> bool {
        self.path.file_stem().is_some_and(|stem| stem == "producers")
    }

    /// Whether bytes in this range of a file are no longer what they were.
    pub(super) fn touches(&self, path: &Path, range: &Range<usize>) -> bool {
        if path != self.path {
            return false;
        }
        match &self.kind {
            Kind::Nothing | Kind::Append { .. } => false,
            Kind::Flip { position, .. } => range.contains(position),
            Kind::Cut { length } => *length < range.end,
            Kind::Remove | Kind::Replace { .. } => true,
        }
    }
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.kind {
            Kind::Nothing => write!(f, "nothing is changed"),
            Kind::Flip { position, bits } => {
                write!(f, "bits {bits:#04x} of byte {position} of {path}")
            }
            Kind::Cut { length } => write!(f, "{path} cut at byte {length}"),
            Kind::Append { bytes } => write!(f, "{} bytes behind {path}", bytes.len()),
            Kind::Remove => write!(f, "{path} is gone"),
            Kind::Replace { .. } => write!(f, "another file in the place of {path}"),
        }
    }
}
