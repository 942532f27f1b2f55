//! The Rust client of Taffrail: append records, read them from any place, alone or in a
//! group, administer topics.
//!
//! ```no_run
//! use taffrail_client::{Client, Position, Record};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("http://127.0.0.1:7245")?;
//!
//! let producer = client.producer("orders").build().await?;
//! let delivery = producer.send(Record::value(b"one rudder").key(b"customer 7")).await?;
//! let placed = delivery.await?; // committed: on disk, unless the topic says otherwise
//! println!("partition {}, offset {:?}", placed.partition, placed.offset);
//!
//! let mut consumer =
//!     client.consumer().topic("orders").from(Position::Earliest).build().await?;
//! while let Some(batch) = consumer.next_batch().await {
//!     for record in batch?.records() {
//!         let record = record?;
//!         println!("{} {:?}", record.offset, record.value);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! As a member of a consumer group, which shares the partitions and remembers how far it has come:
//!
//! ```no_run
//! # async fn example(client: taffrail_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let mut consumer = client.group("billing").topic("orders").build().await?;
//! while let Some(batch) = consumer.next_batch().await {
//!     let batch = batch?; // the one before is done now
//! #   drop(batch);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! As a worker of a queue, which hands each record to one worker until it is settled:
//!
//! ```no_run
//! use taffrail_client::{Job, Verdict};
//!
//! # async fn example(client: taffrail_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let handle = |job: Job| async move {
//!     println!("{:?}, attempt {}", job.value(), job.attempt());
//!     Verdict::Done
//! };
//! client.queue("orders-worker").concurrency(4).run(handle, std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! What it does for you beyond the bare calls: batches, partitions by key, keeps order through
//! refusals, pushes back when memory is full, sends again what is not answered so that each record
//! is appended once, checks checksums, reconnects, and resumes at exactly the next offset.
//!
//! Deliberately absent: any knowledge of the broker's insides, and retries of what would be applied
//! twice: outcomes that stay unknown are reported as such.

mod admin;
mod client;
mod connections;
mod consumer;
mod error;
mod group;
mod groups;
mod position;
mod producer;
mod queue;
mod queues;
mod retry;

pub use admin::Admin;
pub use client::{Client, ClientBuilder};
pub use consumer::{
    ConsumeError, ConsumedBatch, Consumer, ConsumerBuilder, Event, PartitionPlace, Until,
};
pub use error::{AddressError, CallError, ServerError, StartError};
pub use group::{
    Assignor, Commit, GroupConsumer, GroupConsumerBuilder, GroupEvent, TopicPartition,
};
pub use groups::Groups;
pub use position::{FoundOffset, OffsetQuery, Position};
pub use producer::{
    Acks, Delivery, Placed, ProduceError, Producer, ProducerBuilder, ProducerStats, Record,
};
pub use queue::{Job, QueueStats, QueueWorkerBuilder, Verdict};
pub use queues::Queues;
pub use taffrail_model::batch::{Batch, Compression, HeaderView, RecordView};
pub use taffrail_model::{NameError, Offset, PartitionIndex, Timestamp, TopicName};
/// The messages of the contract, as answers of [`Admin`] have them.
pub use taffrail_proto::v1 as proto;
