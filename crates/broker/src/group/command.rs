//! What can be asked of groups, and what is answered.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use taffrail_model::Timestamp;

use super::assign::Assignor;
use super::catalogue::Catalogue;
use super::event::{Commit, Profile, Slot};

/// The topics as they are when something is decided.
pub(crate) type Topics = Arc<ArcSwap<Catalogue>>;

/// What can be asked of groups.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    /// Something about one group.
    Of { group: String, kind: CommandKind, topics: Topics },
    /// Topics have come, grown or gone.
    Follow { topics: Topics },
    /// Groups that nobody has been in since then are forgotten.
    Expire { before: Timestamp },
}

/// What is asked of one group.
#[derive(Clone, Debug)]
pub(crate) enum CommandKind {
    /// Somebody wants to be a member, or to read other topics, or goes on for another process.
    Join {
        member: String,
        profile: Profile,
        assignor: Option<Assignor>,
        /// Whether it was a member before: it is not made one anew.
        is_back: bool,
    },
    /// Somebody goes, or was silent for too long.
    Leave { member: String },
    /// A member that has heard of an epoch reads no more than this.
    Release { member: String, epoch: u32, kept: BTreeSet<Slot> },
    /// How far a member has come; or, without one, a group that nobody is in.
    Commit { by: Option<String>, offsets: Vec<OwnCommit> },
    /// Where the group is to go on; forced: even if somebody is in it.
    Reset { offsets: Vec<Commit>, is_forced: bool },
    /// The end of the group.
    Delete,
}

/// What a member has done of a partition that it has had since an epoch.
#[derive(Clone, Debug)]
pub(crate) struct OwnCommit {
    pub(crate) commit: Commit,
    pub(crate) epoch: u32,
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    /// Who reads what differs, in these groups.
    pub(crate) changes: Vec<Change>,
    /// Commits that do not count, by their place in the command.
    pub(crate) refused: Refused,
}

/// Commits that do not count, by their place in the command, and why not.
pub(crate) type Refused = Vec<(usize, GroupRefusal)>;

/// Whom a change of a group concerns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Change {
    pub(crate) group: String,
    pub(crate) members: BTreeSet<String>,
    pub(crate) slots: BTreeSet<Slot>,
}

impl Change {
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.slots.is_empty()
    }
}

/// Why a group refuses something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "what each says is its documentation")]
pub enum GroupRefusal {
    #[error("there is no group {group:?}: somebody joins it or commits to it first")]
    UnknownGroup { group: String },
    #[error(
        "{member:?} is no member of group {group:?}: its session has ended, or another process has \
         joined as its instance; stop what it reads, and join anew"
    )]
    UnknownMember { group: String, member: String },
    #[error(
        "{member:?} is no member of group {group:?} any more: another process has joined it as \
         instance {instance:?}; give each process an instance of its own"
    )]
    FencedInstance { group: String, member: String, instance: String },
    #[error(
        "member {member:?} of group {group:?} does not have the partition since epoch {epoch}{}: what \
         it has read of it is another's now",
        .owner.as_ref().map_or_else(String::new, |(it, since)| format!(", {it:?} has since {since}"))
    )]
    StaleMember { group: String, member: String, epoch: u32, owner: Option<(String, u32)> },
    #[error(
        "group {group:?} has {members} members: stop them first, or force it where that is offered"
    )]
    HasMembers { group: String, members: usize },
    #[error("there are as many {what} as there can be, {max}: delete groups that nobody needs")]
    Full { what: &'static str, max: usize },
}
