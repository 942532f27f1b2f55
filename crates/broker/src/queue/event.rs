//! The facts that are persisted of queues. They only ever grow: fields that are added have a default.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::policy::Policy;

/// Something that happened to a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) queue: String,
    #[serde(flatten)]
    pub(crate) kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum EventKind {
    /// The queue is there, with a number that no other one has had.
    Created { number: u64, topic: Topic, policy: Policy, starts: Vec<Start>, at_ms: i64 },
    /// It works differently from now on; what is leased or delayed stays so.
    Altered { policy: Policy },
    /// It has more partitions.
    Grown { starts: Vec<Start> },
    /// Somebody works on these offsets, one attempt more for each. The partition was looked through up to
    /// `end`: what lies before that and is not there is settled.
    Leased { partition: u32, lease: u64, end: u64, missing: Vec<Span>, spans: Vec<Span> },
    /// These are done.
    Acknowledged { partition: u32, spans: Vec<Span> },
    /// Nobody has tried these after all.
    Released { partition: u32, spans: Vec<Span> },
    /// These are to be tried again: after this time, or at once.
    Retried {
        partition: u32,
        spans: Vec<Span>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delay: Option<Delay>,
    },
    /// These are not tried any more, and kept for a person to look at.
    Parked { partition: u32, spans: Vec<Span>, reason: String, at_ms: i64 },
    /// These are not tried any more, whoever works on the queue. The partition was looked through up to `end`:
    /// what lies before that and is not there is settled.
    GivenUp {
        partition: u32,
        end: u64,
        missing: Vec<Span>,
        spans: Vec<Span>,
        reason: String,
        at_ms: i64,
    },
    /// These are parked no more, and tried from the first attempt on.
    Redriven { partition: u32, spans: Vec<Span> },
    /// These are parked no more, and done.
    Discarded { partition: u32, spans: Vec<Span> },
    /// These, all of them parked, are being copied to a partition of the dead-letter topic, which ended at
    /// `from` or behind it.
    Copying { id: CopiesId, topic: Topic, from: u64, places: Vec<Places> },
    /// What was being copied there is, and is parked no more.
    Copied { id: CopiesId },
    /// What was being copied there is not, and stays parked.
    NotCopied { id: CopiesId },
    /// There is no such queue any more.
    Deleted,
    /// What is known of all queues is that of a backup from then: nobody knows what was leased since.
    Restored { at_ms: i64 },
}

/// A topic, whatever it is called: the one that is made again under the same name is another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) id: String,
}

/// Where a queue begins in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
}

/// A batch of copies, as the log knows it that it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CopiesId {
    pub(crate) producer: u64,
    /// The partition of the dead-letter topic.
    pub(crate) partition: u32,
    pub(crate) sequence: u32,
}

/// A time to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Delay {
    /// Until then, by the clock of the day.
    pub(crate) until_ms: i64,
    /// How long that was when it began.
    pub(crate) ms: u64,
}

impl Delay {
    /// What is left of it: however far the clock was set back since, not more than there was.
    pub(crate) fn rest(self, now_ms: i64) -> Duration {
        let rest_ms = u64::try_from(self.until_ms.saturating_sub(now_ms)).unwrap_or(0);
        Duration::from_millis(rest_ms.min(self.ms))
    }
}

/// Records of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Places {
    pub(crate) partition: u32,
    pub(crate) spans: Vec<Span>,
}

/// Offsets that lie behind one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Span(pub(crate) u64, pub(crate) u64);

impl Span {
    /// Ascending offsets, gathered.
    pub(crate) fn gather(offsets: impl IntoIterator<Item = u64>) -> Vec<Self> {
        let mut spans: Vec<Self> = Vec::new();
        for offset in offsets {
            match spans.last_mut() {
                Some(last) if last.1 == offset => last.1 += 1,
                _ => spans.push(Self(offset, offset + 1)),
            }
        }
        spans
    }

    pub(crate) fn offsets(self) -> std::ops::Range<u64> {
        self.0..self.1
    }
}
