//! What must not be there: the invariants that ARCHITECTURE.md names.
//!
//! Comments and strings may say anything. Where a rule is about the product, tests are left out.

use crate::none;
use crate::source::Source;
use crate::tree::sources;

/// The one file that touches the disk.
const DISK: &str = "crates/log/src/vfs/disk.rs";

/// The crates that reach the disk through that file only.
const DISKLESS: [&str; 4] = ["crates/model", "crates/log", "crates/broker", "crates/grpc"];

#[test]
fn unsafe_code_is_in_the_disks_file_alone() {
    none(outside(DISK, &DISKLESS).iter().flat_map(|file| file.places(&file.code, "unsafe")));
}

#[test]
fn files_are_opened_in_the_disks_file_alone() {
    let parents = ["std", "tokio"];
    none(outside(DISK, &DISKLESS).iter().flat_map(|file| {
        parents.iter().flat_map(|parent| imports(file, parent, "fs")).collect::<Vec<_>>()
    }));
}

#[test]
fn the_model_knows_no_runtime_and_no_protobuf() {
    none(mentions("crates/model", &["async", "tokio", "prost"]));
}

#[test]
fn the_log_knows_no_runtime_and_no_network() {
    none(mentions("crates/log", &["async", "tokio", "TcpStream", "TcpListener"]));
}

#[test]
fn the_broker_knows_no_protocol() {
    let words = ["taffrail_proto", "taffrail_grpc", "tonic", "prost", "axum", "hyper"];
    none(mentions("crates/broker", &words));
}

#[test]
fn the_client_knows_neither_broker_nor_log() {
    none(mentions("crates/client", &["taffrail_broker", "taffrail_log"]));
}

/// The source files of these crates but for one.
fn outside(seam: &str, crates: &[&str]) -> Vec<Source> {
    let files = crates.iter().flat_map(|folder| sources(folder));
    files.filter(|file| file.path != seam).collect()
}

/// Where the product's code in a folder has one of these words.
fn mentions(folder: &str, words: &[&str]) -> Vec<String> {
    let files = sources(folder);
    let pairs = files.iter().flat_map(|file| words.iter().map(move |word| (file, word)));
    pairs.flat_map(|(file, word)| file.places(file.product_code(), word)).collect()
}

/// Where the product's code names the module `parent::child`, also as `parent::{.., child}`.
fn imports(file: &Source, parent: &str, child: &str) -> Vec<String> {
    let code = file.product_code();
    let mut found = file.places(code, &format!("{parent}::{child}"));
    for (at, group) in code.match_indices(&format!("{parent}::{{")) {
        let inside = code[at + group.len()..].split(';').next().unwrap_or_default();
        let is_child = |word: &str| word == child;
        if inside.split(|c: char| !c.is_alphanumeric() && c != '_').any(is_child) {
            let line = 1 + code[..at].matches('\n').count();
            found.push(format!("{}:{line}: {parent}::{{.. {child} ..}}", file.path));
        }
    }
    found
}
