//! What a broker does, behind one API: [`Broker`].
//!
//! Asynchronous, and the same for every front end: no sockets, no protobuf, no HTTP, and no file is
//! opened here. Each room is a folder with a door; rooms meet in `broker.rs` and nowhere else.
//!
//! - `catalog/`: which topics exist, and how they are kept
//! - `partition/`: the hot path: append, commit, fetch
//! - `produce/`: a producer's requests, in order
//! - `producers/`: who idempotent producers are
//! - `consume/`: a consumer's stream: positions and credit
//! - `group/`: consumer groups: who reads which partition, and how far each has come
//! - `upkeep/`: when partitions are kept in order: retention, and the age of segments
//! - `coordinator/`: runs a state machine whose state is itself a log
//! - `repair/`: builds the broker's own logs anew, without a broker

mod administration;
mod backup;
mod broker;
mod catalog;
mod clock;
mod config;
mod consume;
mod coordinator;
mod crew;
mod fetch;
mod group;
mod internal;
mod memory;
mod metrics;
mod nearest;
mod opening;
mod pace;
mod partition;
mod produce;
mod producers;
mod queue;
pub mod repair;
mod shared;
mod start;
mod topics;
mod upkeep;
mod work;

pub use backup::{BackupFailure, BackupProgress, BackupSummary};
pub use broker::{Broker, TopicDescription};
pub use catalog::{
    CatalogError, Durability, SETTINGS, SettingError, SettingInfo, SettingValue, Topic,
    TopicSettings,
};
pub use clock::{Clock, Stopwatch, SystemClock};
pub use config::{BrokerConfig, ConfigError};
pub use consume::{ConsumeCommand, ConsumeEvent, ConsumeSession, Subscription, SubscriptionError};
pub use crew::{Crew, Turns};
pub use fetch::{
    FetchError, FetchPartition, FetchRequest, FetchResult, Fetched, Message, OffsetFound, Position,
};
pub use group::{
    AssignedPartition, Assignment, Assignor, AwaitedPartition, CommittedOffset, DeliveryState,
    GroupDescription, GroupError, GroupReader, GroupRefusal, GroupSummary, Heartbeat, Join,
    MemberDescription, MemberStream, OffsetCommit, OffsetReset, PartitionLag, Rates, ResetOffsets,
    ResetTo,
};
pub use memory::{Charge, MemoryBudget};
pub use metrics::{Histogram, Metrics};
pub use partition::{DeleteRecordsError, PartitionDescription, PartitionStatus};
pub use produce::{
    Acks, IncomingBatch, Outcome, Place, Placement, ProduceBatch, ProduceError, ProduceSession,
    Produced, StreamRequest,
};
pub use producers::{InitProducer, InitProducerError, ProducerIdentity};
pub use queue::{
    CreateQueue, Crowd, Idle, ParkedPage, ParkedQuery, ParkedRecord, QueueCommand, QueueDelivery,
    QueueDescription, QueueError, QueueEvent, QueueOrder, QueuePartition, QueuePlace, QueuePolicy,
    QueueRecord, QueueRefusal, QueueRetention, QueueSession, QueueSummary, QueueTally, Selection,
    Settle, SettleRefusal, Verdict,
};
pub use start::{Machine, StartError};
pub use taffrail_log::{BackupError, Dirt, SequenceError};
