//! Small file systems of our own, so that they can be full, and copied as a whole.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::skip;

/// A file system. Unmounted when dropped.
pub(crate) struct Mount {
    pub(crate) path: PathBuf,
    /// The file that holds it, if one does.
    pub(crate) image: PathBuf,
}

impl Mount {
    /// Makes one of a kind, or notes that `test` cannot be here.
    pub(crate) fn new(folder: &Path, kind: &str, test: &str) -> Option<Self> {
        let (path, image) = (folder.join("disk"), folder.join("image"));
        std::fs::create_dir_all(&path).expect("a folder to mount on");
        let (disk, file) = (path.display(), image.display());
        let mounted = shell(&match kind {
            "ext4" => format!(
                "truncate -s 64M {file} && mkfs.ext4 -q -F {file} && mount -o loop {file} {disk}"
            ),
            _ => format!("mount -t {kind} -o size=48m {kind} {disk}"),
        });
        if !mounted {
            skip(test, &format!("this machine does not let us mount {kind}"));
        }
        mounted.then_some(Self { path, image })
    }

    /// Mounts the file system that an image holds.
    pub(crate) fn of(image: PathBuf) -> Self {
        let path = image.with_extension("mounted");
        std::fs::create_dir_all(&path).expect("a folder to mount on");
        let mounted = shell(&format!("mount -o loop {} {}", image.display(), path.display()));
        assert!(mounted, "{} cannot be mounted", image.display());
        Self { path, image }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        shell(&format!("umount -l {}", self.path.display()));
    }
}

/// Whether a script ends well.
pub(crate) fn shell(script: &str) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).stdout(Stdio::null()).stderr(Stdio::null());
    shell.status().is_ok_and(|status| status.success())
}
