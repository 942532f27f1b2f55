//! How files and folders look.

use crate::none;
use crate::source::Source;
use crate::tree::{sources, walk};

/// Lines of a Rust file. Most are far shorter.
const LINES_MAX: usize = 600;

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 9] =
    ["common", "helpers", "lib", "manager", "misc", "shared", "types", "util", "utils"];

/// What is written down and left, in code.
const UNFINISHED: [&str; 5] = ["todo!", "unimplemented!", "dbg!", "#[ignore]", "#[ignore ="];

/// What is written down and left, in comments: say what is so, or open an issue.
const NOTES: [&str; 4] = ["FIXME", "TODO", "XXX", "HACK"];

#[test]
fn every_file_opens_with_what_lives_here() {
    let files = sources("").into_iter().filter(|file| file.path.contains("/src/"));
    none(files.filter(|file| !file.text.starts_with("//! ")).map(|file| file.path));
}

#[test]
fn no_file_is_longer_than_a_reader_bears() {
    let lines = |file: &Source| file.text.lines().count();
    let long = sources("").into_iter().filter(|file| LINES_MAX < lines(file));
    none(long.map(|file| format!("{}: {} lines", file.path, lines(&file))));
}

#[test]
fn no_folder_has_an_empty_name() {
    let name = |path: &str| path.trim_end_matches('/').rsplit('/').next().map(str::to_owned);
    let folders = walk("").into_iter().filter(|path| path.ends_with('/'));
    none(folders.filter(|path| name(path).is_some_and(|it| EMPTY_NAMES.contains(&it.as_str()))));
}

#[test]
fn nothing_unfinished_is_left() {
    none(sources("").into_iter().flat_map(|file| {
        let code = UNFINISHED.iter().flat_map(|word| file.places(&file.code, word));
        let notes = NOTES.iter().flat_map(|word| file.places(&file.comments, word));
        code.chain(notes).collect::<Vec<_>>()
    }));
}
