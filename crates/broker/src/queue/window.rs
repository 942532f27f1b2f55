//! What has become of the records of a partition: pure.

use serde::{Deserialize, Serialize};

use super::event::{Delay, EventKind, Span};
use super::offset_map::OffsetMap;
use super::runs::Runs;

/// What has become of the records of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Window {
    /// All before them is settled, all behind them was never looked at.
    pub(super) runs: Runs<Status>,
    pub(super) parked: OffsetMap<Parked>,
}

/// What a record is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// To be tried, after so many attempts.
    Ready { attempts: u32 },
    /// Being tried, for the so-many-eth time.
    Leased { attempts: u32, lease: u64 },
    /// To be tried again after this time.
    Delayed { attempts: u32, delay: Delay },
    /// Done, parked, or not there.
    Settled,
}

/// Why a record is not tried any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Parked {
    pub(crate) attempts: u32,
    pub(crate) reason: Box<str>,
    pub(crate) at_ms: i64,
}

impl Window {
    pub(super) const fn new(start: u64) -> Self {
        Self { runs: Runs::new(start), parked: OffsetMap::new() }
    }

    pub(super) fn runs(&self) -> &Runs<Status> {
        &self.runs
    }

    pub(crate) fn parked(&self) -> &OffsetMap<Parked> {
        &self.parked
    }

    /// The first record that somebody may still ask for.
    pub(crate) fn needed_from(&self) -> u64 {
        let parked = self.parked.first();
        parked.map_or(self.runs.start(), |(parked, _)| parked.min(self.runs.start()))
    }

    /// Those of the offsets up to an end that may be found to hold no record: nobody has them.
    pub(super) fn missing(&self, Span(from, to): Span, end: u64) -> Vec<Span> {
        let (known, to) = (self.runs.end(), to.min(end));
        let old = self.runs.within(from..to.min(known));
        let old = old.filter(|(_, it)| matches!(it, Status::Ready { .. } | Status::Delayed { .. }));
        let mut missing: Vec<_> = old.map(|(part, _)| Span(part.start, part.end)).collect();
        if known < to {
            missing.push(Span(from.max(known), to));
        }
        missing
    }

    pub(super) fn forget_parked(&mut self, spans: &[Span]) {
        for offset in spans.iter().flat_map(|span| span.offsets()) {
            self.parked.remove(offset);
        }
    }

    /// Changes what each of these is, and forgets what is settled before all else.
    pub(super) fn change(&mut self, spans: &[Span], change: impl Fn(Status) -> Status) {
        for span in spans {
            let range = span.offsets();
            let parts: Vec<_> = self.runs.within(range).map(|(part, it)| (part, *it)).collect();
            for (part, status) in parts {
                self.runs.set(part, change(status));
            }
        }
        self.runs.trim(&Status::Settled);
    }

    /// Takes note of what lies before an end: what is missing is settled, the rest is to be tried.
    pub(super) fn look_through(&mut self, end: u64, missing: Vec<Span>) {
        let known = self.runs.end();
        self.runs.set(known..end.max(known), Status::Ready { attempts: 0 });
        for span in missing {
            self.runs.set(span.offsets(), Status::Settled);
        }
    }

    pub(super) fn park(&mut self, spans: &[Span], reason: &str, at_ms: i64) {
        for offset in spans.iter().flat_map(|span| span.offsets()) {
            let attempts = self.runs.get(offset).map_or(0, |status| status.attempts());
            self.parked.insert(offset, Parked { attempts, reason: reason.into(), at_ms });
        }
        self.change(spans, |_| Status::Settled);
    }

    pub(super) fn apply(&mut self, kind: EventKind) {
        match kind {
            EventKind::Leased { lease, end, missing, spans, .. } => {
                self.look_through(end, missing);
                self.change(&spans, |status| Status::Leased {
                    attempts: status.attempts() + 1,
                    lease,
                });
            }
            EventKind::Acknowledged { spans, .. } => self.change(&spans, |_| Status::Settled),
            EventKind::Released { spans, .. } => self.change(&spans, |status| Status::Ready {
                attempts: status.attempts().saturating_sub(1),
            }),
            EventKind::Retried { spans, delay, .. } => self.change(&spans, |status| {
                let attempts = status.attempts();
                match delay {
                    Some(delay) => Status::Delayed { attempts, delay },
                    None => Status::Ready { attempts },
                }
            }),
            EventKind::Parked { spans, reason, at_ms, .. } => self.park(&spans, &reason, at_ms),
            EventKind::GivenUp { end, missing, spans, reason, at_ms, .. } => {
                self.look_through(end, missing);
                self.park(&spans, &reason, at_ms);
            }
            EventKind::Redriven { spans, .. } => {
                self.forget_parked(&spans);
                for span in spans {
                    let start = self.runs.start();
                    self.runs.set(span.1.min(start)..start, Status::Settled);
                    self.runs.set(span.offsets(), Status::Ready { attempts: 0 });
                }
            }
            EventKind::Discarded { spans, .. } => self.forget_parked(&spans),
            EventKind::Created { .. }
            | EventKind::Altered { .. }
            | EventKind::Grown { .. }
            | EventKind::Copying { .. }
            | EventKind::Copied { .. }
            | EventKind::NotCopied { .. }
            | EventKind::Restored { .. }
            | EventKind::Deleted => {}
        }
    }
}

impl Status {
    /// How often it was tried, if that counts.
    pub(crate) const fn attempts(self) -> u32 {
        match self {
            Self::Ready { attempts }
            | Self::Leased { attempts, .. }
            | Self::Delayed { attempts, .. } => attempts,
            Self::Settled => 0,
        }
    }
}
