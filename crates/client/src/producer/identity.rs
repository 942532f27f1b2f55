//! Who a producer is to the broker, and whether its sequences still hold.
//!
//! Pure. Invariant: under an identity that is spent nothing is sent that was not sent under it before.

use taffrail_model::{ProducerEpoch, ProducerId, ProducerStamp, Sequence};

use crate::ServerError;

/// An idempotent producer, as the broker made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
}

/// How a producer stands with the broker.
#[derive(Debug)]
pub(super) enum Standing {
    /// It is not idempotent: what may have been appended is not sent again.
    Anonymous,
    /// Its sequences have no gaps.
    Valid(Identity),
    /// There may be a gap in its sequences: it needs a new identity.
    Spent {
        /// The identity to replace.
        identity: Identity,
        /// Why there is no new one yet.
        obstacle: Option<String>,
    },
    /// Another one has taken its name: nothing is sent any more.
    Fenced(ServerError),
}

impl Standing {
    pub(super) fn is_idempotent(&self) -> bool {
        !matches!(self, Self::Anonymous)
    }

    /// Whether batches may be sent that never were.
    pub(super) fn takes_new(&self) -> bool {
        matches!(self, Self::Anonymous | Self::Valid(_))
    }

    /// What is said of a batch that begins at `sequence`.
    pub(super) fn stamp(&self, sequence: Sequence) -> Option<ProducerStamp> {
        match self {
            Self::Valid(identity) | Self::Spent { identity, .. } => {
                let Identity { id, epoch } = *identity;
                Some(ProducerStamp { id, epoch, sequence })
            }
            Self::Anonymous | Self::Fenced(_) => None,
        }
    }

    /// Takes note that there may be a gap.
    pub(super) fn spend(&mut self) {
        if let Self::Valid(identity) = *self {
            *self = Self::Spent { identity, obstacle: None };
        }
    }

    /// Says why there is no new identity yet.
    pub(super) fn hinder(&mut self, cause: String) {
        if let Self::Spent { obstacle, .. } = self {
            *obstacle = Some(cause);
        }
    }

    /// Why there is no new identity yet.
    pub(super) fn obstacle(&self) -> Option<&str> {
        match self {
            Self::Spent { obstacle, .. } => obstacle.as_deref(),
            Self::Anonymous | Self::Valid(_) | Self::Fenced(_) => None,
        }
    }
}
