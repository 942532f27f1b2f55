//! The log through its public door: what it promises, on a disk in memory and on a real one.

mod arbitrary;
mod beside;
mod clean;
mod compacted;
mod compaction;
mod crash;
mod damage;
mod delete;
mod directory;
mod faults;
mod given;
mod golden;
mod harm;
mod interrupted;
mod meanwhile;
mod model;
mod mutations;
mod property;
mod repair;
mod reserved;
mod salvage;
mod spare;
mod torn;
mod unread;
mod verify;
