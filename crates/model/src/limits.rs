//! Every upper bound of the system, in one place.
//!
//! A limit that a user can set has its default and its range here; one that follows from the bytes
//! on disk or the wire is a constant.

use std::time::Duration;

/// Bytes of a topic's name.
pub const TOPIC_NAME_BYTES_MAX: usize = 200;

/// Partitions of one topic.
pub const TOPIC_PARTITIONS_MAX: u32 = 10_000;

/// Topics of one broker.
pub const TOPICS_MAX: usize = 10_000;

/// Partitions of one broker, over all topics, unless it is set up otherwise. Each keeps a file open.
pub const PARTITIONS_DEFAULT: usize = 20_000;

/// What may be set at the most.
pub const PARTITIONS_MAX: usize = 1_000_000;

/// Bytes of a batch with its header, by default.
pub const BATCH_BYTES_DEFAULT: u32 = 1 << 20;

/// The least that `max.batch.bytes` can be.
pub const BATCH_BYTES_FLOOR: u32 = 1 << 10;

/// Bytes of a batch with its header, at the most: what `max.batch.bytes` can be.
pub const BATCH_BYTES_MAX: u32 = 64 << 20;

/// Bytes of a segment file, at the most and by default: a protobuf message ends at 2 GiB.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Bytes that a segment file can come to, whatever is added to it: a protobuf message has no more.
pub const SEGMENT_FILE_BYTES_MAX: u64 = i32::MAX as u64;

/// The least that `segment.bytes` can be.
pub const SEGMENT_BYTES_FLOOR: u64 = 64 << 10;

/// Bytes of a segment of a topic that is compacted, where the topic does not say.
pub const COMPACTED_SEGMENT_BYTES: u64 = 64 << 20;

/// How long a tombstone stays after the first compaction that has seen it, where the topic does not say.
pub const TOMBSTONE_AGE_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);

/// Keys that a compaction has in memory at once: some 50 MiB.
pub const COMPACTION_KEYS_MAX: usize = 1_800_000;

/// Records that a compaction looks at; there is a bit in memory for each.
pub const COMPACTION_RECORDS_MAX: u32 = 400_000_000;

/// Bytes that compaction reads and writes in a second.
pub const COMPACTION_BYTES_PER_SECOND_DEFAULT: u64 = 64 << 20;

/// Bytes that a compaction reads before it lets others do something.
pub const COMPACTION_STEP_BYTES: u64 = 1 << 20;

/// Room on the disk that a compaction leaves to others.
pub const COMPACTION_ROOM_BYTES: u64 = SPARE_BYTES;

/// Bytes of a record with its key, at the least.
pub const RECORD_BYTES_FLOOR: u64 = 4;

/// Bytes that a backup reads and writes in a second.
pub const BACKUP_BYTES_PER_SECOND_DEFAULT: u64 = 128 << 20;

/// Bytes that a scrub reads before it lets others do something.
pub const SCRUB_STEP_BYTES: u64 = 1 << 20;

/// Bytes that a scrub reads in a second.
pub const SCRUB_BYTES_PER_SECOND_DEFAULT: u64 = 16 << 20;

/// How often everything is scrubbed.
pub const SCRUB_INTERVAL_DEFAULT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How often it is written down how far a scrub has come.
pub const SCRUB_NOTE_INTERVAL: Duration = Duration::from_secs(60);

/// What the wall clock may be ahead of what it should say, by the monotonic one, before it is doubted.
pub const CLOCK_LEAP: Duration = Duration::from_secs(60);

/// How long nothing is deleted for its age after the clock has leapt ahead.
pub const CLOCK_DOUBT: Duration = Duration::from_secs(60 * 60);

/// A start so long after the broker was last seen counts as a leap of the clock.
pub const LONG_ABSENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// How often a partition in which something becomes old is looked at, at the least.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// When it is looked at again after something went wrong.
pub const UPKEEP_RETRY: Duration = Duration::from_secs(60);

/// Segments that what retention keeps is made of, where the topic does not say how large they are: only
/// whole ones are deleted.
pub const RETAINED_SEGMENTS: u64 = 8;

/// Bytes of a segment's label.
pub const LABEL_BYTES_MAX: usize = 255;

/// Bytes of log between two entries of an index.
pub const INDEX_INTERVAL_BYTES: u64 = 32 << 10;

/// Bytes of the end of an active segment that are kept in memory for readers, for each log.
pub const TAIL_BYTES_MAX: usize = 4 << 20;

/// Bytes of a log that may be written and not yet synced before its writer waits.
pub const UNSYNCED_BYTES_MAX: u64 = 8 << 20;

/// The same in a topic of `durability=page_cache`.
pub const UNSYNCED_BYTES_PAGE_CACHE_MAX: u64 = 64 << 20;

/// Bytes that a data directory keeps back for what must be written when the disk is full: a torn tail
/// of [`UNSYNCED_BYTES_MAX`] can be moved aside.
pub const SPARE_BYTES: u64 = UNSYNCED_BYTES_MAX;

/// Offsets that a log reserves at a time, where what is written may be read before it is synced.
pub const RESERVED_OFFSETS: u64 = 1 << 20;

/// Bytes that one write to a log gathers, but for its last batch. Several writes fit into its tail, and
/// the memory of one is soon used by another: with 4 MiB one busy producer cost twice the CPU.
pub const WRITE_BYTES_MAX: usize = 512 << 10;

/// How long what was written to a `page_cache` topic may stay unsynced.
pub const PAGE_CACHE_SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// How long a change may take to reach the recovery-point file.
pub const RECOVERY_POINT_INTERVAL: Duration = Duration::from_secs(1);

/// Room besides what is wanted before a log is opened anew that could not be opened for want of it.
pub const ROOM_MARGIN_BYTES: u64 = 1 << 20;

/// How far in the future a record's timestamp may lie, by default.
pub const TIMESTAMP_AHEAD_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes of batches in the answer to a fetch that does not say.
pub const FETCH_BYTES_DEFAULT: u32 = 1 << 20;

/// Bytes of a message to a client that does not say what it can receive: stock clients take 4 MiB.
pub const MESSAGE_BYTES_DEFAULT: u32 = (4 << 20) - (64 << 10);

/// Bytes of a request, unless the broker is set up otherwise.
pub const REQUEST_BYTES_DEFAULT: u64 = 16 << 20;

/// The least that may be set as bytes of a request: a batch of the default size fits.
pub const REQUEST_BYTES_FLOOR: u64 = 2 << 20;

/// The most: the largest batch fits.
pub const REQUEST_BYTES_MAX: u64 = 65 << 20;

/// Bytes of a message to a client, whatever it says.
pub const MESSAGE_BYTES_MAX: u32 = BATCH_BYTES_MAX + (64 << 10);

/// Partitions in one fetch, and queries in one call for offsets.
pub const FETCH_PARTITIONS_MAX: usize = 1_000;

/// Batches in one unary produce request.
pub const PRODUCE_BATCHES_MAX: usize = 1_000;

/// How long a fetch may wait.
pub const FETCH_WAIT_MAX: Duration = Duration::from_secs(60);

/// Subscriptions on one consumer's stream.
pub const SUBSCRIPTIONS_MAX: usize = 10_000;

/// Bytes a consumer may have granted and not used.
pub const CREDIT_BYTES_MAX: i64 = 1 << 30;

/// How often a consumer's stream says that it lives.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);

/// Bytes of requests in flight on one produce stream.
pub const IN_FLIGHT_BYTES_MAX: u64 = 64 << 20;

/// Requests in flight on one produce stream.
pub const IN_FLIGHT_REQUESTS_MAX: u32 = 1_024;

/// Bytes of the name of an idempotent producer.
pub const PRODUCER_NAME_BYTES_MAX: usize = 200;

/// Names that idempotent producers have, in one broker.
pub const PRODUCER_NAMES_MAX: usize = 10_000;

/// Batches of an idempotent producer that a partition remembers with their offsets: all that can be
/// in flight on a stream.
pub const PRODUCER_BATCHES_MAX: usize = IN_FLIGHT_REQUESTS_MAX as usize;

/// The same, once the partition remembers [`PARTITION_BATCHES_MAX`] of all producers.
pub const PRODUCER_BATCHES_MIN: usize = 64;

/// Batches of all idempotent producers that a partition remembers before it remembers fewer of each.
pub const PARTITION_BATCHES_MAX: usize = 64 << 10;

/// The same of all partitions of a broker together.
pub const REMEMBERED_BATCHES_MAX: usize = 2 << 20;

/// Idempotent producers that a partition remembers; those that have been silent for longest go.
pub const PARTITION_PRODUCERS_MAX: usize = 4_096;

/// How long a partition remembers an idempotent producer that sends nothing.
pub const PRODUCER_EXPIRY: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Bytes of a segment of a log of the broker's own: what lies before its snapshots goes by segments.
pub const INTERNAL_SEGMENT_BYTES: u64 = 16 << 20;

/// Work queues of one broker.
pub const QUEUES_MAX: usize = 1_000;

/// Bytes of a queue's name.
pub const QUEUE_NAME_BYTES_MAX: usize = 200;

/// Parked records that are listed at once.
pub const PARKED_MAX: usize = 1_000;

/// Records that are settled at once.
pub const SETTLES_MAX: usize = 1_000;

/// Consumer groups of one broker.
pub const GROUPS_MAX: usize = 10_000;

/// Bytes of a group's name.
pub const GROUP_NAME_BYTES_MAX: usize = 200;

/// Members of one consumer group.
pub const GROUP_MEMBERS_MAX: usize = 5_000;

/// Topics and patterns that a member of a group reads.
pub const GROUP_TOPICS_MAX: usize = 100;

/// Bytes of a member's id, of its instance's and of what it calls itself.
pub const MEMBER_ID_BYTES_MAX: usize = 200;

/// Offsets in one commit.
pub const COMMIT_OFFSETS_MAX: usize = 1_000;

/// Bytes of what is committed with an offset.
pub const OFFSET_METADATA_BYTES_MAX: usize = 1 << 10;

/// Bytes that the committed offsets of all groups take in memory: a million without metadata.
pub const GROUP_OFFSETS_BYTES_MAX: usize = 64 << 20;

/// How long a member of a group may be silent, by default.
pub const SESSION_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// The least that it can be.
pub const SESSION_TIMEOUT_FLOOR: Duration = Duration::from_millis(500);

/// The most.
pub const SESSION_TIMEOUT_MAX: Duration = Duration::from_secs(30 * 60);

/// How long a group is remembered that nobody is in and nobody commits to, by default.
pub const GROUP_RETENTION_DEFAULT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Bytes of requests and answers in memory over all connections, by default.
pub const MEMORY_BYTES_DEFAULT: u64 = 512 << 20;

/// The least that the memory budget can be.
pub const MEMORY_BYTES_FLOOR: u64 = 16 << 20;

/// Open connections, by default.
pub const CONNECTIONS_DEFAULT: usize = 4_096;
