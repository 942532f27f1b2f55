//! What is left of the product when it is killed, paused, or its disk fails: real processes, real
//! files, one history of what happened, and one checker that judges it.
//!
//! Random, with a printed seed; a few seconds each, far longer with `TAFFRAIL_DEEP=1`. What a
//! machine does not allow is skipped, and named in the summary of `cargo xtask test`.

mod broker;
mod compaction;
mod cut;
mod descriptors;
mod dice;
mod disk_copy;
mod failed_sync;
mod full_disk;
mod groups;
#[path = "../history/mod.rs"]
mod history;
mod kills;
mod load;
mod mount;
mod no_room;
mod pauses;
mod power;
mod proxy;
mod queues;

mod readback;
mod slow_sync;
mod startup;
mod strace;
mod stream;
mod sweep;
mod tails;
mod together;
mod topics;

use std::fs::OpenOptions;
use std::io::Write as _;

/// How often to do something: quick, or deep.
fn rounds(quick: u64, deep: u64) -> u64 {
    if is_deep() { deep } else { quick }
}

fn is_deep() -> bool {
    std::env::var_os("TAFFRAIL_DEEP").is_some()
}

/// Notes that a test cannot run here: in the file that `TAFFRAIL_SKIPS` names, because what a test
/// that passes says is not shown.
fn skip(test: &str, why: &str) {
    println!("SKIPPED {test}: {why}");
    let Some(path) = std::env::var_os("TAFFRAIL_SKIPS") else { return };
    let file = OpenOptions::new().create(true).append(true).open(path);
    let line = format!("crash: {test}\t{why}\n");
    // At once: others may write too.
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("a note of what is skipped");
}
