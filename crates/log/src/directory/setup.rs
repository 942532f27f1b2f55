//! Makes a new data directory, so that it is there whole or not at all.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use taffrail_model::{LogId, Offset};

use super::{
    DirectoryError, DirectoryOptions, IDENTITY, LOCK, LOGS, MANIFEST, REMOVED, RESTORED, SCRUB,
    SPARE, create_log_files, identity, take_lock,
};
use crate::segment::{HEADER_BYTES_MAX, decode_header, segment_path};
use crate::vfs::{Entry, Vfs, parent, read_bytes};

/// Entries that an interrupted set-up may leave.
const OURS: [&str; 3] = [LOGS, LOCK, "identity.new"];
/// Entries that only a directory has that was used.
const LATER: [&str; 5] = [SPARE, REMOVED, SCRUB, MANIFEST, RESTORED];
/// An entry that an empty file system has.
const LOST_AND_FOUND: &str = "lost+found";
/// What the name of a directory that is being set up has behind the one it will get, before some digits.
const SET_UP: &str = ".setup-";
/// What entries begin with that are written only once the identity is durable.
const POINTS: &str = "recovery-points.";

/// What stands where a data directory should be.
enum Found {
    /// Nothing at all.
    Nothing,
    /// A data directory.
    Directory,
    /// Nothing, or what an interrupted set-up left.
    Leftovers(Vec<Entry>),
}

/// Makes sure that there is a data directory, or says why there is none.
pub(super) fn prepare(
    vfs: &Arc<dyn Vfs>,
    options: &DirectoryOptions<'_>,
) -> Result<(), DirectoryError> {
    let (vfs, path) = (vfs.as_ref(), options.path);
    let io = |source| DirectoryError::Io { path: path.to_owned(), source };
    match look(vfs, path)? {
        Found::Nothing => return beside(vfs, options).map_err(io),
        Found::Directory => return Ok(()),
        Found::Leftovers(entries) if !options.init => {
            let path = path.to_owned();
            let is_empty = entries.iter().all(|entry| entry.name == LOST_AND_FOUND);
            return Err(if is_empty {
                DirectoryError::Empty { path }
            } else {
                DirectoryError::Unfinished { path }
            });
        }
        Found::Leftovers(_) => {}
    }
    let _lock = take_lock(vfs, path)?;
    // Once more: another process may have set it up, and used it, before this one had the lock.
    let Found::Leftovers(entries) = look(vfs, path)? else { return Ok(()) };
    if entries.iter().any(|entry| entry.name == LOGS) {
        vfs.remove_directory(&path.join(LOGS)).map_err(io)?;
    }
    fill(vfs, path, options).map_err(io)
}

fn look(vfs: &dyn Vfs, path: &Path) -> Result<Found, DirectoryError> {
    let io = |source| DirectoryError::Io { path: path.to_owned(), source };
    let entries = match vfs.list(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(io(error)),
    };
    let mut names = entries.iter().map(|entry| entry.name.as_str());
    if names.clone().any(|name| name == IDENTITY) {
        if !names.any(|name| name.starts_with(POINTS)) {
            settle(vfs, path).map_err(io)?;
        }
        return Ok(Found::Directory);
    }
    let is_known = |name: &str| {
        let is_ours = OURS.contains(&name) || LATER.contains(&name) || name.starts_with(POINTS);
        is_ours || name == LOST_AND_FOUND
    };
    if let Some(foreign) = names.find(|name| !is_known(name)) {
        let entry = foreign.to_owned();
        return Err(DirectoryError::Foreign { path: path.to_owned(), entry });
    }
    if has_been_used(vfs, path, &entries).map_err(io)? {
        return Err(DirectoryError::Identity { path: path.join(IDENTITY) });
    }
    Ok(Found::Leftovers(entries))
}

/// Makes the place of a directory durable that nobody has opened yet: whoever set it up may have been
/// killed before he could.
fn settle(vfs: &dyn Vfs, path: &Path) -> io::Result<()> {
    match vfs.sync_directory(parent(path)) {
        // Then it was not made here by us.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        settled => settled,
    }
}

/// Whether a directory without an identity had one once: it holds what an interrupted set-up cannot
/// have left, recovery points or records.
fn has_been_used(vfs: &dyn Vfs, path: &Path, entries: &[Entry]) -> io::Result<bool> {
    let is_later = |name: &str| name.starts_with(POINTS) || LATER.contains(&name);
    if entries.iter().any(|entry| is_later(&entry.name)) {
        return Ok(true);
    }
    if !entries.iter().any(|entry| entry.name == LOGS) {
        return Ok(false);
    }
    let logs = path.join(LOGS);
    for log in vfs.list(&logs)? {
        let log = logs.join(log.name);
        for file in vfs.list(&log)? {
            let file = vfs.open_read_only(&log.join(file.name))?;
            let bytes = read_bytes(file.as_ref(), 0, HEADER_BYTES_MAX)?;
            let header_bytes = decode_header(&bytes).map_or(HEADER_BYTES_MAX, |header| header.1);
            if file.length()? > header_bytes as u64 {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Sets the directory up beside its place and moves it there.
fn beside(vfs: &dyn Vfs, options: &DirectoryOptions<'_>) -> io::Result<()> {
    let mut name = options.path.as_os_str().to_owned();
    let mut suffix = String::from(SET_UP);
    for byte in &vfs.random()[..4] {
        let _ = write!(suffix, "{byte:02x}");
    }
    name.push(suffix);
    let workshop = PathBuf::from(name);
    vfs.create_directory(&workshop)?;
    let made = fill(vfs, &workshop, options).and_then(|()| vfs.rename(&workshop, options.path));
    if let Err(error) = made {
        vfs.remove_directory(&workshop)?;
        return Err(error);
    }
    settle(vfs, options.path)?;
    sweep(vfs, options.path);
    Ok(())
}

/// Removes what set-ups of the same directory that were killed have left beside it. Whatever holds
/// more than a set-up writes stays, and so does what cannot be looked at.
fn sweep(vfs: &dyn Vfs, path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for entry in vfs.list(parent(path)).unwrap_or_default() {
        let suffix = entry.name.strip_prefix(&*name).and_then(|rest| rest.strip_prefix(SET_UP));
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_ours = suffix.is_some_and(|it| it.len() == 8 && it.bytes().all(is_hex));
        let left = parent(path).join(&entry.name);
        if is_ours && holds_a_set_up(vfs, &left).unwrap_or(false) {
            // A later one may succeed where this does not.
            let _ = vfs.remove_directory(&left);
        }
    }
}

/// Whether a directory holds nothing but what a set-up writes, and no record.
fn holds_a_set_up(vfs: &dyn Vfs, path: &Path) -> io::Result<bool> {
    for entry in vfs.list(path)? {
        if entry.name == LOGS {
            for log in vfs.list(&path.join(LOGS))? {
                let log_path = path.join(LOGS).join(&log.name);
                if LogId::parse(&log.name).is_none() || !holds_no_record(vfs, &log_path)? {
                    return Ok(false);
                }
            }
        } else if entry.name != IDENTITY && entry.name != "identity.new" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a log is as it was created, or half so.
fn holds_no_record(vfs: &dyn Vfs, log: &Path) -> io::Result<bool> {
    let first = segment_path(log, Offset::ZERO);
    for entry in vfs.list(log)? {
        let path = log.join(&entry.name);
        if path != first && path != crate::vfs::beside(&first) {
            return Ok(false);
        }
        let file = vfs.open_read_only(&path)?;
        let bytes = read_bytes(file.as_ref(), 0, HEADER_BYTES_MAX)?;
        let header_bytes = decode_header(&bytes).map_or(HEADER_BYTES_MAX, |header| header.1);
        if file.length()? > header_bytes as u64 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Puts everything into a directory, the identity last.
fn fill(vfs: &dyn Vfs, path: &Path, options: &DirectoryOptions<'_>) -> io::Result<()> {
    let logs = path.join(LOGS);
    vfs.create_directory(&logs)?;
    for (id, label) in options.first_logs {
        create_log_files(vfs, &logs.join(id.to_string()), *id, label, options.now)?;
    }
    vfs.sync_directory(&logs)?;
    vfs.sync_directory(path)?;
    identity::write(vfs, path)
}
