//! A disk in memory that can fail and lose power.
//!
//! A tree of directories and files, each of which keeps what is durable apart from what programs
//! see: files at the grain of 512-byte sectors, directories at that of entries. [`Memory::crash`]
//! keeps any subset of the unsynced sectors and entries, chosen by a seed, as a real disk may. But a
//! rename that is not durable leaves one of the two names at least: no file system loses both.

mod contents;
mod fault;
mod tree;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Entry, File, Lock, Map, Vfs, read_full};
use contents::Contents;
pub use fault::Fault;
use fault::{Faults, SyncFailure};
use tree::{Node, Tree};

/// A file system in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    tree: Tree,
    locks: BTreeSet<PathBuf>,
    faults: Faults,
    random: u64,
    boots: u64,
}

impl State {
    fn next_random(&mut self) -> u64 {
        let mut random = Random(self.random);
        let next = random.next();
        self.random = random.0;
        next
    }
}

impl Memory {
    /// An empty file system whose random bits follow from `seed`.
    pub fn new(seed: u64) -> Self {
        let state = State { random: seed, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Makes things go wrong, or right again.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state().faults.set(fault);
    }

    /// What goes wrong from now on: less may be left of it than when it was set.
    pub fn fault(&self) -> Option<Fault> {
        self.state().faults.get().cloned()
    }

    /// Loses power: of what was not synced a subset survives that `seed` chooses. Files that are
    /// open keep working on what nobody will see again; locks are gone.
    pub fn crash(&self, seed: u64) -> Self {
        let mut state = self.state();
        let mut random = Random(seed);
        let after = State {
            tree: state.tree.crash(&mut random),
            locks: BTreeSet::new(),
            faults: Faults::default(),
            random: random.next(),
            boots: state.boots + 1,
        };
        state.locks.clear();
        Self { state: Arc::new(Mutex::new(after)) }
    }

    /// The same disk once more: what happens to one of them does not happen to the other. Nobody
    /// holds a lock on the copy, and nothing goes wrong there.
    pub fn copy(&self) -> Self {
        let State { tree, random, boots, .. } = &*self.state();
        let (locks, faults) = (BTreeSet::new(), Faults::default());
        let copy = State { tree: tree.copy(), locks, faults, random: *random, boots: *boots };
        Self { state: Arc::new(Mutex::new(copy)) }
    }

    /// Changes one byte of a file, as rot does: what is durable too.
    pub fn flip(&self, path: &Path, position: usize, bits: u8) -> io::Result<()> {
        let contents = self.state().tree.file(path)?;
        lock(&contents).flip(position, bits);
        Ok(())
    }

    /// Loses a file, as a disk does that forgot a name although it was synced.
    pub fn lose(&self, path: &Path) -> io::Result<()> {
        self.state().tree.lose(path)
    }

    /// Every file there is, with its contents, ascending by path.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let files = self.state().tree.files();
        files.into_iter().map(|(path, contents)| (path, lock(&contents).seen().to_vec())).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn open_file(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let contents = self.state().tree.file(path)?;
        Ok(Arc::new(MemoryFile { contents, disk: self.clone() }))
    }
}

impl Vfs for Memory {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.faults.create()?;
        state.tree.insert(path, Node::File(Arc::default()))?;
        drop(state);
        self.open_file(path)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open_file(path)
    }

    fn open_read_only(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open_file(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        self.state().tree.list(directory)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.faults.name()?;
        state.tree.create_directory(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let contents = state.tree.file(from)?;
        state.faults.name()?;
        state.tree.insert(to, Node::File(contents))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.faults.name()?;
        state.tree.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let contents = state.tree.file(path)?;
        state.faults.change()?;
        state.faults.removed(lock(&contents).seen().len());
        state.tree.remove(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.faults.change()?;
        state.tree.remove_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.faults.change()?;
        if state.faults.sync().is_err() {
            return Err(io::Error::other("injected: sync of a directory failed"));
        }
        state.tree.sync_directory(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut state = self.state();
        match state.tree.insert(path, Node::File(Arc::default())) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if !state.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(MemoryLock { path: path.to_owned(), disk: self.clone() })))
    }

    fn is_locked(&self, path: &Path) -> io::Result<Option<bool>> {
        let state = self.state();
        state.tree.file(path)?;
        Ok(Some(state.locks.contains(path)))
    }

    fn random(&self) -> [u8; 16] {
        let mut state = self.state();
        let bits = u128::from(state.next_random()) << 64 | u128::from(state.next_random());
        bits.to_be_bytes()
    }

    fn free_bytes(&self, _directory: &Path) -> io::Result<u64> {
        Ok(self.state().faults.free_bytes())
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        Some((1 + u128::from(self.state().boots)).to_be_bytes())
    }
}

#[derive(Debug)]
struct MemoryFile {
    contents: Arc<Mutex<Contents>>,
    disk: Memory,
}

impl MemoryFile {
    /// Whether this is the file that something is wrong with.
    fn is_spoilt(&self, state: &State) -> bool {
        let spoilt = state.faults.file().and_then(|path| state.tree.file(path).ok());
        spoilt.is_some_and(|spoilt| Arc::ptr_eq(&spoilt, &self.contents))
    }
}

impl File for MemoryFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.disk.state();
        let is_spoilt = self.is_spoilt(&state);
        state.faults.read(is_spoilt)?;
        let read = lock(&self.contents).read(position as usize, buffer);
        Ok(if is_spoilt {
            state.faults.spoil(position as usize, &mut buffer[..read])
        } else {
            read
        })
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<usize> {
        let room = lock(&self.contents).seen().len().saturating_sub(position as usize);
        let taken = self.disk.state().faults.write(bytes.len(), room)?;
        lock(&self.contents).write(position as usize, &bytes[..taken]);
        Ok(taken)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(lock(&self.contents).seen().len() as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.disk.state().faults.change()?;
        lock(&self.contents).set_length(length as usize);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.faults.change()?;
        let mut contents = lock(&self.contents);
        match state.faults.sync() {
            Ok(()) => {
                contents.sync();
                return Ok(());
            }
            Err(SyncFailure { drops: true }) => contents.drop_unsynced(),
            Err(SyncFailure { drops: false }) => contents.forget_unsynced(),
        }
        Err(lost())
    }

    fn file_system(&self) -> Option<u64> {
        Some(0)
    }

    fn start_write(&self) -> io::Result<()> {
        self.disk.state().faults.change()
    }

    /// What it writes is durable at once, which a real disk does not promise.
    fn finish_write(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn sync_file_system(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.faults.change()?;
        state.faults.sync().map_err(|_| lost())
    }

    fn map(&self, length: u64) -> io::Result<Arc<dyn Map>> {
        let mut mapped = vec![0; length as usize];
        let read = read_full(self, 0, &mut mapped)?;
        mapped.truncate(read);
        Ok(Arc::new(MemoryMap(Bytes::from(mapped))))
    }
}

fn lost() -> io::Error {
    io::Error::other("injected: sync failed")
}

#[derive(Debug)]
struct MemoryMap(Bytes);

impl Map for MemoryMap {
    fn slice(&self, position: u64, length: usize) -> io::Result<Bytes> {
        let start = (position as usize).min(self.0.len());
        Ok(self.0.slice(start..(start + length).min(self.0.len())))
    }
}

#[derive(Debug)]
struct MemoryLock {
    path: PathBuf,
    disk: Memory,
}

impl Lock for MemoryLock {
    fn annotate(&self, note: &str) -> io::Result<()> {
        let contents = self.disk.state().tree.file(&self.path)?;
        let mut contents = lock(&contents);
        contents.set_length(0);
        contents.write(0, note.as_bytes());
        Ok(())
    }
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

/// A small generator of numbers (splitmix64): the same seed, the same numbers.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
