//! `taffrail.v1.LogService`.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, Empty, empty};
use taffrail_broker::{Acks, Broker, StreamRequest};
use taffrail_model::{PartitionIndex, limits};
use taffrail_proto::v1;
use taffrail_proto::v1::log_service_server::LogService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use crate::consume_body::ConsumeEvents;
use crate::convert;
use crate::forward::forward;
use crate::status::{Explain, Explained};

/// Commands of a consumer that wait to be obeyed; more wait in the connection.
const COMMANDS_WAITING_MAX: usize = 64;

/// Events that wait to be sent to a consumer; more are not read from the log.
const EVENTS_WAITING_MAX: usize = 4;

/// Serves `LogService`.
pub(crate) struct Service {
    broker: Arc<Broker>,
}

impl Service {
    pub(crate) const fn new(broker: Arc<Broker>) -> Self {
        Self { broker }
    }
}

#[tonic::async_trait]
impl LogService for Service {
    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let request = convert::init_producer(request.into_inner());
        match self.broker.init_producer(request).await {
            Ok(identity) => Ok(Response::new(convert::producer(identity))),
            Err(error) => Err(error.explain().into_status()),
        }
    }

    async fn produce(
        &self,
        request: Request<v1::ProduceRequest>,
    ) -> Result<Response<v1::ProduceResponse>, Status> {
        let v1::ProduceRequest { batches, acks } = request.into_inner();
        let acks = convert::acks(acks).map_err(Explained::into_status)?;
        if batches.is_empty() {
            let error = Explained::invalid("the request has no batches: send at least one");
            return Err(error.into_status());
        }
        if batches.len() > limits::PRODUCE_BATCHES_MAX {
            let error =
                Explained::invalid("the request has too many batches: send several requests");
            return Err(error.into_status());
        }
        let batches = batches.into_iter().map(convert::produce_batch).collect();
        let outcomes = self.broker.produce(batches, acks).await;
        // Who does not wait for good news hears only of trouble, and then of each batch in order.
        let is_wanted = acks == Acks::Committed || outcomes.iter().any(|o| o.result.is_err());
        let results = outcomes.iter().filter(|_| is_wanted).map(convert::produce_result).collect();
        Ok(Response::new(v1::ProduceResponse { results }))
    }

    type ProduceStreamStream = BoxStream<'static, Result<v1::ProduceStreamResponse, Status>>;

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let mut requests = request.into_inner();
        let (mut session, outcomes) = self.broker.produce_session();
        let (invalid, refusals) = mpsc::channel(1);
        let broker = Arc::clone(&self.broker);
        tokio::spawn(async move {
            // Ends when the client closes its side or is gone, or the broker stops; what is in
            // flight is answered.
            let serve = async {
                while let Some(request) = requests.next().await {
                    // What cannot be received, such as a message too large, ends the stream too.
                    let request =
                        request.and_then(|it| stream_request(it).map_err(Explained::into_status));
                    match request {
                        Ok(request) => session.submit(request).await,
                        Err(status) => {
                            // Nobody may be there to hear it.
                            let _ = invalid.send(Err(status)).await;
                            return;
                        }
                    }
                }
            };
            tokio::select! {
                () = serve => {}
                () = broker.stopping() => {}
            }
        });
        let limits = v1::ProduceLimits {
            max_in_flight_bytes: limits::IN_FLIGHT_BYTES_MAX,
            max_in_flight_requests: limits::IN_FLIGHT_REQUESTS_MAX,
        };
        let first = v1::ProduceStreamResponse { limits: Some(limits), ..Default::default() };
        let answers = UnboundedReceiverStream::new(outcomes).filter_map(|outcome| async move {
            let is_wanted = outcome.acks == Acks::Committed || outcome.result.is_err();
            let result = Some(convert::produce_result(&outcome));
            let answer = v1::ProduceStreamResponse { number: outcome.number, result, limits: None };
            is_wanted.then_some(Ok(answer))
        });
        let first = futures_util::stream::iter([Ok(first)]);
        let stream = first.chain(answers).chain(ReceiverStream::new(refusals));
        Ok(Response::new(stream.boxed()))
    }

    async fn fetch(
        &self,
        request: Request<v1::FetchRequest>,
    ) -> Result<Response<v1::FetchResponse>, Status> {
        let request = convert::fetch_request(request.into_inner());
        let request = request.map_err(Explained::into_status)?;
        let results = self.broker.fetch(&request).await;
        let results = request
            .partitions
            .iter()
            .zip(results)
            .map(|(asked, result)| convert::fetch_result(asked, result))
            .collect();
        Ok(Response::new(v1::FetchResponse { results }))
    }

    // The answer's body is made in `consume_body`.
    type ConsumeStream = Empty<Result<v1::ConsumeResponse, Status>>;

    async fn consume(
        &self,
        request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let (command, commands) = mpsc::channel(COMMANDS_WAITING_MAX);
        let (event, events) = mpsc::channel(EVENTS_WAITING_MAX);
        tokio::spawn(self.broker.consume_session(event).run(commands));
        let refusals = forward(request.into_inner(), command, convert::consume_command);
        let events = ReceiverStream::new(events).map(Ok).chain(refusals.map(Err));
        let mut answer = Response::new(empty());
        answer.extensions_mut().insert(ConsumeEvents::new(events.boxed()));
        Ok(answer)
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let queries = request.into_inner().queries;
        if queries.is_empty() || queries.len() > limits::FETCH_PARTITIONS_MAX {
            let error = Explained::invalid("the request must have 1 to 1,000 queries");
            return Err(error.into_status());
        }
        let mut results = Vec::with_capacity(queries.len());
        for v1::OffsetQuery { topic, partition, position } in queries {
            let found = match convert::position(position) {
                Ok(position) => {
                    let index = PartitionIndex::new(partition);
                    let found = self.broker.find_offset(&topic, index, position).await;
                    found.map_err(|error| error.explain())
                }
                Err(error) => Err(error),
            };
            results.push(convert::offset_result(topic, partition, found));
        }
        Ok(Response::new(v1::ListOffsetsResponse { results }))
    }
}

fn stream_request(request: v1::ProduceStreamRequest) -> Result<StreamRequest, Explained> {
    if request.number == 0 {
        return Err(Explained::invalid("requests of a stream are numbered from 1"));
    }
    Ok(StreamRequest {
        number: request.number,
        batch: convert::produce_batch(request.batch.unwrap_or_default()),
        acks: convert::acks(request.acks)?,
        resumes_after: request.resumes_after,
    })
}
