//! What the disk can do: `fio` writes 1 MiB or 1 KiB at a time from a file's start, and syncs after each.
//!
//! A new file takes new blocks and, often, cold memory, as a log does that grows into it. The same
//! file again has both: that is more than any append can do.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use taffrail_benches::process::{self, Layout};

const ARGUMENTS: [&str; 5] =
    ["--name=append", "--rw=write", "--fdatasync=1", "--ioengine=psync", "--output-format=json"];
/// In large pieces, and as single records come.
const LARGE: [&str; 2] = ["--bs=1M", "--size=1G"];
const SMALL: [&str; 2] = ["--bs=1k", "--size=4M"];

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Appended {
    pub(crate) bytes_per_second: f64,
    /// Mean of one write into the page cache: long where memory is cold.
    pub(crate) write_seconds: f64,
    /// Mean of one `fdatasync`.
    pub(crate) sync_seconds: f64,
}

/// Writes 1 MiB at a time in `folder`, to a new file unless one is there from before.
pub(crate) fn append(layout: Layout, folder: &Path) -> anyhow::Result<Appended> {
    run(layout, folder, LARGE)
}

/// Writes 1 KiB at a time.
pub(crate) fn append_small(layout: Layout, folder: &Path) -> anyhow::Result<Appended> {
    run(layout, folder, SMALL)
}

fn run(layout: Layout, folder: &Path, sizes: [&str; 2]) -> anyhow::Result<Appended> {
    let mut fio = layout.server("fio");
    parse(&process::output(fio.args(ARGUMENTS).args(sizes).current_dir(folder))?)
}

/// Notes may stand before the JSON.
fn parse(printed: &str) -> anyhow::Result<Appended> {
    let json = printed.find('{').and_then(|at| printed.get(at..)).context("fio prints no JSON")?;
    let json: Value = serde_json::from_str(json).context("fio prints other JSON than expected")?;
    let job = &json["jobs"][0];
    ensure!(job["error"] == 0, "fio failed with {}", job["error"]);
    let figure = |value: &Value| value.as_f64().context("fio's JSON lacks a figure");
    Ok(Appended {
        bytes_per_second: figure(&job["write"]["bw_bytes"])?,
        write_seconds: figure(&job["write"]["clat_ns"]["mean"])? / 1e9,
        sync_seconds: figure(&job["sync"]["lat_ns"]["mean"])? / 1e9,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidth_and_sync_are_read() {
        let write = r#""write":{"bw_bytes":5e8,"clat_ns":{"mean":3e5}}"#;
        let job = format!(r#"{{"error":0,{write},"sync":{{"lat_ns":{{"mean":7e5}}}}}}"#);
        let appended = parse(&format!("note: x\n{{\"jobs\":[{job}]}}")).unwrap();
        let expected = Appended { bytes_per_second: 5e8, write_seconds: 3e-4, sync_seconds: 7e-4 };
        assert_eq!(appended, expected);
        assert!(parse("{}").is_err() && parse("").is_err());
    }
}
