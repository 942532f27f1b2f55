//! The file that makes a directory a data directory.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::vfs::{Vfs, read_file, replace_file};

pub(crate) const NAME: &str = "identity";

/// The version of the layout of a data directory that is written and read.
const FORMAT_VERSION: u32 = 1;

const TITLE: &str = "taffrail data directory";

/// What an identity file says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// It is a data directory.
    Known {
        /// Its identity, 32 hexadecimal digits.
        id: String,
        /// The version of its layout.
        format: u32,
    },
    /// A newer version wrote it.
    Newer(u32),
    /// It cannot be understood.
    Damaged,
}

pub(crate) fn read(vfs: &dyn Vfs, directory: &Path) -> io::Result<Option<Identity>> {
    match read_file(vfs, &directory.join(NAME), 4096) {
        Ok(bytes) => Ok(Some(parse(&String::from_utf8_lossy(&bytes)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn write(vfs: &dyn Vfs, directory: &Path) -> io::Result<()> {
    let mut text = format!("{TITLE}\nformat {FORMAT_VERSION}\nid ");
    for byte in vfs.random() {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
    replace_file(vfs, &directory.join(NAME), text.as_bytes())
}

fn parse(text: &str) -> Identity {
    let mut lines = text.lines();
    let title = lines.next();
    let format = lines.next().and_then(|line| line.strip_prefix("format ")?.parse().ok());
    let id = lines.next().and_then(|line| line.strip_prefix("id "));
    match (title, format, id) {
        (Some(TITLE), Some(version), _) if version > FORMAT_VERSION => Identity::Newer(version),
        (Some(TITLE), Some(format @ FORMAT_VERSION), Some(id)) if id.len() == 32 => {
            Identity::Known { id: id.to_owned(), format }
        }
        _ => Identity::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_known_newer_or_damaged() {
        let id = "0123456789abcdef0123456789abcdef";
        let text = |version: u32| format!("{TITLE}\nformat {version}\nid {id}\n");
        assert_eq!(parse(&text(1)), Identity::Known { id: id.to_owned(), format: 1 });
        assert_eq!(parse(&text(2)), Identity::Newer(2));
        assert_eq!(parse("something else"), Identity::Damaged);
        assert_eq!(parse(&text(1).replace("id 01", "id ")), Identity::Damaged);
    }
}
