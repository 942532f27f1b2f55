//! Directories and what stands in them: as programs see it, and as it would be found after a crash.
//!
//! An entry belongs to its directory alone: to rename a directory leaves everything below it as
//! durable as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::contents::Contents;
use super::{Entry, Random, lock};

/// What an entry stands for. Two entries may stand for the same.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// A directory, by its place in [`Tree::directories`].
    Directory(usize),
    File(Arc<Mutex<Contents>>),
}

type Entries = BTreeMap<OsString, Node>;

#[derive(Clone, Debug, Default)]
struct Directory {
    seen: Entries,
    durable: Entries,
}

/// All directories there ever were; the first one is the root.
#[derive(Debug)]
pub(super) struct Tree {
    directories: Vec<Directory>,
    /// What was renamed and may be found undone.
    renamed: Vec<Renamed>,
}

/// An entry that was given another place.
#[derive(Debug)]
struct Renamed {
    node: Node,
    from: (usize, OsString),
    to: usize,
}

impl Default for Tree {
    fn default() -> Self {
        Self { directories: vec![Directory::default()], renamed: Vec::new() }
    }
}

impl Tree {
    pub(super) fn file(&self, path: &Path) -> io::Result<Arc<Mutex<Contents>>> {
        match self.node(path)? {
            Node::File(contents) => Ok(contents),
            Node::Directory(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// Every file, ascending by path.
    pub(super) fn files(&self) -> Vec<(PathBuf, Arc<Mutex<Contents>>)> {
        let mut files = Vec::new();
        self.collect(0, Path::new("/"), &mut files);
        files
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let directory = self.directory(path)?;
        let entries = self.directories[directory].seen.iter().map(|(name, node)| Entry {
            name: name.to_string_lossy().into(),
            is_directory: matches!(node, Node::Directory(_)),
        });
        Ok(entries.collect())
    }

    /// Puts an entry in a place that must be free.
    pub(super) fn insert(&mut self, path: &Path, node: Node) -> io::Result<()> {
        let (directory, name) = self.place(path)?;
        let entries = &mut self.directories[directory].seen;
        if entries.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        entries.insert(name.to_owned(), node);
        Ok(())
    }

    pub(super) fn create_directory(&mut self, path: &Path) -> io::Result<()> {
        self.insert(path, Node::Directory(self.directories.len()))?;
        self.directories.push(Directory::default());
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.node(from)?;
        let (directory, name) = self.place(to)?;
        let (from_directory, from_name) = self.place(from)?;
        self.directories[directory].seen.insert(name.to_owned(), node.clone());
        let from_place = (from_directory, from_name.to_owned());
        self.renamed.push(Renamed { node, from: from_place, to: directory });
        self.remove(from)
    }

    /// Removes a directory and everything below it.
    pub(super) fn remove_directory(&mut self, path: &Path) -> io::Result<()> {
        let directory = self.directory(path)?;
        self.clear(directory);
        self.remove(path)
    }

    fn clear(&mut self, directory: usize) {
        for node in std::mem::take(&mut self.directories[directory].seen).into_values() {
            if let Node::Directory(below) = node {
                self.clear(below);
            }
        }
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let (directory, name) = self.place(path)?;
        let removed = self.directories[directory].seen.remove(name);
        removed.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Removes an entry durably, without a sync.
    pub(super) fn lose(&mut self, path: &Path) -> io::Result<()> {
        self.remove(path)?;
        let (directory, name) = self.place(path)?;
        self.directories[directory].durable.remove(name);
        Ok(())
    }

    pub(super) fn sync_directory(&mut self, path: &Path) -> io::Result<()> {
        let at = self.directory(path)?;
        let directory = &mut self.directories[at];
        directory.durable.clone_from(&directory.seen);
        self.renamed.retain(|renamed| renamed.from.0 != at);
        Ok(())
    }

    /// The same directories and files once more, sharing nothing.
    pub(super) fn copy(&self) -> Self {
        let mut files = BTreeMap::new();
        let mut copy = |node: &Node| match node {
            Node::Directory(at) => Node::Directory(*at),
            // What has two entries, or one that is seen and one that is durable, is one file.
            Node::File(contents) => {
                let copy = || Arc::new(Mutex::new(lock(contents).clone()));
                Node::File(Arc::clone(files.entry(Arc::as_ptr(contents)).or_insert_with(copy)))
            }
        };
        let renamed = self.renamed.iter().map(|renamed| {
            let Renamed { node, from, to } = renamed;
            Renamed { node: copy(node), from: from.clone(), to: *to }
        });
        let renamed = renamed.collect();
        let mut entries = |entries: &Entries| -> Entries {
            entries.iter().map(|(name, node)| (name.clone(), copy(node))).collect()
        };
        let directories = self.directories.iter().map(|directory| Directory {
            seen: entries(&directory.seen),
            durable: entries(&directory.durable),
        });
        Self { directories: directories.collect(), renamed }
    }

    /// What is found after a crash: each entry that is not durable new or old.
    pub(super) fn crash(&self, random: &mut Random) -> Self {
        let mut survivors: Vec<_> =
            self.directories.iter().map(|directory| directory.survivors(random)).collect();
        for Renamed { node, from: (from, name), to } in &self.renamed {
            let is_there =
                |at: &usize| survivors[*at].values().any(|it| is_same(Some(it), Some(node)));
            let was_durable = is_same(self.directories[*from].durable.get(name), Some(node));
            if was_durable && ![*from, *to].iter().any(is_there) {
                survivors[*from].insert(name.clone(), node.clone());
            }
        }
        let mut after = Self { directories: Vec::new(), renamed: Vec::new() };
        Self::crash_directory(0, &survivors, random, &mut after);
        after
    }

    fn crash_directory(
        from: usize,
        survivors: &[Entries],
        random: &mut Random,
        after: &mut Self,
    ) -> usize {
        let at = after.directories.len();
        after.directories.push(Directory::default());
        let mut entries = Entries::new();
        for (name, survivor) in &survivors[from] {
            let survivor = match survivor {
                Node::Directory(below) => {
                    Node::Directory(Self::crash_directory(*below, survivors, random, after))
                }
                Node::File(contents) => {
                    Node::File(Arc::new(Mutex::new(lock(contents).crash(random))))
                }
            };
            entries.insert(name.clone(), survivor);
        }
        after.directories[at] = Directory { seen: entries.clone(), durable: entries };
        at
    }

    fn collect(&self, from: usize, path: &Path, files: &mut Vec<(PathBuf, Arc<Mutex<Contents>>)>) {
        for (name, node) in &self.directories[from].seen {
            match node {
                Node::Directory(below) => self.collect(*below, &path.join(name), files),
                Node::File(contents) => files.push((path.join(name), Arc::clone(contents))),
            }
        }
    }

    fn node(&self, path: &Path) -> io::Result<Node> {
        let (directory, name) = self.place(path)?;
        let node = self.directories[directory].seen.get(name);
        node.cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The directory that a path's last part stands in, and that part.
    fn place<'a>(&self, path: &'a Path) -> io::Result<(usize, &'a OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.directory(super::super::parent(path))?, name))
    }

    fn directory(&self, path: &Path) -> io::Result<usize> {
        let mut at = 0;
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            at = match self.directories[at].seen.get(name) {
                Some(Node::Directory(below)) => *below,
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => return Err(io::ErrorKind::NotFound.into()),
            };
        }
        Ok(at)
    }
}

impl Directory {
    /// The entries that a crash leaves: of each that is not durable the new or the old.
    fn survivors(&self, random: &mut Random) -> Entries {
        let Self { seen, durable } = self;
        let names: BTreeSet<_> = seen.keys().chain(durable.keys()).collect();
        let survivor = |name: &OsString| {
            let (new, old) = (seen.get(name), durable.get(name));
            let survivor = if is_same(new, old) || random.coin() { new } else { old };
            survivor.map(|node| (name.clone(), node.clone()))
        };
        names.into_iter().filter_map(survivor).collect()
    }
}

fn is_same(a: Option<&Node>, b: Option<&Node>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(Node::Directory(a)), Some(Node::Directory(b))) => a == b,
        (Some(Node::File(a)), Some(Node::File(b))) => Arc::ptr_eq(a, b),
        _ => false,
    }
}
