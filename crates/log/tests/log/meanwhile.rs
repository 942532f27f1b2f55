//! What happens between two steps of somebody who looks at a log: segments are deleted.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use taffrail_log::verify::{Severity, inspect};
use taffrail_log::vfs::{Entry, File, Lock, Memory, Vfs};
use taffrail_log::{Directory, Log, ReadError, ReadRequest};
use taffrail_model::Offset;

use crate::given::{
    AppendAll, DeleteAll, NO_PRODUCERS, NOW, batch, config, log_id, log_path, root, segment,
    try_open,
};

type Act = Box<dyn FnOnce() + Send>;

/// A disk in memory on which something is done once, before or after a file is opened for reading or a
/// directory is listed.
struct Meanwhile {
    memory: Memory,
    act: Mutex<Option<(PathBuf, bool, Act)>>,
}

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.memory.fmt(f)
    }
}

impl Meanwhile {
    fn set(&self, path: &Path, is_before: bool, act: impl FnOnce() + Send + 'static) {
        *self.act.lock().expect("nobody panics") =
            Some((path.to_owned(), is_before, Box::new(act)));
    }

    fn is_done(&self) -> bool {
        self.act.lock().expect("nobody panics").is_none()
    }

    fn around<T>(&self, path: &Path, step: impl FnOnce() -> T) -> T {
        // Not held any more when it is done, since that comes by here too.
        let act = self.act.lock().expect("nobody panics").take_if(|(at, ..)| at == path);
        let Some((_, is_before, act)) = act else { return step() };
        if is_before {
            act();
            return step();
        }
        let done = step();
        act();
        done
    }
}

impl Vfs for Meanwhile {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.memory.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.memory.open(path)
    }
    fn open_read_only(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.around(path, || self.memory.open_read_only(path))
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        self.around(directory, || self.memory.list(directory))
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.memory.create_directory(path)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.memory.link(from, to)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.memory.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.memory.remove_file(path)
    }
    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.memory.remove_directory(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.memory.sync_directory(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.memory.lock(path)
    }
    fn is_locked(&self, path: &Path) -> io::Result<Option<bool>> {
        self.memory.is_locked(path)
    }
    fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
        self.memory.free_bytes(directory)
    }
    fn random(&self) -> [u8; 16] {
        self.memory.random()
    }
    fn boot_id(&self) -> Option<[u8; 16]> {
        self.memory.boot_id()
    }
}

/// Four segments of two batches of 3 records each, on such a disk.
fn given() -> (Arc<Meanwhile>, Directory, Arc<Mutex<Log>>) {
    let meanwhile = Arc::new(Meanwhile { memory: Memory::new(1), act: Mutex::default() });
    let directory = try_open(Arc::<Meanwhile>::clone(&meanwhile), root()).expect("it opens");
    let opened = directory.open_log(log_id(), config(1 << 20), NO_PRODUCERS).expect("it opens");
    let mut log = opened.log;
    for mark in [10, 12, 14, 16] {
        let (_, error) = log.append(&[batch(mark, 3), batch(mark + 1, 3)], NOW);
        assert!(error.is_none());
        if mark < 16 {
            log.roll().expect("it rolls");
        }
    }
    directory.persist_points().expect("the points are written");
    (meanwhile, directory, Arc::new(Mutex::new(log)))
}

fn delete(log: &Arc<Mutex<Log>>) -> impl FnOnce() + Send + 'static {
    let log = Arc::clone(log);
    move || {
        let mut log = log.lock().expect("nobody panics");
        log.delete_before(Offset::new(12)).expect("nothing is wrong");
    }
}

#[test]
fn who_reads_what_is_deleted_meanwhile_is_told_that_it_is_out_of_range() {
    let limit = Offset::new(24);
    for from in [0, 8].map(Offset::new) {
        let path = segment(if from == Offset::ZERO { 0 } else { 6 });
        let (meanwhile, _directory, log) = given();
        let reader = log.lock().expect("nobody panics").reader();
        meanwhile.set(&path, true, delete(&log));
        let read = reader.read(&ReadRequest { from, limit, bytes_max: 1 });
        assert!(matches!(read, Err(ReadError::OutOfRange { .. })), "{read:?}");
        assert!(meanwhile.is_done());

        let (meanwhile, _directory, log) = given();
        let reader = log.lock().expect("nobody panics").reader();
        meanwhile.set(&path, true, delete(&log));
        let unread = reader.unread(from, limit);
        assert!(matches!(unread, Err(ReadError::OutOfRange { .. })), "{unread:?}");
        assert!(meanwhile.is_done());
    }
    let (meanwhile, _directory, log) = given();
    let reader = log.lock().expect("nobody panics").reader();
    meanwhile.set(&segment(0), true, delete(&log));
    let found = reader.find_timestamp(NOW, limit).expect("nothing is wrong");
    assert_eq!(found.map(|found| found.offset.get()), Some(12));
    assert!(meanwhile.is_done());
}

#[test]
fn what_is_deleted_while_it_is_inspected_is_not_damaged() {
    for is_before in [true, false] {
        let (meanwhile, _directory, log) = given();
        meanwhile.set(&log_path(), is_before, delete(&log));
        let report = inspect(meanwhile.as_ref(), root()).expect("it can be inspected");
        assert!(meanwhile.is_done());
        assert!(report.worst() <= Some(Severity::Note), "{report:?}");
        assert_eq!(report.logs[0].start.get(), 12);
    }
}
