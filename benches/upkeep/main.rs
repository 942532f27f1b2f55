//! What keeping a log in order costs, on a real disk: by itself, and whoever produces meanwhile.

mod alone;
mod live;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use live::{Chore, Live};

/// Measures what keeping a log in order costs
#[derive(Debug, Parser)]
#[command(name = "upkeep")]
struct Arguments {
    /// Where the log goes, in a directory of its own that is removed again
    #[arg(long, value_name = "DIR", default_value = ".")]
    place: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Compact a log of so many records with so many keys, without a broker
    Compact {
        #[arg(long, value_name = "N", default_value_t = 10_000_000)]
        records: u64,
        #[arg(long, value_name = "N", default_value_t = 1_000_000)]
        keys: u64,
        #[arg(long, value_name = "N", default_value_t = 100)]
        value_bytes: usize,
    },
    /// Delete so many segments while somebody appends to the same log, without a broker
    Delete {
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        segments: u64,
    },
    /// Produce while a broker compacts the same partition, and without that
    BesideCompaction(Live),
    /// Produce while a broker scrubs other partitions, and without that
    BesideScrub(Live),
    /// Produce while a broker is backed up, and without that
    BesideBackup(Live),
}

fn main() -> anyhow::Result<()> {
    let Arguments { place, what } = Arguments::parse();
    let home = tempfile::Builder::new().prefix("upkeep-").tempdir_in(place)?;
    let home = home.path();
    match what {
        What::Compact { records, keys, value_bytes } => {
            alone::compact(home, records, keys, value_bytes)
        }
        What::Delete { segments } => alone::delete(home, segments),
        What::BesideCompaction(live) => live.measure(home, Chore::Compaction),
        What::BesideScrub(live) => live.measure(home, Chore::Scrub),
        What::BesideBackup(live) => live.measure(home, Chore::Backup),
    }
}
