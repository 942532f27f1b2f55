//! What a log's writer, syncer and readers share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwap;
use taffrail_model::{LeaderEpoch, LogId, Offset};

use crate::damage::{Damage, KnownDamage};
use crate::points::Points;
use crate::producers::Crowd;
use crate::progress::Progress;
use crate::segment::{ActiveSegment, SealedSegment, SegmentCache};
use crate::vfs::Vfs;

/// What a log's writer, syncer and readers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: LogId,
    pub(crate) path: PathBuf,
    pub(crate) label: String,
    pub(crate) epoch: LeaderEpoch,
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) cache: Arc<SegmentCache>,
    pub(crate) points: Arc<Points>,
    pub(crate) crowd: Crowd,
    pub(crate) segments: ArcSwap<Segments>,
    /// Held by whoever syncs the active segment, cuts it or replaces it: one at a time.
    pub(crate) sync: Mutex<()>,
    pub(crate) progress: Progress,
    /// Bytes of the end that stay in memory.
    tail_bytes_max: AtomicUsize,
    poison: OnceLock<String>,
    pub(crate) damage: KnownDamage,
    /// Held by whoever takes segments away.
    pub(crate) trimming: Mutex<()>,
    /// Whether a deletion may have left files of segments that the log does not have any more.
    pub(crate) has_leftovers: AtomicBool,
}

/// The files a log is made of, ascending. Replaced as a whole when a segment is sealed or
/// deleted.
#[derive(Clone, Debug)]
pub(crate) struct Segments {
    pub(crate) sealed: Vec<Arc<SealedSegment>>,
    pub(crate) active: Arc<ActiveSegment>,
    /// What opening the log found damaged or missing.
    pub(crate) lost: Vec<Damage>,
}

impl Segments {
    /// The same with the segments that begin at `first_segment` or behind it, and what is lost at
    /// `start` or behind it.
    pub(crate) fn from(&self, first_segment: Offset, start: Offset) -> Self {
        let is_kept = |it: &&Arc<SealedSegment>| first_segment <= it.header.base_offset;
        let sealed = self.sealed.iter().filter(is_kept).cloned().collect();
        let lost = self.lost.iter().filter(|lost| start < lost.to).cloned().collect();
        Self { sealed, lost, active: Arc::clone(&self.active) }
    }
}

impl Segments {
    /// The same with one segment in the place of some that follow one another.
    pub(crate) fn with_in_place(
        &self,
        old: &[&Arc<SealedSegment>],
        new: &Arc<SealedSegment>,
    ) -> Self {
        let mut next = self.clone();
        let is_old = |segment: &Arc<SealedSegment>| old.iter().any(|old| Arc::ptr_eq(old, segment));
        if let Some(at) = next.sealed.iter().position(is_old) {
            next.sealed.splice(at..(at + old.len()).min(self.sealed.len()), [Arc::clone(new)]);
        }
        next
    }
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "its fields")]
    pub(crate) fn new(
        id: LogId,
        path: PathBuf,
        label: String,
        epoch: LeaderEpoch,
        vfs: Arc<dyn Vfs>,
        cache: Arc<SegmentCache>,
        points: Arc<Points>,
        crowd: Crowd,
        segments: Segments,
        progress: Progress,
        has_leftovers: bool,
    ) -> Self {
        let damage = KnownDamage::default();
        for lost in &segments.lost {
            damage.note(lost.from, lost.to);
        }
        let segments = ArcSwap::from_pointee(segments);
        let (sync, trimming, poison) = (Mutex::new(()), Mutex::new(()), OnceLock::new());
        // Until the log that owns this says more.
        let tail_bytes_max = AtomicUsize::new(0);
        Self {
            id,
            path,
            label,
            epoch,
            vfs,
            cache,
            points,
            crowd,
            segments,
            sync,
            progress,
            tail_bytes_max,
            poison,
            damage,
            trimming,
            has_leftovers: AtomicBool::new(has_leftovers),
        }
    }

    pub(crate) fn log_start(&self) -> Offset {
        self.progress.start()
    }

    pub(crate) fn durable_end(&self) -> Offset {
        self.progress.durable_end()
    }

    pub(crate) fn tail_bytes_max(&self) -> usize {
        self.tail_bytes_max.load(Ordering::Relaxed)
    }

    pub(crate) fn limit_tail(&self, bytes_max: usize) {
        self.tail_bytes_max.store(bytes_max, Ordering::Relaxed);
        self.segments.load().active.limit_tail(bytes_max);
    }

    /// Why nothing may be written or believed any more, if that is so.
    pub(crate) fn poisoned(&self) -> Option<&str> {
        self.poison.get().map(String::as_str)
    }

    /// Ends all writing until the log is opened anew; the first cause stays.
    pub(crate) fn poison(&self, cause: String) {
        // First: whoever finds it poisoned may open it anew at once.
        self.points.may_have_lost(self.id);
        let _ = self.poison.set(cause);
    }
}
