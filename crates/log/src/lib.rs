//! Logs in a data directory: append, sync, read, recover.
//!
//! Synchronous: whoever calls decides on which thread. [`Directory`] holds the directory and hands
//! out [`Log`]s; a log hands out [`LogReader`]s and [`LogSyncer`]s. The log is the truth; indexes and
//! the like are caches that are checked before they are believed.
//!
//! Deliberately absent: topics, the network, a runtime, a clock (time comes in as an argument).

mod cache;
mod directory;
mod index;
mod log;
mod reader;
mod recovery;
mod segment;
mod shared;
mod sync;
mod trim;
pub mod verify;
pub mod vfs;

pub use directory::{Directory, DirectoryError, DirectoryOptions, Point};
pub use log::{AppendError, Appended, Log, LogConfig, NewBatch};
pub use reader::{Found, LogReader, Read, ReadError, ReadRequest};
pub use recovery::{Damage, OpenError, Opened, RecoveryReport};
pub use segment::{SegmentHeader, SegmentHeaderError};
pub use sync::{LogSyncer, SyncError};
