//! From the contract's types of groups to the broker's, and back.

use std::time::Duration;

use taffrail_broker::{
    Assignment, Assignor, CommittedOffset, DeliveryState, GroupDescription, GroupReader,
    GroupSummary, Heartbeat, Join, MemberDescription, OffsetCommit, OffsetReset, PartitionLag,
    ResetOffsets, ResetTo,
};
use taffrail_model::{Offset, PartitionIndex};
use taffrail_proto::v1;

use crate::convert;
use crate::status::{Explain, Explained};

pub(crate) fn heartbeat(request: v1::HeartbeatRequest) -> Result<(u64, Heartbeat), Explained> {
    let owned = request.owned.map(|owned| owned.partitions.into_iter().map(topic_partition));
    let heartbeat = Heartbeat {
        group: request.group,
        member: request.member_id,
        instance: request.instance_id,
        join: request.join.map(join).transpose()?,
        epoch: request.epoch,
        owned: owned.map(Iterator::collect),
        leave: request.leave,
    };
    Ok((request.number, heartbeat))
}

pub(crate) fn membership(request: v1::MembershipRequest) -> Result<(u64, Heartbeat), Explained> {
    let missing = || Explained::invalid("the request has no heartbeat");
    heartbeat(request.heartbeat.ok_or_else(missing)?)
}

fn join(join: v1::Join) -> Result<Join, Explained> {
    let assignor = match v1::Assignor::try_from(join.assignor) {
        Ok(v1::Assignor::Unspecified) => None,
        Ok(v1::Assignor::UniformSticky) => Some(Assignor::UniformSticky),
        Ok(v1::Assignor::Range) => Some(Assignor::Range),
        Err(_) => return Err(Explained::invalid("there is no such assignor")),
    };
    let millis = join.session_timeout_ms;
    let session_timeout = (millis != 0).then(|| Duration::from_millis(millis.into()));
    Ok(Join { topics: join.topics, session_timeout, assignor, client: join.client_id })
}

pub(crate) fn topic_partition(partition: v1::TopicPartition) -> (String, PartitionIndex) {
    (partition.topic, PartitionIndex::new(partition.partition))
}

pub(crate) fn assignment(number: u64, assignment: Assignment) -> v1::HeartbeatResponse {
    let heartbeat_interval_ms = millis(assignment.heartbeat_interval()) as u32;
    let partitions = assignment.partitions.into_iter().map(|it| v1::AssignedPartition {
        topic: it.topic,
        topic_id: it.topic_id,
        partition: it.partition.get(),
        epoch: it.epoch,
    });
    let awaited = assignment.awaited.into_iter().map(|it| v1::AwaitedPartition {
        topic: it.topic,
        partition: it.partition.get(),
        member_id: it.owner,
    });
    v1::HeartbeatResponse {
        epoch: assignment.epoch,
        partitions: partitions.collect(),
        session_timeout_ms: millis(assignment.session_timeout) as u32,
        heartbeat_interval_ms,
        number,
        awaited: awaited.collect(),
    }
}

pub(crate) fn reader(reader: v1::GroupReader) -> GroupReader {
    GroupReader {
        group: reader.group,
        member: reader.member_id,
        epoch: reader.epoch,
        from_committed: reader.from_committed,
    }
}

pub(crate) fn offset_commit(commit: v1::OffsetCommit) -> OffsetCommit {
    OffsetCommit {
        topic: commit.topic,
        topic_id: commit.topic_id,
        partition: PartitionIndex::new(commit.partition),
        offset: Offset::new(commit.offset),
        epoch: commit.epoch,
        metadata: commit.metadata,
    }
}

pub(crate) fn committed_offset(committed: CommittedOffset) -> v1::CommittedOffset {
    v1::CommittedOffset {
        topic: committed.topic,
        topic_id: committed.topic_id,
        partition: committed.partition.get(),
        offset: committed.offset.get(),
        metadata: committed.metadata,
        committed_ms: committed.committed.as_millis(),
    }
}

pub(crate) fn summary(group: GroupSummary) -> v1::GroupSummary {
    v1::GroupSummary {
        group: group.group,
        members: group.members as u32,
        topics: group.topics,
        lag: group.lag,
        epoch: group.epoch,
    }
}

pub(crate) fn description(group: GroupDescription) -> v1::DescribeGroupResponse {
    let assignor = match group.assignor {
        Assignor::UniformSticky => v1::Assignor::UniformSticky,
        Assignor::Range => v1::Assignor::Range,
    };
    v1::DescribeGroupResponse {
        group: group.group,
        epoch: group.epoch,
        assignor: assignor as i32,
        members: group.members.into_iter().map(member).collect(),
        partitions: group.partitions.into_iter().map(partition_lag).collect(),
        broker_time_ms: 0,
    }
}

fn member(member: MemberDescription) -> v1::GroupMember {
    v1::GroupMember {
        member_id: member.member,
        instance_id: member.instance,
        client_id: member.client,
        topics: member.topics,
        session_timeout_ms: millis(member.session_timeout) as u32,
        silent_ms: millis(member.silence),
        partitions: member.partitions as u32,
        idle_because: member.idle_because.unwrap_or_default().to_owned(),
    }
}

fn partition_lag(lag: PartitionLag) -> v1::GroupPartition {
    let drain_ms = lag.drain().map(millis);
    let (state, state_message) = delivery_state(&lag);
    v1::GroupPartition {
        topic: lag.topic,
        partition: lag.partition.get(),
        committed: lag.committed.map(Offset::get),
        metadata: lag.metadata,
        log_start: lag.log_start.get(),
        end: lag.end.get(),
        lag: lag.lag,
        lag_bytes: lag.lag_bytes,
        age_ms: millis(lag.age),
        owner: lag.owner.unwrap_or_default(),
        next_owner: lag.next_owner.unwrap_or_default(),
        state: state as i32,
        state_message,
        rate_in: lag.rates.map(|rates| rates.appended),
        rate_out: lag.rates.map(|rates| rates.committed),
        drain_ms,
        stalled_ms: millis(lag.stalled),
        error: lag.error.map(|error| error.explain().into_error()),
    }
}

fn delivery_state(lag: &PartitionLag) -> (v1::DeliveryState, String) {
    use v1::DeliveryState as State;
    let (state, message) = match &lag.state {
        DeliveryState::Unknown => {
            (State::Unspecified, "the owner does not read by Consume for the group".into())
        }
        DeliveryState::Delivering => (State::Delivering, "records are being sent".into()),
        DeliveryState::AtEnd => (State::AtEnd, "all that there is was sent".into()),
        DeliveryState::Paused => (State::Paused, "the member has paused it".into()),
        DeliveryState::NoCredit => (
            State::NoCredit,
            "the member has not worked off what it was sent, and grants no more".into(),
        ),
        DeliveryState::NoMember => (State::NoMember, "no member reads it".into()),
        DeliveryState::AwaitsRelease { by } => {
            (State::AwaitsRelease, format!("{by} has not stopped reading it yet"))
        }
        DeliveryState::Failed => {
            let error = lag.error.as_ref().map(ToString::to_string);
            (State::Failed, error.unwrap_or_default())
        }
    };
    (state, message)
}

pub(crate) fn reset(request: v1::ResetOffsetsRequest) -> Result<ResetOffsets, Explained> {
    use v1::reset_offsets_request::To;
    let to = match request.to {
        Some(To::Position(position)) => ResetTo::Position(convert::position(Some(position))?),
        Some(To::Shift(shift)) => ResetTo::Shift(shift),
        Some(To::OtherGroup(group)) => ResetTo::Group(group),
        None => return Err(Explained::invalid("the request does not say where to: set `to`")),
    };
    Ok(ResetOffsets {
        group: request.group,
        topics: request.topics,
        partitions: request.partitions.into_iter().map(PartitionIndex::new).collect(),
        to,
        is_dry_run: request.dry_run,
        is_forced: request.force,
    })
}

pub(crate) fn offset_reset(reset: OffsetReset) -> v1::OffsetReset {
    v1::OffsetReset {
        topic: reset.topic,
        partition: reset.partition.get(),
        before: reset.before.map(Offset::get),
        after: reset.after.get(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
