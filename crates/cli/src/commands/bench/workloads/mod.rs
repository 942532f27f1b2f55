//! What is measured, one file each, and what several of them use.

pub(super) mod churn;
pub(super) mod commit;
pub(super) mod consume;
pub(super) mod crowd;
pub(super) mod load;
mod pace;
pub(super) mod produce;
pub(super) mod queue;
pub(super) mod replay;
pub(super) mod start_up;
mod tail;
