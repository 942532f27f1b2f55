//! `taffrail.v1.QueueService`.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use taffrail_broker::{Broker, QueueError};
use taffrail_proto::v1;
use taffrail_proto::v1::queue_service_server::QueueService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::convert::queue as convert;
use crate::forward::forward;
use crate::status::{Explain, Explained};

/// Commands of a worker that wait to be obeyed; more wait in the connection.
const COMMANDS_WAITING_MAX: usize = 64;

/// Events that wait to be sent to a worker.
const EVENTS_WAITING_MAX: usize = 4;

/// Serves `QueueService`.
pub(crate) struct Service {
    broker: Arc<Broker>,
}

impl Service {
    pub(crate) const fn new(broker: Arc<Broker>) -> Self {
        Self { broker }
    }
}

#[tonic::async_trait]
impl QueueService for Service {
    async fn create_queue(
        &self,
        request: Request<v1::CreateQueueRequest>,
    ) -> Result<Response<v1::CreateQueueResponse>, Status> {
        let request = convert::create(request.into_inner()).map_err(Explained::into_status)?;
        self.broker.create_queue(request).await.map_err(refused)?;
        Ok(Response::new(v1::CreateQueueResponse {}))
    }

    async fn alter_queue(
        &self,
        request: Request<v1::AlterQueueRequest>,
    ) -> Result<Response<v1::AlterQueueResponse>, Status> {
        let v1::AlterQueueRequest { queue, settings } = request.into_inner();
        let change = convert::change(settings.unwrap_or_default());
        let change = change.map_err(Explained::into_status)?;
        self.broker.alter_queue(&queue, change).await.map_err(refused)?;
        Ok(Response::new(v1::AlterQueueResponse {}))
    }

    async fn list_queues(
        &self,
        _: Request<v1::ListQueuesRequest>,
    ) -> Result<Response<v1::ListQueuesResponse>, Status> {
        let queues = self.broker.list_queues().await.map_err(refused)?;
        let queues = queues.into_iter().map(convert::summary).collect();
        Ok(Response::new(v1::ListQueuesResponse { queues }))
    }

    async fn describe_queue(
        &self,
        request: Request<v1::DescribeQueueRequest>,
    ) -> Result<Response<v1::DescribeQueueResponse>, Status> {
        let described = self.broker.describe_queue(&request.into_inner().queue).await;
        Ok(Response::new(convert::description(described.map_err(refused)?)))
    }

    async fn delete_queue(
        &self,
        request: Request<v1::DeleteQueueRequest>,
    ) -> Result<Response<v1::DeleteQueueResponse>, Status> {
        self.broker.delete_queue(&request.into_inner().queue).await.map_err(refused)?;
        Ok(Response::new(v1::DeleteQueueResponse {}))
    }

    type ReceiveStream = BoxStream<'static, Result<v1::ReceiveResponse, Status>>;

    async fn receive(
        &self,
        request: Request<Streaming<v1::ReceiveRequest>>,
    ) -> Result<Response<Self::ReceiveStream>, Status> {
        let (command, commands) = mpsc::channel(COMMANDS_WAITING_MAX);
        let (event, events) = mpsc::channel(EVENTS_WAITING_MAX);
        tokio::spawn(self.broker.queue_session(event).run(commands));
        let refusals = forward(request.into_inner(), command, convert::command);
        let events = ReceiverStream::new(events)
            .map(|event| convert::event(event).map_err(Explained::into_status));
        Ok(Response::new(events.chain(refusals.map(Err)).boxed()))
    }

    async fn list_parked(
        &self,
        request: Request<v1::ListParkedRequest>,
    ) -> Result<Response<v1::ListParkedResponse>, Status> {
        let asked = convert::list_parked(request.into_inner()).map_err(Explained::into_status)?;
        let (queue, query) = asked;
        let page = self.broker.list_parked(&queue, query).await.map_err(refused)?;
        let records = page.records.into_iter().map(convert::parked).collect();
        Ok(Response::new(v1::ListParkedResponse { records, has_more: page.has_more }))
    }

    async fn redrive_parked(
        &self,
        request: Request<v1::RedriveParkedRequest>,
    ) -> Result<Response<v1::RedriveParkedResponse>, Status> {
        let v1::RedriveParkedRequest { queue, selection } = request.into_inner();
        let selection = convert::selection(selection).map_err(Explained::into_status)?;
        let records = self.broker.redrive(&queue, selection).await.map_err(refused)?;
        Ok(Response::new(v1::RedriveParkedResponse { records }))
    }

    async fn discard_parked(
        &self,
        request: Request<v1::DiscardParkedRequest>,
    ) -> Result<Response<v1::DiscardParkedResponse>, Status> {
        let v1::DiscardParkedRequest { queue, selection } = request.into_inner();
        let selection = convert::selection(selection).map_err(Explained::into_status)?;
        let records = self.broker.discard(&queue, selection).await.map_err(refused)?;
        Ok(Response::new(v1::DiscardParkedResponse { records }))
    }
}

fn refused(error: QueueError) -> Status {
    error.explain().into_status()
}
