//! What a member of a group reads, and how.

use std::sync::Arc;
use std::time::Duration;

use taffrail_model::limits;
use taffrail_proto::v1;

use super::core::Core;
use super::membership::{self, Profile};
use super::shared::Shared;
use super::{GroupConsumer, TopicPartition};
use crate::consumer::{Bounds, ENVELOPE_BYTES};
use crate::retry::random;
use crate::{CallError, Client, Position};

/// When what a member has done is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// A batch is done when the next one is asked for; what is done is committed so often, before a
    /// partition is given on, and when the consumer is closed. At least once.
    Auto(Duration),
    /// When the application says so: [`GroupConsumer::commit`].
    Manual,
    /// Before it is handed out: at most once. What the application has not processed when it ends is
    /// passed over.
    BeforeDelivery,
}

/// How a group shares its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// Everybody has as many as others that want the same, or one more; nothing moves that need not.
    UniformSticky,
    /// Each member has a run of each topic's partitions.
    Range,
}

/// Settings of a member of a group; [`GroupConsumerBuilder::build`] joins it.
#[derive(Clone, Debug)]
pub struct GroupConsumerBuilder {
    client: Client,
    profile: Profile,
    from: Position,
    commit: Commit,
    leaves: Option<bool>,
    bounds: Bounds,
}

impl GroupConsumerBuilder {
    pub(crate) fn new(client: Client, group: &str) -> Self {
        let profile =
            Profile { group: group.to_owned(), instance: String::new(), join: v1::Join::default() };
        let bounds = Bounds {
            prefetch_bytes: 16 << 20,
            max_message_bytes: limits::BATCH_BYTES_MAX + ENVELOPE_BYTES,
        };
        let commit = Commit::Auto(Duration::from_secs(1));
        Self { client, profile, from: Position::Earliest, commit, leaves: None, bounds }
    }

    /// Adds a topic, by name or by a pattern in which `*` stands for any letters and `?` for one.
    pub fn topic(mut self, topic: &str) -> Self {
        self.profile.join.topics.push(topic.to_owned());
        self
    }

    /// Makes it a static member: a process that comes back under the same name, within the session's
    /// time, has what it had, and nothing moves. It does not leave when it is closed.
    pub fn instance(mut self, name: &str) -> Self {
        name.clone_into(&mut self.profile.instance);
        self
    }

    /// Sets how long the member may be silent until others get what it has; default 10 seconds.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.profile.join.session_timeout_ms =
            u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1);
        self
    }

    /// Sets how the group shares its partitions from now on; default: as it does.
    pub fn assignor(mut self, assignor: Assignor) -> Self {
        self.profile.join.assignor = match assignor {
            Assignor::UniformSticky => v1::Assignor::UniformSticky,
            Assignor::Range => v1::Assignor::Range,
        } as i32;
        self
    }

    /// Sets what people see in a description of the group.
    pub fn client_id(mut self, name: &str) -> Self {
        name.clone_into(&mut self.profile.join.client_id);
        self
    }

    /// Sets where a partition begins of which nothing was committed; default [`Position::Earliest`].
    pub fn from(mut self, position: Position) -> Self {
        self.from = position;
        self
    }

    /// Sets when what is done is committed; default [`Commit::Auto`], every second.
    pub fn commit(mut self, commit: Commit) -> Self {
        self.commit = commit;
        self
    }

    /// Sets whether it leaves the group when it is closed; default: unless it is a static member.
    pub fn leave_on_close(mut self, leaves: bool) -> Self {
        self.leaves = Some(leaves);
        self
    }

    /// Sets the bytes that the broker may send ahead of the application; default 16 MiB. May be
    /// exceeded by one batch.
    pub fn prefetch_bytes(mut self, bytes: u64) -> Self {
        self.bounds.prefetch_bytes = bytes.max(1);
        self
    }

    /// Sets the largest message to be sent; default: what holds the largest batch there can be.
    pub fn max_message_bytes(mut self, bytes: u32) -> Self {
        self.bounds.max_message_bytes = bytes;
        self
    }

    /// Joins the group and starts the consumer. Call it inside a tokio runtime: its heartbeats come from
    /// a task there.
    ///
    /// # Errors
    /// If the broker cannot be reached or refuses: a topic does not exist, none was named, or a setting
    /// cannot be.
    pub async fn build(self) -> Result<GroupConsumer, CallError> {
        let Self { client, profile, from, commit, leaves, bounds } = self;
        let leaves = leaves.unwrap_or(profile.instance.is_empty());
        let core = Core::new(member_id(&profile), commit);
        let shared = Arc::new(Shared::new(client, profile.group.clone(), core, leaves));
        membership::join(&shared, &profile).await?;
        let group = profile.group.clone();
        let membership = tokio::spawn(membership::keep(Arc::clone(&shared), profile));
        Ok(GroupConsumer::start(shared, membership, group, from, bounds))
    }
}

/// A name that nobody else has.
pub(super) fn member_id(profile: &Profile) -> String {
    let name = [&profile.instance, &profile.join.client_id].into_iter().find(|it| !it.is_empty());
    let name: String = name.map_or("member", String::as_str).chars().take(40).collect();
    format!("{name}-{:016x}", random())
}

impl TryFrom<&v1::AssignedPartition> for TopicPartition {
    type Error = taffrail_model::NameError;

    fn try_from(assigned: &v1::AssignedPartition) -> Result<Self, Self::Error> {
        let topic = taffrail_model::TopicName::parse(&assigned.topic)?;
        Ok(Self::new(topic, taffrail_model::PartitionIndex::new(assigned.partition)))
    }
}
