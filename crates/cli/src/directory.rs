//! Directories as commands are given them.

use std::io;
use std::path::{Path, PathBuf, absolute};

/// The directory from `/`, without links and `..` as far as it is there: so that it can be told whether one
/// lies within another.
pub(crate) fn resolve(path: &Path) -> io::Result<PathBuf> {
    if let Ok(there) = path.canonicalize() {
        return Ok(there);
    }
    let path = absolute(path)?;
    let above = path.parent().and_then(|parent| parent.canonicalize().ok());
    Ok(above.zip(path.file_name()).map_or(path.clone(), |(above, name)| above.join(name)))
}
