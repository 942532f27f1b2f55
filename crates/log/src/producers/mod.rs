//! What a log remembers of idempotent producers, so that each of their batches is in it once.
//!
//! As in Kafka's KIP-98: a producer numbers its records, and a batch goes in only where the last one
//! of the same producer ended. The log itself is the memory: each batch says who sent it. What is
//! kept here follows from it, and a checkpoint saves reading all of it at every opening.
//!
//! Invariant: a producer that is not remembered and is not below `known_from` has no batch in the
//! log. So nothing is ever taken for new because it was forgotten.

mod checkpoint;
mod crowd;
mod memory;

pub(crate) use checkpoint::{
    COPIES as CHECKPOINTS, Checkpoint, Checkpoints, MAGIC, decode, read as read_checkpoint,
};
pub(crate) use crowd::{Crowd, CrowdShare};
pub use memory::{Known, SequenceError};
pub(crate) use memory::{Mark, Producer, Producers};
