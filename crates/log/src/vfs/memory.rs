//! A disk in memory that can fail and lose power.
//!
//! Each file keeps what is durable apart from what was written since the last sync, at the grain of
//! 512-byte sectors; directory entries are kept apart from contents. [`Memory::crash`] keeps any
//! subset of the unsynced sectors and entries, chosen by a seed, as a real disk may.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Entry, File, Lock, Map, Vfs};

const SECTOR_BYTES: usize = 512;

/// What goes wrong, from when it is set until it is cleared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every sync fails, and what it should have covered stays unsynced.
    SyncFails,
    /// Writes take so many more bytes, then find the disk full.
    DiskFull {
        /// Bytes that still fit.
        bytes_left: usize,
    },
    /// Every read fails.
    ReadFails,
}

/// A file system in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The tree as programs see it.
    current: BTreeMap<PathBuf, Node>,
    /// The tree as it would be found after a crash that loses everything unsynced.
    durable: BTreeMap<PathBuf, Node>,
    locks: BTreeSet<PathBuf>,
    fault: Option<Fault>,
    random: u64,
    boots: u64,
}

#[derive(Clone, Debug)]
enum Node {
    Directory,
    File(Arc<Mutex<Contents>>),
}

#[derive(Debug, Default)]
struct Contents {
    current: Vec<u8>,
    durable: Vec<u8>,
    dirty_sectors: BTreeSet<usize>,
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
        let mut tree = state.durable.clone();
        let changed: Vec<_> = state
            .current
            .keys()
            .chain(state.durable.keys())
            .filter(|path| !same_node(state.current.get(*path), state.durable.get(*path)))
            .cloned()
            .collect();
        for path in changed {
            if !random.coin() {
                continue;
            }
            match state.current.get(&path) {
                Some(node) => tree.insert(path, node.clone()),
                None => tree.remove(&path),
            };
        }
        // An entry cannot survive without the directory it stands in.
        let orphans: Vec<_> = tree
            .keys()
            .filter(|path| path.ancestors().skip(1).any(|dir| is_lost(&tree, dir)))
            .cloned()
            .collect();
        for path in orphans {
            tree.remove(&path);
        }
        for node in tree.values_mut() {
            if let Node::File(contents) = node {
                let survivor = lock(contents).crash(&mut random);
                *node = Node::File(Arc::new(Mutex::new(survivor)));
            }
        }
        let after = State {
            current: tree.clone(),
            durable: tree,
            locks: BTreeSet::new(),
            fault: None,
            random: random.next(),
            boots: state.boots + 1,
        };
        state.locks.clear();
        Self { state: Arc::new(Mutex::new(after)) }
    }

    /// Changes one byte of a file, as rot does: what is durable too.
    pub fn flip(&self, path: &Path, position: usize, bits: u8) -> io::Result<()> {
        let contents = self.state().file(path)?;
        let mut contents = lock(&contents);
        for image in [0, 1] {
            let image = if image == 0 { &mut contents.current } else { &mut contents.durable };
            if let Some(byte) = image.get_mut(position) {
                *byte ^= bits;
            }
        }
        Ok(())
    }

    /// Every file there is, with its contents.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let state = self.state();
        let files = state.current.iter().filter_map(|(path, node)| match node {
            Node::File(contents) => Some((path.clone(), lock(contents).current.clone())),
            Node::Directory => None,
        });
        files.collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn open_file(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let contents = self.state().file(path)?;
        Ok(Arc::new(MemoryFile { contents, disk: self.clone() }))
    }
}

impl State {
    fn file(&self, path: &Path) -> io::Result<Arc<Mutex<Contents>>> {
        match self.current.get(path) {
            Some(Node::File(contents)) => Ok(Arc::clone(contents)),
            Some(Node::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn is_directory(&self, path: &Path) -> bool {
        !is_lost(&self.current, path)
    }
}

impl Contents {
    fn mark_dirty(&mut self, from: usize, to: usize) {
        self.dirty_sectors.extend(from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES));
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.current);
        self.dirty_sectors.clear();
    }

    /// What is found after a crash: each unsynced sector new or old, the length new or old.
    fn crash(&self, random: &mut Random) -> Self {
        let mut image = self.durable.clone();
        let length = if random.coin() { self.current.len() } else { self.durable.len() };
        image.resize(length, 0);
        for sector in &self.dirty_sectors {
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(length).min(self.current.len());
            if start < end && random.coin() {
                image[start..end].copy_from_slice(&self.current[start..end]);
            }
        }
        Self { current: image.clone(), durable: image, dirty_sectors: BTreeSet::new() }
    }
}

impl Vfs for Memory {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        if state.fault == Some(Fault::DiskFull { bytes_left: 0 }) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if !state.is_directory(super::parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.current.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.current.insert(path.to_owned(), Node::File(Arc::default()));
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
        let state = self.state();
        if !state.is_directory(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let children = state.current.iter().filter(|(path, _)| path.parent() == Some(directory));
        let entries = children.filter_map(|(path, node)| {
            let name = path.file_name()?.to_string_lossy().into();
            Some(Entry { name, is_directory: matches!(node, Node::Directory) })
        });
        Ok(entries.collect())
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.current.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.current.insert(path.to_owned(), Node::Directory);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let moved: Vec<_> =
            state.current.keys().filter(|path| path.starts_with(from)).cloned().collect();
        if moved.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        for path in moved {
            let rest = path.strip_prefix(from).map_err(io::Error::other)?;
            let target = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            if let Some(node) = state.current.remove(&path) {
                state.current.insert(target, node);
            }
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.file(path)?;
        state.current.remove(path);
        Ok(())
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.state().current.retain(|entry, _| !entry.starts_with(path));
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.fault == Some(Fault::SyncFails) {
            return Err(io::Error::other("injected: sync of a directory failed"));
        }
        let State { current, durable, .. } = &mut *state;
        // A child directory that was renamed takes what is below it along.
        durable.retain(|entry, _| current.contains_key(entry) || !entry.starts_with(path));
        for (entry, node) in current.iter() {
            let below_moved =
                || entry.starts_with(path) && !durable.contains_key(super::parent(entry));
            if entry.parent() == Some(path) || entry == path || below_moved() {
                durable.insert(entry.clone(), node.clone());
            }
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut state = self.state();
        if !state.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        state.current.entry(path.to_owned()).or_insert_with(|| Node::File(Arc::default()));
        Ok(Some(Box::new(MemoryLock { path: path.to_owned(), disk: self.clone() })))
    }

    fn random(&self) -> [u8; 16] {
        let mut state = self.state();
        let mut random = Random(state.random);
        let bits = u128::from(random.next()) << 64 | u128::from(random.next());
        state.random = random.0;
        bits.to_be_bytes()
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        Some(u128::from(self.state().boots).to_be_bytes())
    }
}

#[derive(Debug)]
struct MemoryFile {
    contents: Arc<Mutex<Contents>>,
    disk: Memory,
}

impl MemoryFile {
    /// How many of `bytes` the disk takes.
    fn admit(&self, bytes: usize) -> io::Result<usize> {
        match &mut self.disk.state().fault {
            Some(Fault::DiskFull { bytes_left: 0 }) => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::DiskFull { bytes_left }) => {
                let taken = bytes.min(*bytes_left);
                *bytes_left -= taken;
                Ok(taken)
            }
            _ => Ok(bytes),
        }
    }
}

impl File for MemoryFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if self.disk.state().fault == Some(Fault::ReadFails) {
            return Err(io::Error::other("injected: read failed"));
        }
        let contents = lock(&self.contents);
        let available = contents.current.get(position as usize..).unwrap_or_default();
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        Ok(length)
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<usize> {
        let length = self.admit(bytes.len())?;
        let mut contents = lock(&self.contents);
        let start = position as usize;
        let end = start + length;
        let before = contents.current.len();
        if before < end {
            contents.current.resize(end, 0);
        }
        contents.current[start..end].copy_from_slice(&bytes[..length]);
        contents.mark_dirty(start.min(before), end);
        Ok(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(lock(&self.contents).current.len() as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut contents = lock(&self.contents);
        let before = contents.current.len();
        let after = length as usize;
        contents.current.resize(after, 0);
        contents.mark_dirty(before.min(after), before.max(after));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.disk.state().fault == Some(Fault::SyncFails) {
            return Err(io::Error::other("injected: sync failed"));
        }
        lock(&self.contents).sync();
        Ok(())
    }

    fn map(&self, length: u64) -> io::Result<Arc<dyn Map>> {
        let contents = lock(&self.contents);
        let mapped = contents.current.get(..length as usize).unwrap_or(&contents.current);
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
        let contents = self.disk.state().file(&self.path)?;
        lock(&contents).current = note.as_bytes().to_vec();
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
}

fn is_lost(tree: &BTreeMap<PathBuf, Node>, directory: &Path) -> bool {
    let is_root = directory.as_os_str().is_empty() || directory.parent().is_none();
    !is_root && !matches!(tree.get(directory), Some(Node::Directory))
}

fn same_node(a: Option<&Node>, b: Option<&Node>) -> bool {
    match (a, b) {
        (None, None) | (Some(Node::Directory), Some(Node::Directory)) => true,
        (Some(Node::File(a)), Some(Node::File(b))) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
