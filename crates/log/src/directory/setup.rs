//! Makes a new data directory, so that it is there whole or not at all.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{DirectoryError, DirectoryOptions, LOCK, LOGS, create_log_files, identity, take_lock};
use crate::vfs::{Vfs, parent};

/// Entries that an interrupted set-up may leave, and an empty file system has.
const OURS: [&str; 5] = [LOGS, LOCK, "identity.new", "recovery-points.a", "recovery-points.b"];
const LOST_AND_FOUND: &str = "lost+found";

/// Makes sure that there is a data directory, or says why there is none.
pub(super) fn prepare(
    vfs: &Arc<dyn Vfs>,
    options: &DirectoryOptions<'_>,
) -> Result<(), DirectoryError> {
    let path = options.path;
    let io = |source| DirectoryError::Io { path: path.to_owned(), source };
    let entries = match vfs.list(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return beside(vfs.as_ref(), options).map_err(io);
        }
        Err(error) => return Err(io(error)),
    };
    let mut names = entries.iter().map(|entry| entry.name.as_str());
    if names.clone().any(|name| name == identity::NAME) {
        return Ok(());
    }
    if let Some(foreign) = names.find(|name| !OURS.contains(name) && *name != LOST_AND_FOUND) {
        let entry = foreign.to_owned();
        return Err(DirectoryError::Foreign { path: path.to_owned(), entry });
    }
    if !options.init {
        let path = path.to_owned();
        let is_empty = entries.iter().all(|entry| entry.name == LOST_AND_FOUND);
        return Err(if is_empty {
            DirectoryError::Empty { path }
        } else {
            DirectoryError::Unfinished { path }
        });
    }
    let _lock = take_lock(vfs.as_ref(), path)?;
    if entries.iter().any(|entry| entry.name == LOGS) {
        vfs.remove_directory(&path.join(LOGS)).map_err(io)?;
    }
    fill(vfs.as_ref(), path, options).map_err(io)
}

/// Sets the directory up beside its place and moves it there.
fn beside(vfs: &dyn Vfs, options: &DirectoryOptions<'_>) -> io::Result<()> {
    let mut name = options.path.as_os_str().to_owned();
    let mut suffix = String::from(".setup-");
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
    vfs.sync_directory(parent(options.path))
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
