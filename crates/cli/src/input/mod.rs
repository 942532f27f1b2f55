//! Records from files or standard input.
//!
//! `source` reads and frames on a thread of its own; `parser` turns a framed piece into a record.

mod base64_text;
mod fields;
mod json_record;
mod parsed;
mod parser;
mod source;

pub(crate) use parsed::{LineError, Parsed};
pub(crate) use parser::Parser;
pub(crate) use source::{Chunk, ReadError, Source, open};
