//! The files of the repository, without what is built or ignored.

use std::fs;
use std::path::{Path, PathBuf};

use crate::source::Source;

/// Folders that are not ours, by name.
const IGNORED: [&str; 4] = [".git", "target", "taffrail-data", "node_modules"];

/// The folder of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// A file's text, by its path in the repository.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file and, with a `/` behind, every folder below `folder`, by path in the repository.
pub(crate) fn walk(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if IGNORED.iter().any(|name| path.ends_with(name)) {
                continue;
            }
            if path.is_dir() {
                found.push(format!("{}/", relative(&path)));
                folders.push(path);
            } else {
                found.push(relative(&path));
            }
        }
    }
    found.sort();
    found
}

/// Every Rust file below `folder` that a person wrote, taken apart.
pub(crate) fn sources(folder: &str) -> Vec<Source> {
    let written = with_extension(folder, "rs").filter(|path| !path.contains("/generated/"));
    written.map(|path| Source::new(&path, &read(&path))).collect()
}

/// The files below `folder` whose names end with this extension.
pub(crate) fn with_extension(folder: &str, extension: &str) -> impl Iterator<Item = String> {
    let has = move |path: &String| Path::new(path).extension().is_some_and(|it| it == extension);
    walk(folder).into_iter().filter(has)
}

fn relative(path: &Path) -> String {
    let path: PathBuf = path.strip_prefix(root()).expect("it was found below the root").into();
    path.to_str().expect("names here are UTF-8").to_owned()
}
