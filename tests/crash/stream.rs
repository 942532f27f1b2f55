//! A producer over the bare `ProduceStream`: batches of several records, many in flight, order kept
//! through refusals by `resumes_after`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use prost::Message as _;
use taffrail_proto::v1;
use taffrail_proto::v1::log_service_client::LogServiceClient;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use v1::produce_batch::Placement;
use v1::record_batch::Payload;

use crate::history::{Event, RecordId};
use crate::load::{Load, Sender};

/// Requests in flight.
const WINDOW: usize = 24;
/// An answer that takes longer is none. Longer than any pause a test makes.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A request in flight.
struct Sent {
    partition: u32,
    records: Vec<RecordId>,
}

/// One stream.
struct Stream<'a> {
    load: &'a Load,
    requests: mpsc::UnboundedSender<v1::ProduceStreamRequest>,
    in_flight: BTreeMap<u64, Sent>,
    number: u64,
    /// The last refused request of each partition.
    refused: HashMap<u32, u64>,
}

/// Produces until the load stops, over as many streams as it takes.
pub(crate) async fn produce(load: Load, mut sender: Sender) {
    while !load.is_stopping() {
        if let Ok(service) = connect(&load.url).await {
            let (requests, receiver) = mpsc::unbounded_channel();
            let (in_flight, refused) = (BTreeMap::new(), HashMap::new());
            let mut stream = Stream { load: &load, requests, in_flight, number: 0, refused };
            // However it ends, what was not answered is unknown.
            let _ = stream.run(&mut sender, service, receiver).await;
            stream.give_up();
        }
        sleep(Duration::from_millis(30)).await;
    }
}

impl Stream<'_> {
    async fn run(
        &mut self,
        sender: &mut Sender,
        mut service: LogServiceClient<Channel>,
        receiver: mpsc::UnboundedReceiver<v1::ProduceStreamRequest>,
    ) -> Option<()> {
        let call = service.produce_stream(UnboundedReceiverStream::new(receiver));
        let mut answers = timeout(ANSWER_MAX, call).await.ok()?.ok()?.into_inner();
        let first = timeout(ANSWER_MAX, answers.message()).await.ok()?.ok()??;
        assert!(first.number == 0 && first.limits.is_some(), "the first answer: {first:?}");
        loop {
            let is_last = self.load.is_stopping();
            while !is_last && self.in_flight.len() < WINDOW {
                self.send(sender)?;
            }
            if is_last && self.in_flight.is_empty() {
                return Some(());
            }
            let answer = timeout(ANSWER_MAX, answers.message()).await.ok()?.ok()??;
            self.take(&answer);
            sleep(sender.dice.millis(0, 3)).await;
        }
    }

    fn send(&mut self, sender: &mut Sender) -> Option<()> {
        let partition = sender.any_partition();
        let history = &self.load.history;
        let sent = (0..=sender.dice.below(8)).map(|_| sender.next(history, partition));
        let (records, values): (Vec<_>, Vec<_>) = sent.unzip();
        self.number += 1;
        let batch = v1::ProduceBatch {
            topic: sender.topic.clone(),
            placement: Some(Placement::Partition(partition)),
            batch: Some(batch_of(values)),
            expected_next_offset: None,
        };
        let request = v1::ProduceStreamRequest {
            number: self.number,
            batch: Some(batch),
            acks: v1::Acks::Committed.into(),
            resumes_after: self.refused.get(&partition).copied().unwrap_or_default(),
        };
        self.in_flight.insert(self.number, Sent { partition, records });
        self.requests.send(request).ok()
    }

    fn take(&mut self, answer: &v1::ProduceStreamResponse) {
        let Some(sent) = self.in_flight.remove(&answer.number) else {
            panic!("an answer to nothing: {answer:?}");
        };
        let result = answer.result.as_ref().expect("an answer has a result");
        let outcome = |at: usize, record| match &result.error {
            None => Event::Ok { record, offset: result.base_offset() + at as u64 },
            Some(error) if error.reason == "RESULT_UNKNOWN" => Event::Unknown { record },
            Some(_) => Event::Fail { record },
        };
        if let Some(error) = &result.error {
            let stated = error.metadata.get("refused").and_then(|stated| stated.parse().ok());
            self.refused.insert(sent.partition, stated.unwrap_or(answer.number));
        }
        for (at, record) in sent.records.into_iter().enumerate() {
            self.load.history.add(outcome(at, record));
        }
    }

    fn give_up(&mut self) {
        let records = std::mem::take(&mut self.in_flight).into_values().flat_map(|it| it.records);
        records.for_each(|record| self.load.history.add(Event::Unknown { record }));
    }
}

/// The bare calls of a broker.
pub(crate) async fn connect(
    url: &str,
) -> Result<LogServiceClient<Channel>, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true);
    Ok(LogServiceClient::new(endpoint.connect().await?).max_decoding_message_size(8 << 20))
}

/// Appends a record; what becomes of it, if there is an answer.
pub(crate) async fn send(
    mut service: LogServiceClient<Channel>,
    topic: String,
    partition: u32,
    value: Vec<u8>,
) -> Result<v1::ProduceResult, tonic::Status> {
    let batch = v1::ProduceBatch {
        topic,
        placement: Some(Placement::Partition(partition)),
        batch: Some(batch_of(vec![value])),
        expected_next_offset: None,
    };
    let request = v1::ProduceRequest { batches: vec![batch], acks: v1::Acks::Committed.into() };
    let answer = service.produce(request).await?.into_inner();
    Ok(answer.results.into_iter().next().expect("a result for the batch"))
}

/// A batch as any protobuf library makes it, with the checksum of a careful producer.
pub(crate) fn batch_of(values: Vec<Vec<u8>>) -> v1::RecordBatch {
    let record = |value: Vec<u8>| v1::Record { value: Some(value.into()), ..Default::default() };
    let set = v1::RecordSet { records: values.into_iter().map(record).collect() };
    let payload = set.encode_to_vec();
    v1::RecordBatch {
        records_crc: Some(crc32fast::hash(&payload)),
        payload: Some(Payload::Records(payload.into())),
        ..Default::default()
    }
}
