//! `taffrail.v1.GroupService`.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use taffrail_broker::{Broker, GroupError};
use taffrail_proto::v1;
use taffrail_proto::v1::group_service_server::GroupService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::convert::group as convert;
use crate::forward::forward;
use crate::status::{Explain, Explained};

/// Heartbeats of a member that wait to be answered; more wait in the connection.
const HEARTBEATS_WAITING_MAX: usize = 16;

/// Answers that wait to be sent to a member.
const ANSWERS_WAITING_MAX: usize = 4;

/// Serves `GroupService`.
pub(crate) struct Service {
    broker: Arc<Broker>,
}

impl Service {
    pub(crate) const fn new(broker: Arc<Broker>) -> Self {
        Self { broker }
    }
}

#[tonic::async_trait]
impl GroupService for Service {
    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let (number, heartbeat) =
            convert::heartbeat(request.into_inner()).map_err(Explained::into_status)?;
        let assignment = self.broker.heartbeat(heartbeat).await.map_err(refused)?;
        Ok(Response::new(convert::assignment(number, assignment)))
    }

    type MembershipStream = BoxStream<'static, Result<v1::MembershipResponse, Status>>;

    async fn membership(
        &self,
        request: Request<Streaming<v1::MembershipRequest>>,
    ) -> Result<Response<Self::MembershipStream>, Status> {
        let (heartbeat, heartbeats) = mpsc::channel(HEARTBEATS_WAITING_MAX);
        let (answer, answers) = mpsc::channel(ANSWERS_WAITING_MAX);
        tokio::spawn(self.broker.member_stream().run(heartbeats, answer));
        let refusals = forward(request.into_inner(), heartbeat, convert::membership);
        let answers = ReceiverStream::new(answers).map(|answer| match answer {
            Ok((number, assignment)) => {
                let heartbeat = Some(convert::assignment(number, assignment));
                Ok(v1::MembershipResponse { heartbeat })
            }
            Err(error) => Err(refused(error)),
        });
        Ok(Response::new(answers.chain(refusals.map(Err)).boxed()))
    }

    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
        let v1::CommitOffsetsRequest { group, member_id, offsets } = request.into_inner();
        let places: Vec<_> = offsets.iter().map(|it| (it.topic.clone(), it.partition)).collect();
        let offsets = offsets.into_iter().map(convert::offset_commit).collect();
        let committed = self.broker.commit_offsets(&group, &member_id, offsets).await;
        let results = places.into_iter().zip(committed.map_err(refused)?);
        let results = results.map(|((topic, partition), result)| v1::CommitResult {
            topic,
            partition,
            error: result.err().map(|error| error.explain().into_error()),
        });
        Ok(Response::new(v1::CommitOffsetsResponse { results: results.collect() }))
    }

    async fn get_offsets(
        &self,
        request: Request<v1::GetOffsetsRequest>,
    ) -> Result<Response<v1::GetOffsetsResponse>, Status> {
        let v1::GetOffsetsRequest { group, partitions } = request.into_inner();
        let partitions: Vec<_> = partitions.into_iter().map(convert::topic_partition).collect();
        let offsets = self.broker.committed_offsets(&group, &partitions).await.map_err(refused)?;
        let offsets = offsets.into_iter().map(convert::committed_offset).collect();
        Ok(Response::new(v1::GetOffsetsResponse { offsets }))
    }

    async fn list_groups(
        &self,
        _: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        let groups = self.broker.list_groups().await.map_err(refused)?;
        let groups = groups.into_iter().map(convert::summary).collect();
        Ok(Response::new(v1::ListGroupsResponse { groups }))
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::DescribeGroupResponse>, Status> {
        let described = self.broker.describe_group(&request.into_inner().group).await;
        let mut answer = convert::description(described.map_err(refused)?);
        answer.broker_time_ms = self.broker.now().as_millis();
        Ok(Response::new(answer))
    }

    async fn reset_offsets(
        &self,
        request: Request<v1::ResetOffsetsRequest>,
    ) -> Result<Response<v1::ResetOffsetsResponse>, Status> {
        let request = convert::reset(request.into_inner()).map_err(Explained::into_status)?;
        let offsets = self.broker.reset_offsets(request).await.map_err(refused)?;
        let offsets = offsets.into_iter().map(convert::offset_reset).collect();
        Ok(Response::new(v1::ResetOffsetsResponse { offsets }))
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        self.broker.delete_group(&request.into_inner().group).await.map_err(refused)?;
        Ok(Response::new(v1::DeleteGroupResponse {}))
    }
}

fn refused(error: GroupError) -> Status {
    error.explain().into_status()
}
