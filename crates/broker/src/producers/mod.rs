//! Who idempotent producers are: their ids, and the names that some of them have.
//!
//! Guarantees: an id that is answered is durable and never given out again; once somebody has been
//! answered that a name is theirs, nothing of the former holder is appended any more, whatever of it
//! is on its way. What each of them has sent, every partition's log remembers by itself.

mod event;
mod holders;
mod numbers;
mod state;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use taffrail_log::SequenceError;
use taffrail_model::{ProducerEpoch, ProducerId, Timestamp, limits};

use crate::coordinator::{CommandError, Coordinator};
use crate::partition::Partition;
use crate::produce::{Fence, ProduceError};
use holders::Holders;
use numbers::Numbers;
pub(crate) use state::Registry;
use state::{Command, Reply, TakeName};

/// Ids that are ever given out are far below this.
const IDS_MAX: u64 = 1 << 62;

/// An idempotent producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdentity {
    /// Its identity.
    pub id: ProducerId,
    /// How often its name was taken before.
    pub epoch: ProducerEpoch,
}

/// Asks for an idempotent producer.
#[derive(Clone, Debug, Default)]
pub struct InitProducer {
    /// Its name; empty: none.
    pub name: String,
    /// The producer that asks for a new id.
    pub former: Option<ProducerId>,
    /// A random number that is the same when the same is asked for again; 0: none.
    pub attempt: u64,
}

/// Why there is no such producer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InitProducerError {
    /// The name is too long.
    #[error("the producer's name has {found} bytes: give it 1 to {max}")]
    NameTooLong {
        /// Bytes of it.
        found: usize,
        /// Bytes it may have.
        max: usize,
    },
    /// Somebody else has taken the name.
    #[error("producer {id} has lost its name {name:?} to another: stop it, or take the name anew")]
    Fenced {
        /// The name.
        name: String,
        /// Who asks.
        id: ProducerId,
    },
    /// Too many names.
    #[error("there are {max} names of producers, and no more can be: use names again")]
    Full {
        /// So many.
        max: usize,
    },
    /// The decision could not be stored.
    #[error("the producer cannot be stored: {0}")]
    Storage(ProduceError),
    /// What is known of producers is damaged.
    #[error(
        "the log of producers cannot be used: {cause}; produce without an id until the broker was \
         started with a sound one: if the log is damaged, `taffrail repair` builds it anew"
    )]
    Damaged {
        /// What is wrong.
        cause: String,
    },
}

/// All idempotent producers.
#[derive(Debug)]
pub(crate) struct Producers {
    registry: Result<Coordinator<Registry>, String>,
    /// Whoever was made before the start is below this.
    ids_end: ProducerId,
    /// Whoever was made since is below this.
    made_end: AtomicU64,
    /// Numbers for producers without a name.
    numbers: Numbers,
    holders: Holders,
}

impl Producers {
    /// Reads what is known, if it can be read.
    pub(crate) async fn start(partition: Result<Arc<Partition>, String>) -> Self {
        let registry = match partition {
            Ok(partition) => {
                Coordinator::<Registry>::start(partition).await.map_err(|e| e.to_string())
            }
            Err(cause) => Err(cause),
        };
        let holders = Holders::default();
        let (registry, ids_end) = match registry {
            Ok((registry, known)) => {
                known.holders().for_each(|(name, holder)| holders.note(name, holder.id));
                (Ok(registry), known.ids_end())
            }
            Err(cause) => {
                tracing::error!(%cause, "nothing is known of idempotent producers: none is made");
                (Err(cause), ProducerId::LAST)
            }
        };
        let (numbers, made_end) = (Numbers::new(ids_end), AtomicU64::new(0));
        Self { registry, ids_end, made_end, numbers, holders }
    }

    /// Parts those who were made so far from those who will be: the id that lies between them.
    pub(crate) fn fence_ids(&self) -> ProducerId {
        self.numbers.abandon();
        let made_end = ProducerId::new(self.made_end.load(Ordering::Acquire));
        made_end.map_or(self.ids_end, |made_end| made_end.max(self.ids_end))
    }

    /// A producer without a name.
    pub(crate) async fn make(&self, now: Timestamp) -> Result<ProducerIdentity, InitProducerError> {
        let number = match self.numbers.next() {
            Some(number) => number,
            None => match self.submit(Command::Reserve, now).await? {
                Reply::Reserved(numbers) => self.numbers.next_of(numbers),
                Reply::Taken(_) => unreachable!("numbers were asked for"),
            },
        };
        let id = state::unnamed(number);
        self.note_made(id);
        Ok(ProducerIdentity { id, epoch: ProducerEpoch::ZERO })
    }

    /// A producer with a name. Whoever had it is fenced on return, but for batches that are being
    /// written.
    pub(crate) async fn take(
        &self,
        request: InitProducer,
        now: Timestamp,
    ) -> Result<ProducerIdentity, InitProducerError> {
        let InitProducer { name, former, attempt } = request;
        let (found, max) = (name.len(), limits::PRODUCER_NAME_BYTES_MAX);
        if found > max {
            return Err(InitProducerError::NameTooLong { found, max });
        }
        let take = TakeName { name: name.clone(), former, attempt };
        match self.submit(Command::Take(take), now).await? {
            Reply::Taken(identity) => {
                self.note_made(identity.id);
                self.holders.note(&name, identity.id);
                Ok(identity)
            }
            Reply::Reserved(_) => unreachable!("a name was asked for"),
        }
    }

    /// What stands between a producer and the log, if it has a name. Nobody has an id that was not
    /// given out: whoever gets it later would find batches that are not its own.
    pub(crate) fn fence(&self, id: ProducerId) -> Result<Option<Fence>, ProduceError> {
        if id.get() > IDS_MAX {
            return Err(SequenceError::Unknown { id }.into());
        }
        if !state::is_named(id) {
            let is_given_out = id < self.ids_end || self.numbers.are_given_out(id);
            return if is_given_out { Ok(None) } else { Err(SequenceError::Unknown { id }.into()) };
        }
        match (self.holders.fence(id), &self.registry) {
            (Some(fence), _) => Ok(Some(fence)),
            (None, Ok(_)) => Err(ProduceError::NameLost { id }),
            (None, Err(cause)) => Err(ProduceError::ProducersDamaged { cause: cause.clone() }),
        }
    }

    fn note_made(&self, id: ProducerId) {
        self.made_end.fetch_max(id.get() + 1, Ordering::AcqRel);
    }

    async fn submit(&self, command: Command, now: Timestamp) -> Result<Reply, InitProducerError> {
        let damaged = |cause: String| InitProducerError::Damaged { cause };
        let registry = self.registry.as_ref().map_err(|cause| damaged(cause.clone()))?;
        match registry.submit(command, now, |_| ()).await {
            Ok((reply, ())) => Ok(reply),
            Err(CommandError::Refused(error)) => Err(error),
            Err(CommandError::Storage(error)) => Err(InitProducerError::Storage(error)),
            Err(CommandError::Journal(error)) => Err(damaged(error.to_string())),
        }
    }
}
