//! The programs that are measured, and what they cost.

pub mod broker;
pub mod process;
