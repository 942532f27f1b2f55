//! What can be asked of queues, and what is answered.

use std::time::Duration;

use super::copies::{CopyEnd, WantedCopies};
use super::event::{CopiesId, Span, Start, Topic};
use super::policy::Policy;

/// What can be asked of a queue.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) queue: String,
    /// The number of the queue that is meant, where that matters: another one may have its name.
    pub(crate) number: Option<u64>,
    pub(crate) kind: CommandKind,
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum CommandKind {
    /// A queue of this name.
    Create { topic: Topic, policy: Policy, starts: Vec<Start> },
    /// To work differently from now on.
    Alter { policy: Policy },
    /// To look at more partitions.
    Grow { starts: Vec<Start> },
    /// The end of the queue.
    Delete,
    /// Records for somebody to work on.
    Lease(Lease),
    /// What has become of records that somebody worked on.
    Settle(Vec<Settlement>),
    /// To try parked records again.
    Redrive { partition: u32, spans: Vec<Span> },
    /// To forget parked records.
    Discard { partition: u32, spans: Vec<Span> },
    /// To try what nobody works on, up to an end, no more.
    GiveUp { looked: LookedThrough, reason: &'static str },
    /// To copy parked records to a dead-letter topic, where nobody else appends as this producer.
    Copy { topic: Topic, producer: u64, wanted: Vec<WantedCopies> },
    /// To go on as of a backup.
    Restore { at_ms: i64 },
    /// What has become of copies.
    EndCopies(Vec<(CopiesId, CopyEnd)>),
}

/// Records for somebody to work on; those that somebody has, or that are done, are left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lease {
    pub(crate) partition: u32,
    /// How far the partition was looked through; what it holds up to there and is not among `offsets` is
    /// for another time.
    pub(crate) end: u64,
    /// Offsets up to there that hold no record.
    pub(crate) missing: Vec<Span>,
    /// Ascending.
    pub(crate) offsets: Vec<u64>,
}

/// What there is of a partition up to an end.
#[derive(Clone, Debug, Default)]
pub(crate) struct LookedThrough {
    pub(crate) partition: u32,
    /// Where it begins.
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Of what was not known before: offsets that hold no record, and those that do, ascending.
    pub(crate) missing: Vec<Span>,
    pub(crate) offsets: Vec<u64>,
}

/// What has become of a record that somebody worked on.
#[derive(Clone, Debug)]
pub(crate) struct Settlement {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) lease: u64,
    pub(crate) verdict: Verdict,
}

/// What somebody says of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is done.
    Acknowledge,
    /// It failed: to be tried again, after this time or the one that the policy has.
    Retry { delay: Option<Duration> },
    /// It was not tried.
    Release,
    /// There is no use in trying it again.
    Reject { reason: Box<str> },
    /// The time is over.
    Expire,
}

/// What is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) leased: Leased,
    /// For each settlement.
    pub(crate) settled: Vec<Result<Settled, SettleRefusal>>,
    /// Parked records that were redriven or discarded.
    pub(crate) spans: Vec<Span>,
}

/// Records that somebody has from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leased {
    pub(crate) lease: u64,
    /// Each with the number of its attempt.
    pub(crate) records: Vec<(u64, u32)>,
    /// Those that are leased already, and how.
    pub(crate) held: Vec<(u64, u64)>,
    /// So many are parked that none can be had now.
    pub(crate) is_full: bool,
}

/// What a settled record is from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Done.
    Done,
    /// To be tried again at once.
    Ready,
    /// To be tried again after this time.
    Delayed(Duration),
    /// Parked.
    Parked,
}

/// Why a settlement does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettleRefusal {
    /// The time of the lease is over, or it was given up: the record is, or may be, another's.
    #[error(
        "the lease has ended: the record is to be tried again, or is another's; undo what was done"
    )]
    LeaseExpired,
    /// The record is done or parked.
    #[error("the record is settled already: nothing is left to do")]
    AlreadySettled,
    /// No lease of this queue.
    #[error(
        "this queue has given out no such acknowledgement id: send it to the queue it came from"
    )]
    Unknown,
}

/// Why a queue refuses something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "what each says is its documentation")]
pub enum QueueRefusal {
    #[error("there is no queue {queue:?}: create it first")]
    UnknownQueue { queue: String },
    #[error("there is a queue {queue:?} already: alter it, or take another name")]
    Exists { queue: String },
    #[error("there are as many queues as there can be, {max}: delete those that nobody needs")]
    Full { max: usize },
}
