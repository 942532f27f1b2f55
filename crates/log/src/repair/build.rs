//! Builds a repaired log beside its place, whole and durable, and puts it there.
//!
//! Killed at any moment, it leaves the old log in its place, or the new one whole beside it or in it: a
//! name says which. So the same repair can be told again, and begins anew or takes the last step.

use std::io;
use std::path::{Path, PathBuf};

use super::error::{RepairError, io_at};
use super::plan::{LogPlan, NewSegment, Range};
use crate::index::index_path;
use crate::producers::CHECKPOINTS;
use crate::segment::segment_path;
use crate::vfs::{Vfs, copy_bytes, copy_file, parent, write_full};

/// Where the directories of a repair stand.
#[derive(Debug)]
pub(super) struct Places {
    /// The log.
    pub(super) log: PathBuf,
    /// A new one that is being built: worth nothing.
    pub(super) repairing: PathBuf,
    /// A new one that is whole.
    pub(super) repaired: PathBuf,
}

/// What is written into the segments of a new log: the segments of a plan, or a few batches.
pub(super) fn build(vfs: &dyn Vfs, places: &Places, plan: &LogPlan) -> Result<(), RepairError> {
    let Places { log, repairing, .. } = places;
    begin(vfs, places)?;
    let made = plan.segments.iter().try_for_each(|segment| make_segment(vfs, repairing, segment));
    let made = made.and_then(|()| {
        let checkpoints = CHECKPOINTS.iter().map(|name| (log.join(name), repairing.join(name)));
        checkpoints.into_iter().try_for_each(|(from, to)| share_if_there(vfs, &from, &to))
    });
    finish(vfs, places, made)
}

/// Makes an empty directory to build in.
pub(super) fn begin(vfs: &dyn Vfs, places: &Places) -> Result<(), RepairError> {
    // What an interrupted repair left: the log is in its place, so it can be made again.
    for left in [&places.repairing, &places.repaired] {
        remove_if_there(vfs, left).map_err(io_at(left))?;
    }
    vfs.create_directory(&places.repairing).map_err(io_at(&places.repairing))
}

/// Makes what was built durable under the name that says that it is whole. What could not be built
/// takes up no room.
pub(super) fn finish(
    vfs: &dyn Vfs,
    Places { repairing, repaired, .. }: &Places,
    made: Result<(), RepairError>,
) -> Result<(), RepairError> {
    let logs = parent(repairing);
    let finished = made.and_then(|()| {
        vfs.sync_directory(repairing).map_err(io_at(repairing))?;
        vfs.sync_directory(logs).map_err(io_at(logs))?;
        vfs.rename(repairing, repaired).map_err(io_at(repaired))?;
        vfs.sync_directory(logs).map_err(io_at(logs))
    });
    if finished.is_err() {
        let _ = vfs.remove_directory(repairing);
    }
    finished
}

/// Puts the old log aside, if there is one, and the new one into its place, durably.
pub(super) fn exchange(
    vfs: &dyn Vfs,
    Places { log, repaired, .. }: &Places,
    kept: Option<&Path>,
) -> Result<(), RepairError> {
    let logs = parent(log);
    if let Some(kept) = kept {
        vfs.rename(log, kept).map_err(io_at(log))?;
        // Both must not be on their way at once: a power loss could leave neither in its place.
        vfs.sync_directory(logs).map_err(io_at(logs))?;
    }
    vfs.rename(repaired, log).map_err(io_at(log))?;
    vfs.sync_directory(logs).map_err(io_at(logs))
}

fn make_segment(vfs: &dyn Vfs, directory: &Path, segment: &NewSegment) -> Result<(), RepairError> {
    let path = segment_path(directory, segment.header.base_offset);
    match &segment.batches {
        Some(Range { path: from, .. }) if segment.is_same => {
            share_if_there(vfs, from, &path)?;
            share_if_there(vfs, &index_path(from), &index_path(&path))
        }
        batches => write_segment(vfs, &path, segment, batches.as_ref()).map_err(io_at(&path)),
    }
}

/// Writes a segment with a header of its own and the batches of another.
fn write_segment(
    vfs: &dyn Vfs,
    path: &Path,
    segment: &NewSegment,
    batches: Option<&Range>,
) -> io::Result<()> {
    let header = segment.header.encode();
    let file = vfs.create(path)?;
    write_full(file.as_ref(), 0, &header).map_err(|(_, error)| error)?;
    if let Some(Range { path, position, end_position }) = batches {
        let from = vfs.open_read_only(path)?;
        let range = *position..*end_position;
        copy_bytes(from.as_ref(), range, file.as_ref(), header.len() as u64)?;
    }
    file.sync_data()
}

/// Gives a file that never changes a second name, where there is one; a copy where the file system has
/// no such names.
fn share_if_there(vfs: &dyn Vfs, from: &Path, to: &Path) -> Result<(), RepairError> {
    match vfs.link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if is_refused(&error) => copy_file(vfs, from, to).map_err(io_at(to)),
        shared => shared.map_err(io_at(to)),
    }
}

/// Whether it is the file system that has no second names.
fn is_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), PermissionDenied | TooManyLinks | Unsupported)
}

fn remove_if_there(vfs: &dyn Vfs, directory: &Path) -> io::Result<()> {
    match vfs.remove_directory(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
