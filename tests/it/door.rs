//! The bare calls of the contract, as a client without a library makes them.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use taffrail_proto::v1;
use taffrail_proto::v1::admin_service_client::AdminServiceClient;
use taffrail_proto::v1::log_service_client::LogServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::broker::{Broker, PATIENCE};

const MESSAGE_BYTES_MAX: usize = 128 << 20;

/// A connection to a broker and the services behind it.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) channel: Channel,
    pub(crate) log: LogServiceClient<Channel>,
    pub(crate) admin: AdminServiceClient<Channel>,
}

/// A record and its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Placed {
    pub(crate) offset: u64,
    pub(crate) record: v1::Record,
}

/// Waits for what should take a moment.
#[track_caller]
pub(crate) fn soon<T>(what: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let done = tokio::time::timeout(PATIENCE, what).await;
        done.unwrap_or_else(|_| panic!("{caller}: waited for {PATIENCE:?}"))
    }
}

impl Door {
    pub(crate) async fn open(broker: &Broker) -> Self {
        Self::through(Endpoint::from_shared(broker.url.clone()).expect("an address")).await
    }

    /// A connection on which so many bytes of an answer may wait to be read.
    pub(crate) async fn narrow(url: String, bytes: u32) -> Self {
        let endpoint = Endpoint::from_shared(url).expect("an address");
        Self::through(endpoint.initial_stream_window_size(bytes)).await
    }

    async fn through(endpoint: Endpoint) -> Self {
        let channel = soon(endpoint.connect()).await.expect("the broker serves");
        let log = LogServiceClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self { admin: AdminServiceClient::new(channel.clone()), channel, log }
    }

    pub(crate) async fn create(&self, name: &str, partitions: u32) -> v1::Topic {
        self.create_with(name, partitions, &[]).await
    }

    pub(crate) async fn create_with(
        &self,
        name: &str,
        partitions: u32,
        settings: &[(&str, &str)],
    ) -> v1::Topic {
        let topic = self.try_create(name, partitions, settings).await;
        topic.expect("it can be created")
    }

    pub(crate) async fn try_create(
        &self,
        name: &str,
        partitions: u32,
        settings: &[(&str, &str)],
    ) -> Result<v1::Topic, Status> {
        let (name, settings) = (name.to_owned(), settings_of(settings));
        let request = v1::CreateTopicRequest { name, partitions, settings };
        let answer = soon(self.admin.clone().create_topic(request)).await?;
        Ok(answer.into_inner().topic.expect("a topic"))
    }

    pub(crate) async fn alter(
        &self,
        name: &str,
        settings: &[(&str, &str)],
    ) -> Result<v1::Topic, Status> {
        let (name, settings) = (name.to_owned(), settings_of(settings));
        let request = v1::AlterTopicRequest { name, settings };
        let answer = soon(self.admin.clone().alter_topic(request)).await?;
        Ok(answer.into_inner().topic.expect("a topic"))
    }

    pub(crate) async fn describe(&self, name: &str) -> v1::DescribeTopicResponse {
        let request = v1::DescribeTopicRequest { name: name.to_owned() };
        soon(self.admin.clone().describe_topic(request)).await.expect("it is there").into_inner()
    }

    pub(crate) async fn status(&self, name: &str, partition: usize) -> v1::PartitionStatus {
        self.describe(name).await.partitions[partition].status()
    }

    /// Where the partition stands after it was opened anew.
    pub(crate) async fn reopen(
        &self,
        topic: &str,
        partition: u32,
    ) -> Result<v1::Partition, Status> {
        let request = v1::ReopenPartitionRequest { topic: topic.to_owned(), partition };
        let reopened = soon(self.admin.clone().reopen_partition(request)).await?;
        Ok(reopened.into_inner().partition.expect("a partition"))
    }

    /// Deletes records of a partition, and returns where it stands then.
    pub(crate) async fn delete_records(
        &self,
        topic: &str,
        partition: u32,
        before: Option<u64>,
    ) -> Result<v1::Partition, Status> {
        let request = v1::DeleteRecordsRequest { topic: topic.to_owned(), partition, before };
        let deleted = soon(self.admin.clone().delete_records(request)).await?;
        Ok(deleted.into_inner().partition.expect("a partition"))
    }

    /// Waits until every partition of a topic reads and writes; after a start that takes a moment.
    pub(crate) async fn online(&self, name: &str) -> v1::DescribeTopicResponse {
        let online = v1::PartitionStatus::Online as i32;
        let wait = async {
            loop {
                let description = self.describe(name).await;
                if description.partitions.iter().all(|partition| partition.status == online) {
                    return description;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(wait).await
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<(), Status> {
        let request = v1::DeleteTopicRequest { name: name.to_owned() };
        soon(self.admin.clone().delete_topic(request)).await.map(drop)
    }

    /// Appends values as one batch and returns the offset of the first.
    #[track_caller]
    pub(crate) fn append(&self, topic: &str, values: &[&str]) -> impl Future<Output = u64> {
        let caller = std::panic::Location::caller();
        let request = produce_batch(topic, 0, batch(values));
        let door = self.clone();
        async move {
            let result = door.produce(request).await;
            assert_eq!(result.error, None, "{caller}");
            result.base_offset()
        }
    }

    /// Sends one batch; the result may be a refusal.
    pub(crate) async fn produce(&self, batch: v1::ProduceBatch) -> v1::ProduceResult {
        let results = self.produce_all(vec![batch]).await;
        results.into_iter().next().expect("a result")
    }

    pub(crate) async fn produce_all(
        &self,
        batches: Vec<v1::ProduceBatch>,
    ) -> Vec<v1::ProduceResult> {
        let count = batches.len();
        let request = v1::ProduceRequest { batches, acks: 0 };
        let answer = soon(self.log.clone().produce(request)).await.expect("it answers");
        let results = answer.into_inner().results;
        assert_eq!(results.len(), count, "a result per batch");
        results
    }

    /// Reads a partition from `offset`; at once.
    pub(crate) async fn fetch(&self, topic: &str, partition: u32, offset: u64) -> v1::FetchResult {
        let request = fetch_request(topic, partition, offset);
        self.fetch_all(request).await.into_iter().next().expect("a result")
    }

    pub(crate) async fn fetch_all(&self, request: v1::FetchRequest) -> Vec<v1::FetchResult> {
        soon(self.log.clone().fetch(request)).await.expect("it answers").into_inner().results
    }

    /// Every record of a partition from `offset` on.
    pub(crate) async fn read(&self, topic: &str, partition: u32, offset: u64) -> Vec<Placed> {
        let mut found = Vec::new();
        let mut next = offset;
        loop {
            let result = self.fetch(topic, partition, next).await;
            assert_eq!((result.error, result.gap), (None, None));
            found.extend(placed(&result.data).into_iter().filter(|placed| next <= placed.offset));
            if result.next_offset == next {
                return found;
            }
            next = result.next_offset;
        }
    }

    /// The values of partition 0, in order.
    pub(crate) async fn values(&self, topic: &str) -> Vec<String> {
        self.read(topic, 0, 0).await.iter().map(value).collect()
    }

    /// Where a position is.
    pub(crate) async fn find(
        &self,
        topic: &str,
        partition: u32,
        position: v1::position::At,
    ) -> v1::OffsetResult {
        let position = Some(v1::Position { at: Some(position) });
        let query = v1::OffsetQuery { topic: topic.to_owned(), partition, position };
        let request = v1::ListOffsetsRequest { queries: vec![query] };
        let answer = soon(self.log.clone().list_offsets(request)).await.expect("it answers");
        answer.into_inner().results.into_iter().next().expect("a result")
    }
}

pub(crate) fn fetch_request(topic: &str, partition: u32, offset: u64) -> v1::FetchRequest {
    let partition = v1::FetchPartition { topic: topic.to_owned(), partition, offset };
    v1::FetchRequest { partitions: vec![partition], ..Default::default() }
}

pub(crate) fn settings_of(settings: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A batch for a partition.
pub(crate) fn produce_batch(
    topic: &str,
    partition: u32,
    batch: v1::RecordBatch,
) -> v1::ProduceBatch {
    let placement = Some(v1::produce_batch::Placement::Partition(partition));
    v1::ProduceBatch {
        topic: topic.to_owned(),
        placement,
        batch: Some(batch),
        expected_next_offset: None,
    }
}

/// A record that says `value`.
pub(crate) fn record(value: &str) -> v1::Record {
    v1::Record { value: Some(Bytes::copy_from_slice(value.as_bytes())), ..Default::default() }
}

/// A batch of records with these values.
pub(crate) fn batch(values: &[&str]) -> v1::RecordBatch {
    batch_of(values.iter().map(|value| record(value)).collect())
}

pub(crate) fn batch_of(records: Vec<v1::Record>) -> v1::RecordBatch {
    batch_with(v1::RecordSet { records }.encode_to_vec().into())
}

/// A batch with these bytes for records, whatever they are.
pub(crate) fn batch_with(payload: Bytes) -> v1::RecordBatch {
    let payload = Some(v1::record_batch::Payload::Records(payload));
    v1::RecordBatch { payload, ..Default::default() }
}

/// The batches of an answer, as prost reads them in the raw view.
pub(crate) fn batches(data: &[u8]) -> Vec<v1::RecordBatch> {
    v1::FetchedData::decode(data).expect("a slice of batches").batches
}

/// The records' bytes of a batch.
pub(crate) fn payload(batch: &v1::RecordBatch) -> Bytes {
    match &batch.payload {
        Some(v1::record_batch::Payload::Records(payload)) => payload.clone(),
        other => panic!("not plain records: {other:?}"),
    }
}

/// The records of an answer with their offsets.
pub(crate) fn placed(data: &[u8]) -> Vec<Placed> {
    let mut found = Vec::new();
    for batch in batches(data) {
        assert_eq!(Some(crc32fast::hash(&payload(&batch))), batch.records_crc);
        let records = v1::RecordSet::decode(payload(&batch)).expect("records").records;
        // Where some were taken out, each of the others says where it is.
        let are_stated = records.iter().any(|record| record.offset_delta.is_some());
        let is_whole = records.len() as u64 == u64::from(batch.last_offset_delta) + 1;
        assert!(are_stated || is_whole, "{batch:?}");
        for (index, record) in (0..).zip(records) {
            assert_eq!(record.offset_delta.is_some(), are_stated, "all say it, or none");
            let delta = record.offset_delta.unwrap_or(index);
            assert!(delta <= batch.last_offset_delta, "{delta} of {}", batch.last_offset_delta);
            found.push(Placed { offset: batch.base_offset + u64::from(delta), record });
        }
    }
    found
}

pub(crate) fn value(placed: &Placed) -> String {
    let value = placed.record.value.as_ref().expect("a value");
    String::from_utf8(value.to_vec()).expect("text")
}

/// An error of one part of an answer, or of a call as a whole, in one shape.
pub(crate) fn error_of(status: &Status) -> v1::Error {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "taffrail");
    let retry = details.retry_info().and_then(|retry| retry.retry_delay);
    v1::Error {
        reason: info.reason.clone(),
        message: status.message().to_owned(),
        metadata: info.metadata.clone().into_iter().collect(),
        retry_after_ms: retry.map(|delay| delay.as_millis() as u32),
    }
}

/// Checks what an error says: its reason, its metadata (`*` stands for any value, no other names
/// may be there), and words of its message.
#[track_caller]
pub(crate) fn check_error(
    error: Option<&v1::Error>,
    reason: &str,
    metadata: &[(&str, &str)],
    says: &str,
) {
    let error = error.unwrap_or_else(|| panic!("not refused, {reason} expected"));
    assert_eq!(error.reason, reason, "{error:?}");
    let names: Vec<_> = error.metadata.keys().map(String::as_str).collect();
    let mut expected: Vec<_> = metadata.iter().map(|(name, _)| *name).collect();
    expected.sort_unstable();
    assert_eq!(names, expected, "{error:?}");
    for (name, value) in metadata.iter().filter(|(_, value)| *value != "*") {
        assert_eq!(error.metadata[*name], *value, "{name} of {error:?}");
    }
    assert!(error.message.contains(says), "{:?} does not say {says:?}", error.message);
}

/// Checks a call that is refused as a whole.
#[track_caller]
pub(crate) fn check_status<T>(
    answer: Result<T, Status>,
    code: Code,
    reason: &str,
    metadata: &[(&str, &str)],
    says: &str,
) {
    let Err(status) = answer else { panic!("not refused, {reason} expected") };
    assert_eq!(status.code(), code, "{status:?}");
    check_error(Some(&error_of(&status)), reason, metadata, says);
}
