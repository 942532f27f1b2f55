//! When partitions are kept in order: beside their traffic, and never all at once.
//!
//! A partition is looked at when something has happened to it (it was opened, a segment was begun, its
//! settings changed), and when it said itself that there will be something to do. So nothing visits all
//! partitions on a timer.

mod agenda;
mod leaps;

pub(crate) use agenda::Agenda;
pub(crate) use leaps::{Leaps, Verdict};
