//! What a log need not keep: whole segments, by their age and by how much there is.
//!
//! The plan is pure; the one thing that may have to be looked up is when a segment's last batch was
//! appended, and only where the times at which segments were made leave that open.
//! Deliberately absent: the deletion itself, and the clock.

use std::time::Duration;

use taffrail_model::{Offset, Timestamp};

use crate::reader::{LogReader, Source};
use crate::shared::Segments;

/// How long, and how much, a log is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// A segment goes this long after its last batch was appended.
    pub age: Option<Duration>,
    /// The oldest segment goes while there are as many bytes without it.
    pub bytes: Option<u64>,
}

/// What a log need not keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Nothing below this.
    pub before: Offset,
    /// When to ask again, where ages were looked at: before that nothing more will be too old.
    pub next: Option<Timestamp>,
}

impl LogReader {
    /// What need not be kept at `now`; without a time, ages are not looked at. All of the log may be too
    /// old, the active segment included.
    ///
    /// May wait for the disk, where a segment has to be looked at: one at the most that is kept.
    pub fn expired(&self, retention: &Retention, now: Option<Timestamp>) -> Expired {
        let segments = self.segments();
        let by_size = retention.bytes.map_or(0, |bytes| count_surplus(&segments, bytes));
        let (count, next) = match retention.age.zip(now) {
            Some((age, now)) => count_old(&segments, age, now, by_size),
            None => (by_size, None),
        };
        let (active, sealed) = (&segments.active, segments.sealed.len());
        let before = match segments.sealed.get(count) {
            _ if count == 0 => Offset::ZERO,
            Some(kept) => kept.header.base_offset,
            None if count == sealed => active.header.base_offset,
            None => active.written().end,
        };
        Expired { before: before.max(self.start()), next }
    }
}

/// How many segments, the active one included, are too old, of which `count` go anyway; and when the
/// next one will be.
fn count_old(
    segments: &Segments,
    age: Duration,
    now: Timestamp,
    mut count: usize,
) -> (usize, Option<Timestamp>) {
    while let Some(sealed) = segments.sealed.get(count) {
        // Whatever follows was made when, or after, its last batch was appended.
        let next = segments.sealed.get(count + 1).map(|it| &it.header);
        let next = next.unwrap_or(&segments.active.header);
        let latest = next.created;
        let last_append = match sealed.known_last_append() {
            // What cannot be read between them goes with it.
            _ if sealed.end_offset < next.base_offset => latest,
            Some(last_append) => last_append,
            None if latest.plus(age) <= now => latest,
            None if now < sealed.header.created.plus(age) => sealed.header.created,
            None => {
                let found = Source::at(segments, count).last_append();
                match found {
                    Ok(last_append) => {
                        let last_append = last_append.unwrap_or(latest);
                        sealed.note_last_append(last_append);
                        last_append
                    }
                    // What cannot be read just now is kept a little longer.
                    Err(_) => latest,
                }
            }
        };
        if now < last_append.plus(age) {
            return (count, Some(last_append.plus(age)));
        }
        count += 1;
    }
    let written = segments.active.written();
    if written.end == segments.active.header.base_offset {
        return (count, Some(now.plus(age)));
    }
    let due = written.append_time.plus(age);
    if now < due { (count, Some(due)) } else { (count + 1, Some(now.plus(age))) }
}

/// How many sealed segments there are more than are needed for so many bytes.
fn count_surplus(segments: &Segments, bytes: u64) -> usize {
    let sealed: u64 = segments.sealed.iter().map(|segment| segment.length).sum();
    let mut total = sealed + segments.active.written().position;
    let is_surplus = |length: &u64| {
        total -= length;
        bytes <= total
    };
    segments.sealed.iter().map(|segment| segment.length).take_while(is_surplus).count()
}
