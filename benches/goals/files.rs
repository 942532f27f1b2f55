//! What the file system can do apart from appending to one file.

#![expect(clippy::disallowed_types, reason = "what is measured here is the file system itself")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use rustix::fs::{Advice, fadvise, syncfs};

/// Files that are written and synced together.
const FILES: usize = 1_000;
/// Bytes that each gets before a sync: a record of 1 KiB and its batch's header.
const FILE_BYTES: usize = 1_100;
const SYNCS: u32 = 5;
/// At 1,000 a second.
const RATE_SYNCS: u64 = 5_000;
const READ_BYTES: usize = 1 << 20;
const LARGE_FILE_BYTES: usize = 1 << 30;

/// Appends to many files, and syncs them with one call; the mean of what both take, in seconds.
pub(crate) fn sync_many(folder: &Path) -> anyhow::Result<f64> {
    let folder = folder.join("many-files");
    std::fs::create_dir(&folder)?;
    let create = |number| File::create(folder.join(format!("{number}")));
    let mut files: Vec<File> = (0..FILES).map(create).collect::<Result<_, _>>()?;
    let of_folder = File::open(&folder)?;
    syncfs(&of_folder)?;
    let begun = Instant::now();
    for _ in 0..SYNCS {
        for file in &mut files {
            file.write_all(&[b'.'; FILE_BYTES])?;
        }
        syncfs(&of_folder)?;
    }
    let seconds = begun.elapsed().as_secs_f64() / f64::from(SYNCS);
    std::fs::remove_dir_all(&folder)?;
    Ok(seconds)
}

/// Appends 1 KiB at each of 1,000 moments a second and syncs it; the 99th percentile of the time from the
/// moment on, in seconds.
pub(crate) fn sync_at_rate(folder: &Path) -> anyhow::Result<f64> {
    let mut file = tempfile::tempfile_in(folder)?;
    let begun = Instant::now();
    let mut latencies = Vec::new();
    for number in 0..RATE_SYNCS {
        let due = begun + Duration::from_millis(number);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        file.write_all(&[b'.'; FILE_BYTES])?;
        file.sync_data()?;
        latencies.push(due.elapsed().as_secs_f64());
    }
    latencies.sort_unstable_by(f64::total_cmp);
    latencies.get(latencies.len() * 99 / 100).copied().context("no syncs")
}

/// Reads a large file from the disk, and makes it if it is not there; bytes a second.
pub(crate) fn read_cold(folder: &Path) -> anyhow::Result<f64> {
    let path = folder.join("large");
    if !path.exists() {
        let mut file = File::create(&path)?;
        let piece = vec![b'.'; READ_BYTES];
        (0..LARGE_FILE_BYTES / READ_BYTES).try_for_each(|_| file.write_all(&piece))?;
        file.sync_data()?;
    }
    let mut file = File::open(path)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    fadvise(&file, 0, None, Advice::Sequential)?;
    let (mut buffer, begun) = (vec![0; READ_BYTES], Instant::now());
    while file.read(&mut buffer)? > 0 {}
    Ok(LARGE_FILE_BYTES as f64 / begun.elapsed().as_secs_f64())
}
