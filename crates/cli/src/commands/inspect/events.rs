//! What the broker's own logs say, record by record: the catalog, and who producers are.

use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use taffrail_log::repair::Repair;
use taffrail_log::vfs::Disk;
use taffrail_server::repair::{Entry, Own, entries};

use crate::context::Context;
use crate::output::Format;

pub(super) fn run(path: &Path, own: Own, context: &Context) -> anyhow::Result<()> {
    let repair = Repair::peek(Arc::new(Disk), path)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut lost = 0;
    for entry in entries(&repair, own)? {
        match (entry, context.output.format) {
            (Some(Entry { offset, append_time, kind, value }), Format::Text) => {
                writeln!(out, "{offset} {} {kind} {value}", append_time.as_millis())?;
            }
            (Some(Entry { offset, append_time, kind, value }), Format::Json) => {
                let (offset, append_time) = (offset.get(), append_time.as_millis());
                let line = json!({
                    "offset": offset,
                    "append_time": append_time,
                    "kind": kind,
                    "value": value,
                });
                writeln!(out, "{line}")?;
            }
            (None, Format::Text) => {
                lost += 1;
                writeln!(out, "something is lost here")?;
            }
            (None, Format::Json) => {
                lost += 1;
                writeln!(out, "{}", json!({ "damaged": "something is lost here" }))?;
            }
        }
    }
    out.flush()?;
    super::judge(lost)
}
