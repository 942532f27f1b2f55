//! How far looking at everything has come, in a small file, so that a restart goes on with it.
//!
//! ```text
//! magic 8 | next log 16 | pass that is going on 40 | last pass 40 | crc 4
//! pass: began 8 | ended 8 | segments 8 | bytes 8 | damaged 8
//! ```
//!
//! All little-endian; a pass that began in 1970 is none. What it says is for people, and for when to begin:
//! if it is damaged or missing, nothing was looked at.

use std::path::Path;

use taffrail_model::{LogId, Timestamp};

use crate::vfs::{Vfs, read_file};

/// The file's name in the data directory.
pub(crate) const NAME: &str = "scrub";
/// What it begins with.
const MAGIC: [u8; 8] = *b"TAFFSCR1";
const PASS_BYTES: usize = 40;
const FILE_BYTES: usize = 8 + LogId::BYTES + 2 * PASS_BYTES + 4;

/// How far looking at everything has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubState {
    /// The pass that is going on, and the log that is next in it.
    pub current: Option<(ScrubPass, LogId)>,
    /// The last one that came to its end.
    pub last: Option<ScrubPass>,
}

/// One look at everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubPass {
    /// When it began.
    pub began: Timestamp,
    /// When it ended; 1970 before that.
    pub ended: Timestamp,
    /// Segments that were read.
    pub segments: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Places that are damaged, or could not be read.
    pub damaged: u64,
}

impl ScrubState {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FILE_BYTES);
        let (current, next) = self.current.unwrap_or((ScrubPass::default(), LogId::new([0; 16])));
        bytes.extend(MAGIC);
        bytes.extend(next.bytes());
        current.encode(&mut bytes);
        self.last.unwrap_or_default().encode(&mut bytes);
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }
}

impl ScrubPass {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.began.as_millis().to_le_bytes());
        bytes.extend(self.ended.as_millis().to_le_bytes());
        for number in [self.segments, self.bytes, self.damaged] {
            bytes.extend(number.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let field = |at: usize| Some(u64::from_le_bytes(*bytes.get(at * 8..)?.first_chunk()?));
        let moment = |at: usize| Some(Timestamp::from_millis(field(at)? as i64));
        let (began, ended) = (moment(0)?, moment(1)?);
        Some(Self { began, ended, segments: field(2)?, bytes: field(3)?, damaged: field(4)? })
    }

    fn if_begun(self) -> Option<Self> {
        (self.began != Timestamp::default()).then_some(self)
    }
}

/// What the file in a data directory says; nothing if it is not there, or damaged.
pub(crate) fn load(vfs: &dyn Vfs, directory: &Path) -> ScrubState {
    let read = read_file(vfs, &directory.join(NAME), FILE_BYTES as u64);
    read.ok().and_then(|bytes| decode(&bytes)).unwrap_or_default()
}

fn decode(bytes: &[u8]) -> Option<ScrubState> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if bytes.len() != FILE_BYTES || crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let body = body.strip_prefix(&MAGIC)?;
    let (next, passes) = body.split_first_chunk::<{ LogId::BYTES }>()?;
    let (current, last) = passes.split_at_checked(PASS_BYTES)?;
    let current = ScrubPass::decode(current)?.if_begun();
    let last = ScrubPass::decode(last)?.if_begun();
    Some(ScrubState { current: current.map(|pass| (pass, LogId::new(*next))), last })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_state_is_not_believed() {
        let began = Timestamp::from_millis(5);
        let pass =
            ScrubPass { began, segments: 7, bytes: 1 << 40, damaged: 1, ..Default::default() };
        let last = ScrubPass { ended: Timestamp::from_millis(9), ..pass };
        let next = LogId::new(*b"sixteen bytes id");
        for state in [
            ScrubState::default(),
            ScrubState { current: Some((pass, next)), last: None },
            ScrubState { current: None, last: Some(last) },
        ] {
            let bytes = state.encode();
            assert_eq!(decode(&bytes), Some(state));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(decode(&flipped), None, "bit {bit} went unnoticed");
            }
        }
    }
}
