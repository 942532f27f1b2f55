//! What a backup says of itself, and a directory that was one.
//!
//! Three lines of text: a title, the data directory that it is of, and when it was taken, in Unix
//! milliseconds. In a backup the file is called `backup`; whoever serves it renames it `restored` first.

use std::io;
use std::path::Path;

use taffrail_model::Timestamp;

use crate::vfs::{Vfs, read_file, replace_file};

/// The file of a backup.
pub(crate) const MANIFEST: &str = "backup";
/// The same file in a directory that was one, and is served.
pub(crate) const RESTORED: &str = "restored";

const TITLE: &str = "taffrail backup";

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The identity of the data directory that it is of.
    pub source: String,
    /// When it was taken.
    pub taken: Timestamp,
}

impl Manifest {
    pub(super) fn write(&self, vfs: &dyn Vfs, directory: &Path) -> io::Result<()> {
        let (source, taken) = (&self.source, self.taken.as_millis());
        let text = format!("{TITLE}\nof {source}\ntaken {taken}\n");
        replace_file(vfs, &directory.join(MANIFEST), text.as_bytes())
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let title = lines.next()?;
        let source = lines.next()?.strip_prefix("of ")?.to_owned();
        let taken = lines.next()?.strip_prefix("taken ")?.parse().ok()?;
        (title == TITLE).then_some(Self { source, taken: Timestamp::from_millis(taken) })
    }
}

/// What a file says; `None` if it is not there, or says nothing.
pub(crate) fn read_manifest(vfs: &dyn Vfs, path: &Path) -> io::Result<Option<Manifest>> {
    match read_file(vfs, path, 4096) {
        Ok(bytes) => Ok(Manifest::parse(&String::from_utf8_lossy(&bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a backup a restored directory, before anything in it is changed. What a restored directory says
/// of itself, if it is one.
pub(crate) fn take_over(vfs: &dyn Vfs, directory: &Path) -> io::Result<Option<Manifest>> {
    let (backup, restored) = (directory.join(MANIFEST), directory.join(RESTORED));
    match vfs.rename(&backup, &restored) {
        Ok(()) => vfs.sync_directory(directory)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    read_manifest(vfs, &restored)
}
