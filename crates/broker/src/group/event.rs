//! The facts that are persisted of consumer groups. They only ever grow: fields that are added have a
//! default.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use taffrail_model::LogId;

use super::assign::Assignor;

/// A partition, whatever its topic is called: the one that a topic has that is made again under the
/// same name is another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(pub(crate) LogId);

/// Something that happened to a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) group: String,
    #[serde(flatten)]
    pub(crate) kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum EventKind {
    /// Partitions are shared so from now on.
    AssignorChosen { assignor: Assignor },
    /// Somebody is a member from now on, or wants something else.
    MemberJoined { member: String, profile: Profile },
    /// Another process goes on as this member's instance: what it had is the new one's, in an epoch of
    /// its own.
    MemberReplaced { member: String, by: String, profile: Profile },
    /// Somebody is no member any more; nobody owns what was theirs.
    MemberLeft { member: String, at_ms: i64 },
    /// Who is to have these partitions: an epoch of the group begins.
    Targeted { epoch: u32, moves: Vec<Move> },
    /// A member has stopped reading these.
    Released { member: String, slots: Vec<Slot> },
    /// How far the group has come.
    Committed { offsets: Vec<Commit>, at_ms: i64 },
    /// Where the group goes on, whatever its members have in hand: an epoch of the group begins, in
    /// which they have these partitions anew.
    Reset { epoch: u32, offsets: Vec<Commit>, at_ms: i64 },
    /// What was committed for these counts no more.
    Forgotten { slots: Vec<Slot> },
    /// There is no such group any more.
    Deleted,
}

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Profile {
    /// Topics that it reads, and patterns of their names.
    pub(crate) topics: Vec<String>,
    /// The name of a process that keeps its partitions while it restarts; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) instance: String,
    /// For people: who it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) client: String,
    /// How long it may be silent.
    pub(crate) session_ms: u32,
}

/// A partition that is to be somebody's, or nobody's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Move {
    pub(crate) slot: Slot,
    pub(crate) to: Option<String>,
}

/// How far a group has come in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Commit {
    pub(crate) slot: Slot,
    /// The first offset that is not done.
    pub(crate) offset: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) metadata: String,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Serialize for Slot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Slot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        LogId::parse(&text).map(Self).ok_or_else(|| D::Error::custom(format!("no slot: {text:?}")))
    }
}
