//! What the tests begin with: a directory, a log, batches, numbers that follow from a seed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use taffrail_log::vfs::{Memory, Vfs};
use taffrail_log::{
    AppendError, Appended, DeleteError, Deleted, Directory, DirectoryError, DirectoryOptions, Log,
    LogConfig, NewBatch, OpenError, Opened,
};
use taffrail_model::batch::{
    BatchKind, Compression, HEADER_BYTES, RecordFields, RecordSetBuilder, records_crc, scan,
};
use taffrail_model::{LogId, Offset, ProducerId, Timestamp};

pub(crate) const LABEL: &str = "quakes/0";

/// Bytes of a segment's header with that label.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 100 + LABEL.len();

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// Where no idempotent producer was ever made.
pub(crate) const NO_PRODUCERS: ProducerId = ProducerId::FIRST;

pub(crate) fn log_id() -> LogId {
    LogId::new(*b"sixteen bytes id")
}

pub(crate) fn root() -> &'static Path {
    Path::new("/data")
}

/// The file of the segment that begins at `base`.
pub(crate) fn segment(base: u64) -> PathBuf {
    log_path().join(format!("{base:020}.log"))
}

pub(crate) fn log_path() -> PathBuf {
    root().join("logs").join(log_id().to_string())
}

pub(crate) fn config(segment_bytes: u64) -> LogConfig {
    LogConfig { segment_bytes, segment_age: None, tail_bytes_max: 0, reserves_offsets: false }
}

/// Opens the data directory at `path`, which is set up with one log if there is nothing.
pub(crate) fn try_open(vfs: Arc<dyn Vfs>, path: &Path) -> Result<Directory, DirectoryError> {
    let first_logs = [(log_id(), LABEL)];
    Directory::open(vfs, &DirectoryOptions { path, init: false, first_logs: &first_logs, now: NOW })
}

/// A data directory in memory with its one log open.
pub(crate) struct Given {
    pub(crate) memory: Memory,
    pub(crate) directory: Directory,
    pub(crate) log: Log,
}

impl Given {
    /// A new one.
    pub(crate) fn new(segment_bytes: u64) -> Self {
        let (given, _) = Self::open(&Memory::new(1), segment_bytes);
        given
    }

    /// The one that is there, and what opening it found.
    #[track_caller]
    pub(crate) fn open(
        memory: &Memory,
        segment_bytes: u64,
    ) -> (Self, taffrail_log::RecoveryReport) {
        let (given, opened) = Self::try_open_log(memory, segment_bytes);
        let Opened { log, report } = opened.expect("the log opens");
        (given(log), report)
    }

    /// Opens the directory, which must work, and the log, which may not.
    #[track_caller]
    pub(crate) fn try_open_log(
        memory: &Memory,
        segment_bytes: u64,
    ) -> (impl FnOnce(Log) -> Self, Result<Opened, OpenError>) {
        let directory = try_open(Arc::new(memory.clone()), root()).expect("the directory opens");
        let opened = directory.open_log(log_id(), config(segment_bytes), NO_PRODUCERS);
        let memory = memory.clone();
        (move |log| Self { memory, directory, log }, opened)
    }

    /// Ends as a broker does that is told to stop.
    pub(crate) fn close(self) -> Memory {
        self.log.close().expect("the log closes");
        self.directory.persist_points().expect("the points are written");
        self.memory
    }

    /// Ends as a broker does that is killed; the machine lives on.
    pub(crate) fn kill(self) -> Memory {
        self.memory
    }
}

/// Deletes in one go.
pub(crate) trait DeleteAll {
    /// See [`Log::delete_segments_before`].
    fn delete_before(&mut self, before: Offset) -> Result<Deleted, DeleteError>;
}

impl DeleteAll for Log {
    fn delete_before(&mut self, before: Offset) -> Result<Deleted, DeleteError> {
        self.delete_segments_before(before)?.finish()
    }
}

/// Appends in one go.
pub(crate) trait AppendAll {
    /// See [`taffrail_log::Append::write`].
    fn append(
        &mut self,
        batches: &[NewBatch],
        now: Timestamp,
    ) -> (Vec<Appended>, Option<AppendError>);
}

impl AppendAll for Log {
    fn append(
        &mut self,
        batches: &[NewBatch],
        now: Timestamp,
    ) -> (Vec<Appended>, Option<AppendError>) {
        let mut append = self.begin(now);
        batches.iter().cloned().for_each(|batch| append.push(batch));
        append.write()
    }
}

/// A record to be: its timestamp, if it states one, and its value.
#[derive(Clone, Debug)]
pub(crate) struct NewRecord {
    pub(crate) timestamp: Option<i64>,
    pub(crate) value: Vec<u8>,
}

/// A batch of records.
pub(crate) fn batch_of(records: &[NewRecord]) -> NewBatch {
    let mut builder = RecordSetBuilder::default();
    for record in records {
        let timestamp = record.timestamp.map(Timestamp::from_millis);
        let value = Some(record.value.as_slice());
        builder.push(&RecordFields { value, timestamp, ..RecordFields::default() });
    }
    checked(builder.finish())
}

/// A payload as the broker hands it to the log.
pub(crate) fn checked(payload: Bytes) -> NewBatch {
    let summary = scan(&payload).expect("a built payload is valid");
    NewBatch {
        records_crc: records_crc(&payload),
        record_count: summary.record_count,
        max_timestamp: summary.max_timestamp,
        has_unstamped: summary.has_unstamped,
        kind: BatchKind::Data,
        producer: None,
        payload,
        compression: Compression::None,
    }
}

/// The same batch, compressed.
pub(crate) fn packed(batch: NewBatch, compression: Compression) -> NewBatch {
    let payload = compression.pack(batch.payload);
    NewBatch { records_crc: records_crc(&payload), payload, compression, ..batch }
}

/// A batch of `records` small records that no other batch with another `mark` equals.
pub(crate) fn batch(mark: u64, records: u32) -> NewBatch {
    let record =
        |index| NewRecord { timestamp: None, value: format!("{mark}.{index}").into_bytes() };
    batch_of(&(0..records).map(record).collect::<Vec<_>>())
}

/// Bytes that a batch takes on disk.
pub(crate) fn bytes_on_disk(batch: &NewBatch) -> usize {
    HEADER_BYTES + batch.payload.len()
}

/// Whether a file's name ends in `.{ending}`.
pub(crate) fn has_ending(name: impl AsRef<Path>, ending: &str) -> bool {
    name.as_ref().extension().is_some_and(|found| found == ending)
}

/// Overwrites the header of a segment and that of its first batch, and removes its index: nothing says
/// any more how to read it.
pub(crate) fn wreck(memory: &Memory, base: u64) {
    let file = memory.open(&segment(base)).expect("it is there");
    file.write_at(0, &[0; SEGMENT_HEADER_BYTES + HEADER_BYTES]).expect("there is room");
    file.sync_data().expect("it syncs");
    // The active one may have none.
    let _ = memory.remove_file(&segment(base).with_extension("index"));
}

/// The same files once more, each of them durable whether or not it was.
pub(crate) fn settled(memory: &Memory) -> Memory {
    let settled = Memory::new(2);
    for (path, contents) in memory.files() {
        let mut above: Vec<_> = path.ancestors().skip(1).collect();
        above.pop();
        for directory in above.into_iter().rev() {
            let _ = settled.create_directory(directory);
        }
        let file = settled.create(&path).expect("the place is free");
        file.write_at(0, &contents).expect("there is room");
        file.sync_data().expect("it syncs");
        for directory in path.ancestors().skip(1) {
            settled.sync_directory(directory).expect("it syncs");
        }
    }
    settled
}

/// Numbers that follow from a seed, which is printed when a test fails that uses them.
pub(crate) struct Numbers {
    seed: u64,
    state: u64,
}

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0}: run it alone with TAFFRAIL_SEED={0}", self.seed);
        }
    }
}

/// So much more is tried with `TAFFRAIL_DEEP=1`.
const DEEP_FACTOR: u32 = 25;

/// Whether tests may take long.
pub(crate) fn is_deep() -> bool {
    std::env::var_os("TAFFRAIL_DEEP").is_some()
}

/// How many cases a test tries that would quickly try `count`.
pub(crate) fn cases(count: u32) -> u32 {
    if is_deep() { count * DEEP_FACTOR } else { count }
}

/// The seeds to try: `count` of them, or as many as `TAFFRAIL_SEEDS` says, or the one that
/// `TAFFRAIL_SEED` names.
pub(crate) fn seeds(count: u32) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse().ok());
    match number("TAFFRAIL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TAFFRAIL_SEEDS").unwrap_or(cases(count).into()),
    }
}
