//! The real disk.
//!
//! The only place in model, log, broker and grpc where `std::fs` and `unsafe` may stand.

#![expect(clippy::disallowed_types, reason = "this is the seam")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use memmap2::{Advice, Mmap};

use super::{Entry, File, Lock, Map, Vfs};

/// The machine's file systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Vfs for Disk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::File::options().read(true).write(true).create_new(true).open(path)?;
        Ok(DiskFile::shared(file, path))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(DiskFile::shared(fs::File::options().read(true).write(true).open(path)?, path))
    }

    fn open_read_only(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::File::open(path)?;
        // A hint: most who open a file read on from where they begin. Not every file system takes it.
        #[cfg(target_os = "linux")]
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        Ok(DiskFile::shared(file, path))
    }

    fn open_uncached(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        // Not every file system can.
        UncachedFile::open(path).or_else(|_| self.open_read_only(path))
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

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
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

    fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
        let system = rustix::fs::statvfs(directory)?;
        Ok(system.f_bavail.saturating_mul(system.f_frsize))
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
struct DiskFile {
    file: fs::File,
    path: PathBuf,
    /// The file system that can be synced as a whole instead, once that was asked.
    system: OnceLock<Option<u64>>,
}

impl DiskFile {
    fn shared(file: fs::File, path: &Path) -> Arc<dyn File> {
        Arc::new(Self { file, path: path.to_owned(), system: OnceLock::new() })
    }
}

#[cfg(target_os = "linux")]
impl DiskFile {
    /// Writes all of the file, or waits for that: not what makes it findable, and not the disk's cache.
    #[expect(unsafe_code, reason = "rustix does not have this call")]
    fn sync_range(&self, flags: libc::c_uint) -> io::Result<()> {
        use std::os::fd::AsRawFd as _;

        // SAFETY: the descriptor is open as long as `self.file` is borrowed, and no memory is passed.
        let done = unsafe { libc::sync_file_range(self.file.as_raw_fd(), 0, 0, flags) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl File for DiskFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, position)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn file_system(&self) -> Option<u64> {
        *self.system.get_or_init(|| whole_system(&self.file))
    }

    #[cfg(target_os = "linux")]
    fn start_write(&self) -> io::Result<()> {
        self.sync_range(libc::SYNC_FILE_RANGE_WRITE)
    }

    #[cfg(target_os = "linux")]
    fn finish_write(&self) -> io::Result<()> {
        self.sync_range(
            libc::SYNC_FILE_RANGE_WAIT_BEFORE
                | libc::SYNC_FILE_RANGE_WRITE
                | libc::SYNC_FILE_RANGE_WAIT_AFTER,
        )
    }

    #[cfg(target_os = "linux")]
    fn sync_file_system(&self) -> io::Result<()> {
        rustix::fs::syncfs(&self.file)?;
        // Without a journal the last of what `syncfs` writes comes behind its flush of the disk's cache,
        // and of a journal that was given up it may say nothing: this flushes, and says so.
        self.file.sync_data()
    }

    #[expect(unsafe_code, reason = "mapping a file is unsafe by nature")]
    fn map(&self, length: u64) -> io::Result<Arc<dyn Map>> {
        // SAFETY: only sealed segments are mapped. Nobody writes to or cuts a sealed segment: it is
        // unlinked, which leaves maps of it whole. The data directory's lock keeps other brokers
        // out; another program that cuts the file makes reads of the map raise SIGBUS, which
        // docs/operations/durability.md says.
        let map = unsafe { memmap2::MmapOptions::new().len(length as usize).map(&self.file)? };
        let map = Arc::new(Mapped::new(map, &self.path));
        Ok(Arc::new(DiskMap { bytes: Bytes::from_owner(SharedMap(Arc::clone(&map))), map }))
    }
}

/// The file system that a file is on, if it can be synced as a whole so that nothing is said to be durable
/// that is not: what `syncfs` returns of failures, and that `fdatasync` flushes the disk's cache where the
/// file has nothing to write, is known of ext4 since Linux 6.5.
#[cfg(target_os = "linux")]
fn whole_system(file: &fs::File) -> Option<u64> {
    const EXT4: u64 = 0xef53;
    const LINUX_MIN: (u32, u32) = (6, 5);
    let kind = rustix::fs::fstatfs(file).ok()?.f_type as u64;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let linux = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (kind == EXT4 && LINUX_MIN <= linux).then_some(file.metadata().ok()?.dev())
}

#[cfg(not(target_os = "linux"))]
fn whole_system(_: &fs::File) -> Option<u64> {
    None
}

/// A file that is read past the page cache, in whole blocks.
#[derive(Debug)]
struct UncachedFile(DiskFile);

impl UncachedFile {
    /// What every disk's blocks fit into.
    const BLOCK_BYTES: usize = 4096;

    #[cfg(target_os = "linux")]
    fn open(path: &Path) -> io::Result<Arc<dyn File>> {
        use std::os::unix::fs::OpenOptionsExt as _;

        let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
        let file = fs::File::options().read(true).custom_flags(direct).open(path)?;
        let file = Self(DiskFile { file, path: path.to_owned(), system: OnceLock::new() });
        // Some refuse only now.
        file.read_at(0, &mut [0])?;
        Ok(Arc::new(file))
    }

    #[cfg(not(target_os = "linux"))]
    fn open(_: &Path) -> io::Result<Arc<dyn File>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl File for UncachedFile {
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let skip = (position % Self::BLOCK_BYTES as u64) as usize;
        let wanted = (skip + buffer.len()).next_multiple_of(Self::BLOCK_BYTES);
        let mut space = vec![0; wanted + Self::BLOCK_BYTES];
        let shift = space.as_ptr().align_offset(Self::BLOCK_BYTES);
        let blocks = &mut space[shift..shift + wanted];
        let read = self.0.read_at(position - skip as u64, blocks)?;
        let found = read.saturating_sub(skip).min(buffer.len());
        buffer[..found].copy_from_slice(&blocks[skip..skip + found]);
        Ok(found)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn set_length(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn map(&self, length: u64) -> io::Result<Arc<dyn Map>> {
        self.0.map(length)
    }
}

/// A map, and the same as bytes that keep it alive.
#[derive(Debug)]
struct DiskMap {
    map: Arc<Mapped>,
    bytes: Bytes,
}

/// Lets `Bytes` own a map.
struct SharedMap(Arc<Mapped>);

impl AsRef<[u8]> for SharedMap {
    fn as_ref(&self) -> &[u8] {
        &self.0.map
    }
}

/// A map that is found by its address.
#[derive(Debug)]
struct Mapped {
    map: Mmap,
}

/// Every map: where it begins, its length, and its file.
static MAPS: RwLock<BTreeMap<usize, (usize, PathBuf)>> = RwLock::new(BTreeMap::new());

impl Mapped {
    fn new(map: Mmap, path: &Path) -> Self {
        static DEATHBED: Once = Once::new();
        DEATHBED.call_once(name_file_on_sigbus);
        let mut maps = MAPS.write().unwrap_or_else(PoisonError::into_inner);
        maps.insert(map.as_ptr() as usize, (map.len(), path.to_owned()));
        Self { map }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let mut maps = MAPS.write().unwrap_or_else(PoisonError::into_inner);
        maps.remove(&(self.map.as_ptr() as usize));
    }
}

/// Says which file it is when a page of a map can no longer be read: the process ends then, because
/// whoever touched the page cannot be told.
#[expect(unsafe_code, reason = "a handler of signals is unsafe by nature")]
fn name_file_on_sigbus() {
    let handler = |info: &libc::siginfo_t| {
        // SAFETY: the kernel has filled this in for SIGBUS, with the address that was touched.
        let address = unsafe { info.si_addr() } as usize;
        // Whoever adds a map at this very moment leaves the file unnamed.
        let maps = MAPS.try_read().ok();
        let found = maps.as_ref().and_then(|maps| maps.range(..=address).next_back());
        match found.filter(|(start, (length, _))| address - **start < *length) {
            Some((start, (_, path))) => {
                let (position, path) = (address - start, path.display());
                eprintln!(
                    "byte {position} of {path} can no longer be read: was the file cut, or has the disk failed? \
                           `taffrail inspect` says what is left of it"
                );
            }
            None => eprintln!("a mapped file can no longer be read: has the disk failed?"),
        }
        std::process::abort();
    };
    // SAFETY: the handler takes no lock that it could wait for, but for that of standard error, which
    // nobody holds while touching a map; and it never returns.
    let registered = unsafe { signal_hook_registry::register_sigaction(libc::SIGBUS, handler) };
    // Without it the process ends all the same, and says less.
    drop(registered);
}

impl Map for DiskMap {
    fn slice(&self, position: u64, length: usize) -> io::Result<Bytes> {
        let start = (position as usize).min(self.bytes.len());
        let length = length.min(self.bytes.len() - start);
        // Faults the range in here, on a thread that may wait for the disk, and where an error of
        // the disk is an error and not a signal. Linux before 5.14 cannot, and says so.
        match self.map.map.advise_range(Advice::PopulateRead, start, length) {
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
    fn whoever_dies_of_a_file_that_was_cut_names_it() {
        const FILE: &str = "TAFFRAIL_TEST_CUT_FILE";
        if let Some(path) = std::env::var_os(FILE) {
            let file = Disk.open(Path::new(&path)).expect("it is there");
            let bytes = file.map(8192).expect("it maps").slice(0, 8192).expect("it is read");
            file.set_length(0).expect("it is cut");
            std::hint::black_box(bytes[5000]);
            unreachable!("the page is gone");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("00000000000000000000.log");
        fs::write(&path, [7; 8192]).expect("it is written");
        let test = "vfs::disk::tests::whoever_dies_of_a_file_that_was_cut_names_it";
        let mut child = std::process::Command::new(std::env::current_exe().expect("this"));
        child.args(["--exact", test, "--nocapture"]).env(FILE, &path);
        let ended = child.output().expect("it runs");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success(), "{said}");
        let name = path.display().to_string();
        assert!(said.contains(&format!("byte 5000 of {name}")), "{said}");
    }

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
