//! The Rust client as a member of a group.

mod handover;
mod work;

use taffrail_client::{
    ConsumedBatch, GroupConsumer, GroupConsumerBuilder, GroupEvent, PartitionIndex, TopicName,
    TopicPartition,
};

use super::{describe, until};
use crate::broker::Broker;
use crate::door::{Door, batch, produce_batch, soon};

/// A member of group `g` that reads `t`.
fn member(broker: &Broker) -> GroupConsumerBuilder {
    broker.client().group("g").topic("t")
}

async fn build(builder: GroupConsumerBuilder) -> GroupConsumer {
    soon(builder.build()).await.expect("it can join")
}

fn place(partition: u32) -> TopicPartition {
    let topic = TopicName::parse("t").expect("a name");
    TopicPartition::new(topic, PartitionIndex::new(partition))
}

/// Appends batches of one record to a partition.
async fn append(door: &Door, partition: u32, count: usize) {
    for _ in 0..count {
        let result = door.produce(produce_batch("t", partition, batch(&["x"]))).await;
        assert_eq!(result.error, None);
    }
}

/// The next batch; it has one record. Where that is.
async fn next(consumer: &mut GroupConsumer) -> (u32, u64) {
    at(&next_batch(consumer).await)
}

async fn next_batch(consumer: &mut GroupConsumer) -> ConsumedBatch {
    soon(consumer.next_batch()).await.expect("more").expect("sound")
}

fn at(batch: &ConsumedBatch) -> (u32, u64) {
    (batch.partition.get(), batch.batch.header.base_offset.get())
}

async fn event(consumer: &mut GroupConsumer) -> GroupEvent {
    soon(consumer.next_event()).await.expect("more").expect("no error")
}

/// Waits until nobody is in the group.
async fn until_left(door: &Door) {
    until(async || describe(door, "g").await.expect("it is there").members.is_empty()).await;
}
