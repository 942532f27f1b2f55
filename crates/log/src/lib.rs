//! Logs in a data directory: append, sync, read, recover.
//!
//! Synchronous: whoever calls decides on which thread. [`Directory`] holds the directory and hands
//! out [`Log`]s; a log hands out [`LogReader`]s and [`LogSyncer`]s. The log is the truth; indexes and
//! the like are caches that are checked before they are believed.
//!
//! Deliberately absent: topics, the network, a runtime, a clock (time comes in as an argument).

mod append;
mod atomic;
mod backup;
mod batch;
mod compaction;
mod config;
mod damage;
mod delete;
mod directory;
mod error;
mod index;
mod log;
mod points;
mod producers;
mod progress;
mod reader;
mod recovery;
pub mod repair;
mod retention;
mod scrub;
mod segment;
mod shared;
mod spare;
mod sync;
mod trim;
mod unread;
pub mod verify;
pub mod vfs;

pub use append::Append;
pub use backup::{Backup, BackupError, BackupReport, Manifest, RestoreError, Restored, restore};
pub use batch::{Appended, NewBatch};
pub use compaction::{
    Compaction, CompactionConfig, CompactionError, CompactionReport, Dirt, Step as CompactionStep,
};
pub use config::LogConfig;
pub use damage::Damage;
pub use delete::{DeleteError, Deleted, Deletion};
pub use directory::{Directory, DirectoryError, DirectoryOptions, Opened};
pub use error::AppendError;
pub use log::Log;
pub use points::Point;
pub use producers::{Known, SequenceError};
pub use reader::{Found, LogReader, Read, ReadError};
pub use recovery::{OpenError, RecoveryReport, SalvagedHeader};
pub use retention::{Expired, Retention};
pub use scrub::{Scrub, ScrubPass, ScrubState, ScrubStep};
pub use segment::{Compacted, SegmentHeader, SegmentHeaderError};
pub use sync::{LogSyncer, SyncError, sync_together};
pub use taffrail_model::LogId;
pub use trim::ReadRequest;
pub use unread::Unread;
