//! How a broker is set up.

use std::time::Duration;

use taffrail_model::limits;

/// How a broker is set up. Every bound has a default that suits a small machine.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Bytes of requests and answers in memory, over all connections.
    pub memory_bytes: u64,
    /// Bytes that the ends of all logs take in memory, so that tailing readers need no disk.
    pub tail_bytes: u64,
    /// Bytes of one request: what a front end takes, and what a topic's batches must fit into.
    pub request_bytes_max: usize,
    /// Bytes of the disk that are kept back for what must be written when it is full.
    pub spare_bytes: u64,
    /// Partitions of all topics.
    pub partitions_max: usize,
    /// Threads that write to logs.
    pub writer_threads: usize,
    /// Threads that sync logs: so many syncs may hang before others wait.
    pub committer_threads: usize,
    /// From how many partitions on that wait for a sync one is for all of them, where the file system
    /// can.
    pub sync_together_min: usize,
    /// Threads that read from logs what is not in memory.
    pub reader_threads: usize,
    /// Bytes of events after which the broker's own state is stored whole, at the least.
    pub snapshot_bytes_min: u64,
    /// Bytes that compaction reads and writes in a second, over all partitions.
    pub compaction_bytes_per_second: u64,
    /// Bytes of sealed segments that are looked at again in a second.
    pub scrub_bytes_per_second: u64,
    /// How often all sealed segments are looked at again; zero: never.
    pub scrub_interval: Duration,
    /// Bytes that a backup reads and writes in a second.
    pub backup_bytes_per_second: u64,
    /// How far in the future a record's timestamp may lie.
    pub timestamp_ahead: Duration,
    /// How long a group is remembered that nobody is in and nobody commits to; zero: for ever.
    pub group_retention: Duration,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            memory_bytes: limits::MEMORY_BYTES_DEFAULT,
            tail_bytes: limits::MEMORY_BYTES_DEFAULT / 2,
            request_bytes_max: limits::REQUEST_BYTES_DEFAULT as usize,
            spare_bytes: limits::SPARE_BYTES,
            partitions_max: limits::PARTITIONS_DEFAULT,
            writer_threads: 2,
            committer_threads: 8,
            sync_together_min: 16,
            reader_threads: 4,
            snapshot_bytes_min: 256 << 10,
            compaction_bytes_per_second: limits::COMPACTION_BYTES_PER_SECOND_DEFAULT,
            scrub_bytes_per_second: limits::SCRUB_BYTES_PER_SECOND_DEFAULT,
            scrub_interval: limits::SCRUB_INTERVAL_DEFAULT,
            backup_bytes_per_second: limits::BACKUP_BYTES_PER_SECOND_DEFAULT,
            timestamp_ahead: limits::TIMESTAMP_AHEAD_DEFAULT,
            group_retention: limits::GROUP_RETENTION_DEFAULT,
        }
    }
}

/// Why a broker cannot be set up so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Too little memory.
    #[error("{found} bytes of memory are too few: give at least {min}")]
    Memory {
        /// What was given.
        found: u64,
        /// The least.
        min: u64,
    },
    /// Requests that are too small or too large.
    #[error("request_bytes_max must be {min} to {max}, not {found}")]
    Request {
        /// What was given.
        found: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A kind of threads that there must be.
    #[error("{name} must be 1 to 256, not {found}")]
    Threads {
        /// The setting.
        name: &'static str,
        /// What was given.
        found: usize,
    },
}

impl BrokerConfig {
    /// Checks the values against one another and the limits.
    ///
    /// # Errors
    /// On the first value that cannot be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.memory_bytes < limits::MEMORY_BYTES_FLOOR {
            let (found, min) = (self.memory_bytes, limits::MEMORY_BYTES_FLOOR);
            return Err(ConfigError::Memory { found, min });
        }
        let (min, max) = (limits::REQUEST_BYTES_FLOOR, limits::REQUEST_BYTES_MAX);
        let found = self.request_bytes_max as u64;
        if !(min..=max).contains(&found) {
            return Err(ConfigError::Request { found, min, max });
        }
        let threads = [
            ("writer_threads", self.writer_threads),
            ("committer_threads", self.committer_threads),
            ("reader_threads", self.reader_threads),
        ];
        match threads.into_iter().find(|(_, count)| !(1..=256).contains(count)) {
            Some((name, found)) => Err(ConfigError::Threads { name, found }),
            None => Ok(()),
        }
    }
}
