//! A disk in memory that can fail and lose power.
//!
//! A tree of directories and files, each of which keeps what is durable apart from what programs
//! see: files at the grain of 512-byte sectors, directories at that of entries. [`Memory::crash`]
//! keeps any subset of the unsynced sectors and entries, chosen by a seed, as a real disk may.

mod contents;
mod tree;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Entry, File, Lock, Map, Vfs};
use contents::Contents;
use tree::{Node, Tree};

/// What goes wrong, from when it is set until it is cleared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every sync fails. As on Linux, programs go on seeing what it should have covered, but it
    /// counts as clean: a later sync succeeds without writing it.
    SyncFails,
    /// The same, and what the sync should have covered is no longer seen either.
    SyncDrops,
    /// Files grow by so many more bytes, then the disk is full. What is written over needs no room.
    DiskFull {
        /// Bytes that still fit.
        bytes_left: usize,
    },
    /// Every read fails.
    ReadFails,
    /// After so many more changes the machine stands still: the last one is done by half if it is a
    /// write, and every call after it fails.
    Stops {
        /// Changes that are still made.
        changes_left: usize,
    },
}

/// A file system in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    tree: Tree,
    locks: BTreeSet<PathBuf>,
    fault: Option<Fault>,
    random: u64,
    boots: u64,
}

impl Memory {
    /// An empty file system whose random bits follow from `seed`.
    pub fn new(seed: u64) -> Self {
        let state = State { random: seed, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Makes things go wrong, or right again.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// Loses power: of what was not synced a subset survives that `seed` chooses. Files that are
    /// open keep working on what nobody will see again; locks are gone.
    pub fn crash(&self, seed: u64) -> Self {
        let mut state = self.state();
        let mut random = Random(seed);
        let after = State {
            tree: state.tree.crash(&mut random),
            locks: BTreeSet::new(),
            fault: None,
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
        let (locks, fault) = (BTreeSet::new(), None);
        let copy = State { tree: tree.copy(), locks, fault, random: *random, boots: *boots };
        Self { state: Arc::new(Mutex::new(copy)) }
    }

    /// Changes one byte of a file, as rot does: what is durable too.
    pub fn flip(&self, path: &Path, position: usize, bits: u8) -> io::Result<()> {
        let contents = self.state().tree.file(path)?;
        lock(&contents).flip(position, bits);
        Ok(())
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

impl State {
    /// Counts a change, or refuses it because the machine stands still.
    fn change(&mut self) -> io::Result<()> {
        match &mut self.fault {
            Some(Fault::Stops { changes_left: 0 }) => Err(stopped()),
            Some(Fault::Stops { changes_left }) => {
                *changes_left -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// How many of `bytes` the disk takes, `room` of which go where the file has bytes already.
    fn admit(&mut self, bytes: usize, room: usize) -> io::Result<usize> {
        self.change()?;
        match &mut self.fault {
            Some(Fault::Stops { changes_left: 0 }) => Ok(bytes.div_ceil(2)),
            Some(Fault::DiskFull { bytes_left }) => {
                let taken = bytes.min(room + *bytes_left);
                *bytes_left -= taken.saturating_sub(room);
                if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
            }
            _ => Ok(bytes),
        }
    }
}

impl Vfs for Memory {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.change()?;
        if state.fault == Some(Fault::DiskFull { bytes_left: 0 }) {
            return Err(io::ErrorKind::StorageFull.into());
        }
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
        state.change()?;
        state.tree.create_directory(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.tree.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.tree.file(path)?;
        state.change()?;
        state.tree.remove(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.tree.remove_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        if matches!(state.fault, Some(Fault::SyncFails | Fault::SyncDrops)) {
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
        let mut random = Random(state.random);
        let bits = u128::from(random.next()) << 64 | u128::from(random.next());
        state.random = random.0;
        bits.to_be_bytes()
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

impl File for MemoryFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self.disk.state().fault {
            Some(Fault::ReadFails) => return Err(io::Error::other("injected: read failed")),
            Some(Fault::Stops { changes_left: 0 }) => return Err(stopped()),
            _ => {}
        }
        Ok(lock(&self.contents).read(position as usize, buffer))
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<usize> {
        let room = lock(&self.contents).seen().len().saturating_sub(position as usize);
        let taken = self.disk.state().admit(bytes.len(), room)?;
        lock(&self.contents).write(position as usize, &bytes[..taken]);
        Ok(taken)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(lock(&self.contents).seen().len() as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.disk.state().change()?;
        lock(&self.contents).set_length(length as usize);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        let mut contents = lock(&self.contents);
        match state.fault {
            Some(Fault::SyncFails) => contents.forget_unsynced(),
            Some(Fault::SyncDrops) => contents.drop_unsynced(),
            _ => {
                contents.sync();
                return Ok(());
            }
        }
        Err(io::Error::other("injected: sync failed"))
    }

    fn map(&self, length: u64) -> io::Result<Arc<dyn Map>> {
        if self.disk.state().fault == Some(Fault::ReadFails) {
            return Err(io::Error::other("injected: map failed"));
        }
        let contents = lock(&self.contents);
        let mapped = contents.seen().get(..length as usize).unwrap_or(contents.seen());
        Ok(Arc::new(MemoryMap(Bytes::copy_from_slice(mapped))))
    }
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

fn stopped() -> io::Error {
    io::Error::other("injected: the machine stands still")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
