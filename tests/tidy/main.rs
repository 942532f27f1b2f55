//! The rules of the house, as tests: which crate may know which, what must be absent where, and
//! how files look. Nothing here runs the product.
//!
//! Each test is named as the fact it holds, and lists every place that breaks it. Tables at the
//! head of each file say what is allowed, so that a change of the rules is a visible one.

mod absences;
mod arrows;
mod contract;
mod docs;
mod files;
mod seams;
mod source;
mod tree;

/// Fails with every entry of `violations` if there is one.
#[track_caller]
fn none(violations: impl IntoIterator<Item = String>) {
    let violations: Vec<_> = violations.into_iter().collect();
    assert!(violations.is_empty(), "\n  {}\n", violations.join("\n  "));
}
