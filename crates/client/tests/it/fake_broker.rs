//! A broker in memory: the contract of produce streams and consume streams, and faults by plan.
//!
//! Deliberately absent: disks, checks of what it gets, everything the tests do not need.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use taffrail_client::proto as v1;
use taffrail_model::batch::{BatchHeader, BatchKind, Compression, Salt, scan};
use taffrail_model::{LeaderEpoch, Offset, Timestamp};
use tokio::sync::{Notify, mpsc};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use v1::admin_service_server::{AdminService, AdminServiceServer};
use v1::log_service_server::{LogService, LogServiceServer};

use crate::fake_producers::Producers;

type Answers<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

/// What goes wrong, by the count of produce requests over all streams, from 1.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// These requests are refused for this reason.
    pub(crate) refuse: HashMap<u64, &'static str>,
    /// After these requests were appended the stream breaks, without an answer to them.
    pub(crate) break_after: HashSet<u64>,
    /// In place of these requests the stream breaks.
    pub(crate) break_before: HashSet<u64>,
    /// Before these requests the broker forgets its idempotent producers.
    pub(crate) forget_before: HashSet<u64>,
    /// So many calls to make a producer fail, after the first.
    pub(crate) failing_renewals: u64,
    /// So many deliveries are sent on a consume stream until it breaks.
    pub(crate) break_after_deliveries: Option<u64>,
    /// Stated to producers.
    pub(crate) max_in_flight_requests: u32,
}

#[derive(Clone)]
pub(crate) struct FakeBroker {
    shared: Arc<Shared>,
    pub(crate) url: String,
}

struct Shared {
    state: Mutex<State>,
    appended: Notify,
}

#[derive(Default)]
struct State {
    plan: Plan,
    requests: u64,
    streams: u64,
    open_produce_streams: u64,
    producers: Producers,
    logs: Vec<Vec<Stored>>,
}

#[derive(Clone)]
struct Stored {
    end: u64,
    bytes: Vec<u8>,
}

impl FakeBroker {
    /// Serves one topic, whatever its name.
    pub(crate) async fn start(partitions: usize, plan: Plan) -> Self {
        let state = State { plan, logs: vec![Vec::new(); partitions], ..Default::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), appended: Notify::new() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let broker = Self { shared, url };
        let server = tonic::transport::Server::builder()
            .add_service(LogServiceServer::new(broker.clone()).max_decoding_message_size(1 << 26))
            .add_service(AdminServiceServer::new(broker.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        broker
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no panic")
    }

    /// Number of streams that were opened.
    pub(crate) fn streams(&self) -> u64 {
        self.lock().streams
    }

    /// Number of idempotent producers that were made.
    pub(crate) fn producers(&self) -> u64 {
        self.lock().producers.made()
    }

    /// Number of batches that came again.
    pub(crate) fn duplicates(&self) -> u64 {
        self.lock().producers.duplicates()
    }

    /// Number of produce streams whose requests have not ended.
    pub(crate) fn open_produce_streams(&self) -> u64 {
        self.lock().open_produce_streams
    }
}

/// One produce stream: what was refused and not resumed, by partition.
struct ProduceSession {
    broker: FakeBroker,
    refused: HashMap<u32, u64>,
}

impl ProduceSession {
    fn new(broker: FakeBroker) -> Self {
        broker.lock().open_produce_streams += 1;
        Self { broker, refused: HashMap::new() }
    }

    /// Answers a request; `None`: breaks the stream.
    fn answer(&mut self, request: v1::ProduceStreamRequest) -> Option<v1::ProduceStreamResponse> {
        let batch = request.batch.expect("a batch");
        let Some(v1::produce_batch::Placement::Partition(partition)) = batch.placement else {
            panic!("no partition");
        };
        let batch = batch.batch.expect("a batch");
        let state = &mut *self.broker.lock();
        state.requests += 1;
        let count = state.requests;
        if state.plan.break_before.contains(&count) {
            return None;
        }
        if state.plan.forget_before.contains(&count) {
            state.producers.forget();
        }
        if request.resumes_after != 0
            && self.refused.get(&partition) == Some(&request.resumes_after)
        {
            self.refused.remove(&partition);
        }
        let refusal = if self.refused.contains_key(&partition) {
            Some("PRECEDING_FAILED")
        } else {
            state.plan.refuse.get(&count).copied()
        };
        let known = refusal.map_or_else(|| state.producers.find(partition, &batch), Err);
        let mut result = v1::ProduceResult { partition: Some(partition), ..Default::default() };
        match known {
            Ok(Some(offset)) => (result.base_offset, result.duplicate) = (Some(offset), true),
            Ok(None) => {
                let offset = append(&mut state.logs[partition as usize], &batch);
                state.producers.appended(partition, &batch, offset);
                result.base_offset = Some(offset);
                self.broker.shared.appended.notify_waiters();
            }
            Err(reason) => {
                self.refused.entry(partition).or_insert(request.number);
                let reason = reason.to_owned();
                let message = "as planned".to_owned();
                result.error = Some(v1::Error { reason, message, ..Default::default() });
            }
        }
        if state.plan.break_after.contains(&count) {
            return None;
        }
        Some(v1::ProduceStreamResponse {
            number: request.number,
            result: Some(result),
            limits: None,
        })
    }
}

impl Drop for ProduceSession {
    fn drop(&mut self) {
        self.broker.lock().open_produce_streams -= 1;
    }
}

fn append(log: &mut Vec<Stored>, batch: &v1::RecordBatch) -> u64 {
    let Some(v1::record_batch::Payload::Records(payload)) = &batch.payload else {
        panic!("no records");
    };
    let records = u64::from(scan(payload).expect("sound").record_count);
    let base = log.last().map_or(0, |last| last.end);
    let header = BatchHeader {
        base_offset: Offset::new(base),
        last_offset_delta: records as u32 - 1,
        leader_epoch: LeaderEpoch::new(1),
        producer: None,
        append_time: Timestamp::from_millis(1),
        max_timestamp: Timestamp::from_millis(1),
        compression: Compression::None,
        kind: BatchKind::Data,
        records_crc: batch.records_crc.expect("the client sets it"),
        synced_end: Offset::ZERO,
        payload_bytes: payload.len() as u32,
    };
    let bytes = [header.encode(Salt::new(1)).as_slice(), payload].concat();
    log.push(Stored { end: base + records, bytes });
    base
}

/// One consume stream with one subscription at a time for each partition.
#[derive(Default)]
struct ConsumeSession {
    credit: i64,
    /// By subscription: partition and next offset.
    reading: HashMap<u64, (usize, u64)>,
    paused: HashSet<u64>,
    deliveries: u64,
}

impl ConsumeSession {
    fn obey(&mut self, broker: &FakeBroker, request: v1::ConsumeRequest) -> Vec<v1::Subscribed> {
        use v1::consume_request::Command;
        match request.command.expect("a command") {
            Command::Grant(grant) => self.credit += grant.bytes as i64,
            Command::Subscribe(subscribe) => {
                let partition = subscribe.partition as usize;
                return self.begin(broker, subscribe.subscription, partition, subscribe.position);
            }
            Command::Seek(_) => panic!("the client ends and begins subscriptions"),
            Command::Pause(pause) => drop(self.paused.insert(pause.subscription)),
            Command::Resume(resume) => drop(self.paused.remove(&resume.subscription)),
            Command::Unsubscribe(it) => drop(self.reading.remove(&it.subscription)),
        }
        Vec::new()
    }

    fn begin(
        &mut self,
        broker: &FakeBroker,
        subscription: u64,
        partition: usize,
        position: Option<v1::Position>,
    ) -> Vec<v1::Subscribed> {
        use v1::position::At;
        let end = broker.lock().logs[partition].last().map_or(0, |last| last.end);
        let offset = match position.and_then(|position| position.at).expect("a position") {
            At::Earliest(_) | At::TimestampMs(_) => 0,
            At::Latest(_) => end,
            At::Offset(offset) => offset,
            At::Last(records) => end.saturating_sub(records),
        };
        self.reading.insert(subscription, (partition, offset));
        vec![v1::Subscribed { subscription, offset, log_start: 0, high_watermark: end }]
    }

    /// Something to send, if credit allows.
    fn next(&mut self, broker: &FakeBroker) -> Option<v1::Delivery> {
        if self.credit <= 0 {
            return None;
        }
        let state = broker.lock();
        for (subscription, (partition, next)) in &mut self.reading {
            let log = &state.logs[*partition];
            let Some(stored) = log.iter().find(|stored| stored.end > *next) else { continue };
            if self.paused.contains(subscription) {
                continue;
            }
            *next = stored.end;
            self.credit -= stored.bytes.len() as i64;
            self.deliveries += 1;
            return Some(v1::Delivery {
                subscription: *subscription,
                high_watermark: log.last().map_or(0, |last| last.end),
                data: stored.bytes.clone().into(),
                charged_bytes: stored.bytes.len() as u64,
            });
        }
        None
    }
}

async fn serve_consumer(
    broker: FakeBroker,
    mut requests: Streaming<v1::ConsumeRequest>,
    answers: mpsc::Sender<Result<v1::ConsumeResponse, Status>>,
) {
    use v1::consume_response::Event;
    let mut session = ConsumeSession::default();
    let limit = broker.lock().plan.break_after_deliveries;
    let wrap = |event| Ok(v1::ConsumeResponse { event: Some(event) });
    loop {
        let appended = broker.shared.appended.notified();
        while let Some(delivery) = session.next(&broker) {
            if answers.send(wrap(Event::Delivery(delivery))).await.is_err() {
                return;
            }
            if limit.is_some_and(|limit| session.deliveries >= limit) {
                drop(answers.send(Err(Status::unavailable("as planned"))).await);
                return;
            }
        }
        tokio::select! {
            request = requests.message() => {
                let Ok(Some(request)) = request else { return };
                for subscribed in session.obey(&broker, request) {
                    drop(answers.send(wrap(Event::Subscribed(subscribed))).await);
                }
            }
            () = appended => {}
        }
    }
}

#[tonic::async_trait]
impl LogService for FakeBroker {
    type ProduceStreamStream = Answers<v1::ProduceStreamResponse>;
    type ConsumeStream = Answers<v1::ConsumeResponse>;

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        self.lock().streams += 1;
        let limits = v1::ProduceLimits {
            max_in_flight_bytes: 1 << 26,
            max_in_flight_requests: self.lock().plan.max_in_flight_requests,
        };
        let first = v1::ProduceStreamResponse { limits: Some(limits), ..Default::default() };
        let mut session = ProduceSession::new(self.clone());
        let answers = request.into_inner().map(move |request| match session.answer(request?) {
            Some(answer) => Ok(answer),
            None => Err(Status::unavailable("as planned")),
        });
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(first)).chain(answers))))
    }

    async fn consume(
        &self,
        request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        self.lock().streams += 1;
        let (answers, receiver) = mpsc::channel(4);
        tokio::spawn(serve_consumer(self.clone(), request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let state = &mut *self.lock();
        if state.producers.made() > 0 && state.plan.failing_renewals > 0 {
            state.plan.failing_renewals -= 1;
            return Err(Status::unavailable("as planned"));
        }
        state.producers.init(request.into_inner()).map(Response::new)
    }

    async fn produce(
        &self,
        _: Request<v1::ProduceRequest>,
    ) -> Result<Response<v1::ProduceResponse>, Status> {
        Err(absent())
    }

    async fn fetch(
        &self,
        _: Request<v1::FetchRequest>,
    ) -> Result<Response<v1::FetchResponse>, Status> {
        Err(absent())
    }

    async fn list_offsets(
        &self,
        _: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        Err(absent())
    }
}

fn absent() -> Status {
    Status::unimplemented("the broker of the tests has no such call")
}

#[tonic::async_trait]
impl AdminService for FakeBroker {
    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
        let topic = v1::Topic {
            name: request.into_inner().name,
            partitions: self.lock().logs.len() as u32,
            ..Default::default()
        };
        Ok(Response::new(v1::DescribeTopicResponse { topic: Some(topic), partitions: Vec::new() }))
    }

    async fn create_topic(
        &self,
        _: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        Err(absent())
    }

    async fn list_topics(
        &self,
        _: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        Err(absent())
    }

    async fn alter_topic(
        &self,
        _: Request<v1::AlterTopicRequest>,
    ) -> Result<Response<v1::AlterTopicResponse>, Status> {
        Err(absent())
    }

    async fn add_partitions(
        &self,
        _: Request<v1::AddPartitionsRequest>,
    ) -> Result<Response<v1::AddPartitionsResponse>, Status> {
        Err(absent())
    }

    async fn delete_topic(
        &self,
        _: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        Err(absent())
    }

    type BackupStream = ReceiverStream<Result<v1::BackupResponse, Status>>;

    async fn backup(
        &self,
        _: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        Err(absent())
    }

    async fn delete_records(
        &self,
        _: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        Err(absent())
    }

    async fn reopen_partition(
        &self,
        _: Request<v1::ReopenPartitionRequest>,
    ) -> Result<Response<v1::ReopenPartitionResponse>, Status> {
        Err(absent())
    }

    async fn describe_settings(
        &self,
        _: Request<v1::DescribeSettingsRequest>,
    ) -> Result<Response<v1::DescribeSettingsResponse>, Status> {
        Err(absent())
    }

    async fn describe_broker(
        &self,
        _: Request<v1::DescribeBrokerRequest>,
    ) -> Result<Response<v1::DescribeBrokerResponse>, Status> {
        Err(absent())
    }
}
