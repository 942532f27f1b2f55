//! Work queues from outside: create, alter, list, describe, delete, and what is parked in them.
//!
//! Answers are the contract's own messages: nothing of them is hidden or renamed.

use taffrail_proto::v1;
use tonic::{Response, Status};

use crate::{CallError, Client};

/// Calls about work queues. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queues {
    client: Client,
}

/// Every call here fails with [`CallError`]: unreachable, or refused by the broker.
impl Queues {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Makes a queue on a topic. Durable on return.
    pub async fn create(&self, request: v1::CreateQueueRequest) -> Result<(), CallError> {
        let answer = self.client.queue_service().create_queue(request).await;
        self.answer(answer).map(drop)
    }

    /// Changes how a queue works. Durable on return.
    pub async fn alter(&self, queue: &str, settings: v1::QueueSettings) -> Result<(), CallError> {
        let (queue, settings) = (queue.to_owned(), Some(settings));
        let request = v1::AlterQueueRequest { queue, settings };
        let answer = self.client.queue_service().alter_queue(request).await;
        self.answer(answer).map(drop)
    }

    /// Lists all queues by name.
    pub async fn list(&self) -> Result<Vec<v1::QueueSummary>, CallError> {
        let answer = self.client.queue_service().list_queues(v1::ListQueuesRequest {}).await;
        Ok(self.answer(answer)?.queues)
    }

    /// Describes a queue: what its records are in, and why nothing is handed out.
    pub async fn describe(&self, queue: &str) -> Result<v1::DescribeQueueResponse, CallError> {
        let request = v1::DescribeQueueRequest { queue: queue.to_owned() };
        let answer = self.client.queue_service().describe_queue(request).await;
        self.answer(answer)
    }

    /// Deletes a queue, and what is parked in it. Durable on return.
    pub async fn delete(&self, queue: &str) -> Result<(), CallError> {
        let request = v1::DeleteQueueRequest { queue: queue.to_owned() };
        let answer = self.client.queue_service().delete_queue(request).await;
        self.answer(answer).map(drop)
    }

    /// Lists parked records, a page of them.
    pub async fn parked(
        &self,
        request: v1::ListParkedRequest,
    ) -> Result<v1::ListParkedResponse, CallError> {
        let answer = self.client.queue_service().list_parked(request).await;
        self.answer(answer)
    }

    /// Lets parked records be tried again; how many were parked. Durable on return.
    pub async fn redrive(
        &self,
        queue: &str,
        selection: v1::parked_selection::Selection,
    ) -> Result<u64, CallError> {
        let selection = Some(v1::ParkedSelection { selection: Some(selection) });
        let request = v1::RedriveParkedRequest { queue: queue.to_owned(), selection };
        let answer = self.client.queue_service().redrive_parked(request).await;
        Ok(self.answer(answer)?.records)
    }

    /// Forgets parked records; how many were parked. Durable on return.
    pub async fn discard(
        &self,
        queue: &str,
        selection: v1::parked_selection::Selection,
    ) -> Result<u64, CallError> {
        let selection = Some(v1::ParkedSelection { selection: Some(selection) });
        let request = v1::DiscardParkedRequest { queue: queue.to_owned(), selection };
        let answer = self.client.queue_service().discard_parked(request).await;
        Ok(self.answer(answer)?.records)
    }

    fn answer<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, CallError> {
        match answer {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(CallError::from_status(self.client.server(), &status)),
        }
    }
}
