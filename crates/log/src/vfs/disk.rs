//! The real disk.
//!
//! The only place in model, log, broker and grpc where `std::fs` and `unsafe` may stand.

#![expect(clippy::disallowed_types, reason = "this is the seam")]

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Advice, Mmap};

use super::{Entry, File, Lock, Map, Vfs};

/// The machine's file systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Vfs for Disk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::File::options().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(DiskFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(DiskFile(fs::File::options().read(true).write(true).open(path)?)))
    }

    fn open_read_only(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(DiskFile(fs::File::open(path)?)))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let is_directory = entry.file_type()?.is_dir();
            entries.push(Entry { name: entry.file_name().to_string_lossy().into(), is_directory });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let file =
            fs::File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(DiskLock(file)))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn is_locked(&self, path: &Path) -> io::Result<Option<bool>> {
        let file = fs::metadata(path)?;
        let Ok(locks) = fs::read_to_string("/proc/locks") else { return Ok(None) };
        Ok(find_lock(&locks, file.dev(), file.ino()))
    }

    fn random(&self) -> [u8; 16] {
        let mut bits = [0; 16];
        getrandom::fill(&mut bits).expect("the operating system has random bits");
        bits
    }

    fn boot_id(&self) -> Option<[u8; 16]> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        Some(u128::from_str_radix(&digits, 16).ok()?.to_be_bytes())
    }
}

/// Whether Linux's list of locks has one on a file, in lines such as
/// `1: FLOCK  ADVISORY  WRITE 815 fd:01:131 0 EOF`.
///
/// Some file systems are listed under another device than their files say; where only the file's
/// number is found it cannot be told.
fn find_lock(locks: &str, device: u64, inode: u64) -> Option<bool> {
    let major = device >> 8 & 0xfff | device >> 32 & !0xfff;
    let minor = device & 0xff | device >> 12 & !0xff;
    let place = format!("{major:02x}:{minor:02x}:{inode}");
    let number = format!(":{inode}");
    let is_lock = |line: &&str| line.contains(" FLOCK ") && !line.contains("->");
    let places = locks.lines().filter(is_lock).filter_map(|line| line.split_whitespace().nth(5));
    let similar: Vec<_> = places.filter(|place| place.ends_with(&number)).collect();
    if similar.contains(&place.as_str()) {
        return Some(true);
    }
    if similar.is_empty() { Some(false) } else { None }
}

#[derive(Debug)]
struct DiskFile(fs::File);

impl File for DiskFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buffer, position)
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_at(bytes, position)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    #[expect(unsafe_code, reason = "mapping a file is unsafe by nature")]
    fn map(&self, length: u64) -> io::Result<Arc<dyn Map>> {
        // SAFETY: only sealed segments are mapped. Nobody writes to or cuts a sealed segment: it is
        // unlinked, which leaves maps of it whole. The data directory's lock keeps other brokers
        // out; another program that cuts the file makes reads of the map raise SIGBUS, which
        // docs/operations/durability.md says.
        let map = unsafe { memmap2::MmapOptions::new().len(length as usize).map(&self.0)? };
        let map = Arc::new(map);
        Ok(Arc::new(DiskMap { bytes: Bytes::from_owner(SharedMap(Arc::clone(&map))), map }))
    }
}

/// A map, and the same as bytes that keep it alive.
#[derive(Debug)]
struct DiskMap {
    map: Arc<Mmap>,
    bytes: Bytes,
}

/// Lets `Bytes` own a map.
struct SharedMap(Arc<Mmap>);

impl AsRef<[u8]> for SharedMap {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Map for DiskMap {
    fn slice(&self, position: u64, length: usize) -> io::Result<Bytes> {
        let start = (position as usize).min(self.bytes.len());
        let length = length.min(self.bytes.len() - start);
        // Faults the range in here, on a thread that may wait for the disk, and where an error of
        // the disk is an error and not a signal. Linux before 5.14 cannot, and says so.
        match self.map.advise_range(Advice::PopulateRead, start, length) {
            Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Err(error),
            _ => {}
        }
        Ok(self.bytes.slice(start..start + length))
    }
}

#[derive(Debug)]
struct DiskLock(fs::File);

impl Lock for DiskLock {
    fn annotate(&self, note: &str) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.write_all_at(note.as_bytes(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_found_in_the_list_of_locks() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 fd:01:99 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 815 fd:01:131 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 816 00:2a:512 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 817 fd:01:44 0 EOF\n";
        let device = 0xfd << 8 | 0x01;
        assert_eq!(find_lock(locks, device, 131), Some(true));
        assert_eq!(find_lock(locks, device, 31), Some(false));
        assert_eq!(find_lock(locks, device, 44), Some(false), "it waits");
        assert_eq!(find_lock(locks, device, 99), Some(false), "another kind");
        assert_eq!(find_lock(locks, device, 512), None, "the device differs");
    }
}
