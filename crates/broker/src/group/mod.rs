//! Consumer groups: who is in them, who reads which partition, and how far each has come.

mod assign;
mod event;
mod state;
#[cfg(test)]
mod tests;
