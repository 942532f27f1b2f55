//! Every order in which a writer, a syncer and a reader may see one another's steps.
//!
//! The file of `Progress` as it is, with loom's atomics in place of the machine's. What a log keeps
//! behind a lock, its end, is behind one here; what it has written are the values that a reader finds.

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}
#[path = "../src/progress.rs"]
mod progress;

use atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;
use progress::Progress;
use taffrail_model::Offset;

/// Bytes of each record.
const RECORD_BYTES: u64 = 10;
const RECORDS: u64 = 2;

struct Log {
    progress: Progress,
    /// The offset behind the last record that is wholly written.
    end: Mutex<u64>,
    /// What lies in the file, without any order of its own.
    file: [AtomicU64; RECORDS as usize],
}

impl Log {
    fn new() -> Arc<Self> {
        let progress = Progress::at(Offset::ZERO, Offset::ZERO);
        Arc::new(Self {
            progress,
            end: Mutex::new(0),
            file: [AtomicU64::new(0), AtomicU64::new(0)],
        })
    }

    fn end(&self) -> u64 {
        *self.end.lock().expect("nobody panics")
    }

    /// As `Log::write` does: into the file, then the end, then the count.
    fn write(&self, record: u64) {
        self.file[record as usize].store(1, Ordering::Relaxed);
        *self.end.lock().expect("nobody panics") = record + 1;
        self.progress.wrote(RECORD_BYTES);
    }

    /// As `sync_active` does, one at a time.
    fn sync(&self) {
        let written = self.progress.written_bytes();
        let end = self.end();
        self.progress.synced(written, Offset::new(end));
    }
}

/// How often a thread may be interrupted by another where it need not be. Without a bound it takes
/// minutes.
const PREEMPTIONS_MAX: usize = 3;

/// Writes in one thread and syncs in this one while another one looks. The other way round loom would
/// never come to look after a sync.
fn check(look: impl Fn(&Log) + Copy + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS_MAX);
    model.check(move || {
        let log = Log::new();
        let writer = thread::spawn({
            let log = Arc::clone(&log);
            move || (0..RECORDS).for_each(|record| log.write(record))
        });
        let reader = thread::spawn({
            let log = Arc::clone(&log);
            move || look(&log)
        });
        log.sync();
        log.sync();
        writer.join().expect("it ends");
        reader.join().expect("it ends");
        log.sync();
        assert_eq!((log.progress.start(), log.progress.unsynced_bytes()), (Offset::ZERO, 0));
        assert_eq!(log.progress.durable_end().get(), RECORDS);
    });
}

#[test]
fn unsynced_bytes_are_never_fewer_than_none_nor_more_than_were_written() {
    check(|log| {
        for _ in 0..2 {
            assert!(log.progress.unsynced_bytes() <= RECORDS * RECORD_BYTES);
        }
    });
}

#[test]
fn the_durable_end_never_falls_and_is_never_ahead_of_what_is_written() {
    check(|log| {
        let mut before = 0;
        for _ in 0..2 {
            let durable = log.progress.durable_end().get();
            assert!(before <= durable && durable <= log.end());
            before = durable;
        }
    });
}

#[test]
fn who_sees_the_durable_end_sees_everything_below_it() {
    check(|log| {
        let durable = log.progress.durable_end().get();
        let below = log.file.iter().take(durable as usize);
        assert!(below.map(|record| record.load(Ordering::Relaxed)).all(|record| record == 1));
    });
}

#[test]
fn who_sees_the_list_without_a_segment_sees_the_log_begin_behind_it() {
    loom::model(|| {
        // The first segment in the list begins at 0, then at 1.
        let log = (Progress::at(Offset::ZERO, Offset::new(RECORDS)), AtomicU64::new(0));
        let log = Arc::new(log);
        let writer = thread::spawn({
            let log = Arc::clone(&log);
            move || {
                log.0.starts_at(Offset::new(1));
                log.1.store(1, Ordering::Release);
            }
        });
        let first = log.1.load(Ordering::Acquire);
        assert!(first <= log.0.start().get());
        writer.join().expect("it ends");
    });
}
