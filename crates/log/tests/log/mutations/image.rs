//! What a machine leaves behind: a directory of two logs, after a clean stop, a kill, a power loss.
//!
//! Small, so that each of its bytes can be changed, and still all there is: sealed segments and one
//! that is not, indexes, checkpoints of producers, a reserved end, batches that the recovery points
//! cover, some that only a sync covers, and some that none does. It is a backup that nobody has served yet,
//! and a scrub was interrupted in it.

use std::path::PathBuf;
use std::sync::Arc;

use taffrail_log::vfs::{Memory, Vfs as _};
use taffrail_log::{
    Directory, DirectoryError, DirectoryOptions, Log, LogConfig, Opened, ScrubPass, ScrubState,
};
use taffrail_model::{LogId, ProducerEpoch, ProducerId, ProducerStamp, Sequence};

use crate::given::{LABEL, NOW, NewRecord, batch_of, is_deep, log_id, root};
use crate::model::ModelBatch;

/// What a machine leaves behind.
pub(super) struct Image {
    pub(super) name: &'static str,
    pub(super) memory: Memory,
    pub(super) logs: [History; 2],
}

/// Everything that was ever appended to a log.
#[derive(Clone)]
pub(super) struct History {
    pub(super) id: LogId,
    pub(super) config: LogConfig,
    pub(super) batches: Vec<ModelBatch>,
    /// The offset below which everything was acknowledged.
    pub(super) acknowledged: u64,
}

/// What is left behind in each way to end.
pub(super) fn images() -> Vec<Image> {
    let image = |name, (memory, logs)| Image { name, memory, logs };
    let power_lost = |(memory, logs): (Memory, _)| (memory.crash(7), logs);
    let mut images = vec![
        image("closed", Life::closed()),
        image("killed", Life::writing()),
        image("torn", power_lost(Life::writing())),
    ];
    if is_deep() {
        images.push(image("without power", power_lost(Life::synced())));
    }
    images
}

/// The directory of another machine: for files in a wrong place.
pub(super) fn elsewhere() -> Memory {
    let ids = [*b"sixteen of them.", *b"and sixteen more"];
    let logs = ids.map(|id| History::new(LogId::new(id), false));
    let mut life = Life::begin(Memory::new(99), logs);
    life.append(0, Some(1), &[Some(77)]);
    life.append(1, Some(1), &[Some(77), None]);
    life.sync();
    // More often than in the images, so that its recovery points look newer.
    for _ in 0..20 {
        let (memory, logs) = life.close();
        life = Life::begin(memory, logs);
    }
    life.close().0
}

pub(super) fn open(memory: &Memory, logs: &[History; 2]) -> Result<Directory, DirectoryError> {
    let first_logs = logs.each_ref().map(|log| (log.id, LABEL));
    let options = DirectoryOptions { path: root(), init: false, first_logs: &first_logs, now: NOW };
    Directory::open(Arc::new(memory.clone()), &options)
}

/// An id above all that the producers here have.
pub(super) fn producer_ids_end() -> ProducerId {
    ProducerId::FIRST.advance(8)
}

impl History {
    fn new(id: LogId, reserves_offsets: bool) -> Self {
        let config = LogConfig { tail_bytes_max: 0, reserves_offsets, ..LogConfig::default() };
        Self { id, config, batches: Vec::new(), acknowledged: 0 }
    }

    pub(super) fn path(&self) -> PathBuf {
        root().join("logs").join(self.id.to_string())
    }

    /// The batch that begins at an offset.
    pub(super) fn at(&self, base: u64) -> Option<&ModelBatch> {
        self.batches.iter().find(|batch| batch.base == base)
    }

    /// The offset behind everything that was ever given out.
    pub(super) fn end(&self) -> u64 {
        self.batches.last().map_or(0, ModelBatch::end)
    }

    /// What a producer says of its next batch.
    fn stamp(&self, id: ProducerId) -> ProducerStamp {
        let sent = self.batches.iter().map(|it| &it.batch);
        let own = sent.filter(|batch| batch.producer.is_some_and(|stamp| stamp.id == id));
        let sequence = Sequence::new(own.map(|batch| batch.record_count).sum());
        ProducerStamp { id, epoch: ProducerEpoch::ZERO, sequence }
    }
}

/// A process that writes to the logs.
struct Life {
    memory: Memory,
    directory: Directory,
    logs: [Log; 2],
    histories: [History; 2],
}

impl Life {
    fn histories() -> [History; 2] {
        [History::new(log_id(), false), History::new(LogId::new(*b"another sixteen!"), true)]
    }

    fn begin(memory: Memory, histories: [History; 2]) -> Self {
        let directory = open(&memory, &histories).expect("the directory opens");
        let logs = histories.each_ref().map(|history| {
            let opened = directory.open_log(history.id, history.config, ProducerId::FIRST);
            let Opened { mut log, .. } = opened.expect("the log opens");
            log.configure(history.config).expect("it reserves");
            log
        });
        Self { memory, directory, logs, histories }
    }

    /// Appends a batch of records with these timestamps.
    fn append(&mut self, log: usize, producer: Option<u64>, timestamps: &[Option<i64>]) {
        let (log, history) = (&mut self.logs[log], &mut self.histories[log]);
        let count = history.batches.len() as u8;
        let record =
            |timestamp: &Option<i64>| NewRecord { timestamp: *timestamp, value: vec![count] };
        let mut batch = batch_of(&timestamps.iter().map(record).collect::<Vec<_>>());
        let id = producer.map(|number| ProducerId::new(number).expect("not 0"));
        batch.producer = id.map(|id| history.stamp(id));
        let mut append = log.begin(NOW);
        append.push(batch.clone());
        let (appended, error) = append.write();
        assert!(error.is_none(), "{error:?}");
        let (base, append_time) = (appended[0].base_offset.get(), appended[0].append_time);
        history.batches.push(ModelBatch { base, batch, append_time, epoch: log.leader_epoch() });
    }

    fn roll(&mut self, log: usize) {
        self.logs[log].roll().expect("it rolls");
    }

    fn sync(&mut self) {
        for (log, history) in self.logs.iter().zip(&mut self.histories) {
            history.acknowledged = log.syncer().sync().expect("it syncs").get();
        }
    }

    fn persist(&self) {
        self.directory.persist_points().expect("they are written");
    }

    /// Leaves the files of a backup and of a scrub.
    fn note_upkeep(&self) {
        let pass = ScrubPass { began: NOW, segments: 1, bytes: 200, ..ScrubPass::default() };
        let state = ScrubState { current: Some((pass, log_id())), last: Some(pass) };
        self.directory.store_scrub_state(&state).expect("it is written");
        let manifest = self.memory.create(&root().join("backup")).expect("the place is free");
        let text = format!("taffrail backup\nof {}\ntaken 5\n", self.directory.id());
        manifest.write_at(0, text.as_bytes()).expect("there is room");
        manifest.sync_data().expect("it syncs");
        self.memory.sync_directory(root()).expect("it syncs");
    }

    fn close(mut self) -> (Memory, [History; 2]) {
        self.sync();
        let Self { memory, directory, logs, histories } = self;
        for log in logs {
            log.close().expect("it closes");
        }
        directory.persist_points().expect("they are written");
        (memory, histories)
    }

    /// All but the end of what is done here.
    fn lived() -> Self {
        let mut life = Self::begin(Memory::new(1), Self::histories());
        life.append(0, Some(1), &[Some(5), None]);
        life.append(0, Some(2), &[Some(9)]);
        life.append(1, Some(1), &[Some(5), None]);
        life.roll(0);
        life.roll(1);
        life.append(0, Some(1), &[Some(3), Some(12)]);
        life.append(0, None, &[None]);
        life.append(1, Some(2), &[Some(9)]);
        life.roll(0);
        let (memory, histories) = life.close();
        let mut life = Self::begin(memory, histories);
        life.append(0, Some(2), &[Some(7)]);
        life.append(1, Some(1), &[Some(6)]);
        life.sync();
        life.persist();
        life.note_upkeep();
        life.append(0, Some(1), &[Some(30)]);
        life.append(0, Some(3), &[Some(20), None]);
        life.append(1, Some(3), &[Some(20), None]);
        life
    }

    fn closed() -> (Memory, [History; 2]) {
        Self::lived().close()
    }

    /// All is on disk, the recovery points do not know it yet.
    fn synced() -> (Memory, [History; 2]) {
        let mut life = Self::lived();
        life.sync();
        (life.memory, life.histories)
    }

    /// The last batches are in the page cache only.
    fn writing() -> (Memory, [History; 2]) {
        let mut life = Self::lived();
        life.sync();
        life.append(0, Some(3), &[Some(40)]);
        life.append(0, Some(3), &[Some(41)]);
        life.append(1, Some(3), &[Some(40)]);
        (life.memory, life.histories)
    }
}
