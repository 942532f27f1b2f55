//! Makes Rust, the descriptor set and the raw view from `proto/`.
//!
//! There are two views of one contract. In the one that is published everything is typed. In the
//! raw one, which the broker and our client use, two fields are read as bytes, because on the wire
//! a message field and a bytes field look alike: a batch's records, which nobody on the way opens,
//! and the batches of an answer, which are a slice of a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use prost::Message;
use prost_types::field_descriptor_proto::Type;
use prost_types::{FieldDescriptorProto, FileDescriptorSet};

const PROTOS: [&str; 5] = [
    "taffrail/v1/error.proto",
    "taffrail/v1/log.proto",
    "taffrail/v1/group.proto",
    "taffrail/v1/queue.proto",
    "taffrail/v1/admin.proto",
];
const RAW_PROTO: &str = "proto/taffrail/v1/log_raw.proto";
const GENERATED: &str = "crates/proto/src/generated";

/// The message types whose fields the raw view reads as bytes.
const RAW_TYPES: [&str; 2] = ["RecordSet", "FetchedData"];

/// Every generated file, by its path below `root`.
pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Writes what [`generate`] makes.
pub(crate) fn write(root: &Path) -> Result<()> {
    for (path, contents) in generate(root)? {
        let path = root.join(path);
        fs::create_dir_all(path.parent().context("a generated file has a folder")?)?;
        fs::write(&path, contents).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Fails if what is committed is not what [`generate`] makes.
pub(crate) fn check(root: &Path) -> Result<()> {
    for (path, contents) in generate(root)? {
        if fs::read(root.join(&path)).unwrap_or_default() != contents {
            bail!("{} is out of date: run `cargo xtask codegen`", path.display());
        }
    }
    Ok(())
}

/// Makes every generated file.
fn generate(root: &Path) -> Result<Files> {
    let proto = root.join("proto");
    let published = protox::compile(PROTOS, [&proto]).context("compiling proto/")?;
    let mut files = Files::new();
    files.insert(Path::new(GENERATED).join("descriptor.bin"), published.encode_to_vec());
    files.insert(PathBuf::from(RAW_PROTO), raw_proto(&proto)?.into_bytes());

    let out = root.join("target/codegen");
    fs::create_dir_all(&out)?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .out_dir(&out)
        .compile_fds(raw_view(published))
        .context("generating Rust")?;
    let name = "taffrail.v1.rs";
    files.insert(Path::new(GENERATED).join(name), fs::read(out.join(name))?);
    Ok(files)
}

/// The descriptor set with the raw view's fields read as bytes.
fn raw_view(mut set: FileDescriptorSet) -> FileDescriptorSet {
    let messages = set.file.iter_mut().flat_map(|file| &mut file.message_type);
    for field in messages.flat_map(|message| &mut message.field) {
        if is_raw(field) {
            field.set_type(Type::Bytes);
            field.type_name = None;
        }
    }
    set
}

fn is_raw(field: &FieldDescriptorProto) -> bool {
    RAW_TYPES.iter().any(|name| field.type_name() == format!(".taffrail.v1.{name}"))
}

/// `log.proto` as text in the raw view: other package, no services, bytes for the raw fields.
fn raw_proto(proto: &Path) -> Result<String> {
    let text = fs::read_to_string(proto.join("taffrail/v1/log.proto"))?;
    let mut raw = String::from(
        "// The messages of log.proto with two fields read as bytes: a batch's records, so that\n\
         // `records_crc` can be checked, and the batches of an answer. On the wire they are the same.\n\
         // Generated from log.proto.\n\
         syntax = \"proto3\";\n\npackage taffrail.v1.raw;\n\nimport \"taffrail/v1/error.proto\";\n",
    );
    let messages = text.find("// -----").context("log.proto has no section of messages")?;
    for line in text.get(messages..).unwrap_or_default().lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let line = match words.first() {
            Some(first) if RAW_TYPES.contains(first) => line.replacen(first, "bytes", 1),
            Some(&"Error") => line.replacen("Error", "taffrail.v1.Error", 1),
            _ => line.to_owned(),
        };
        raw.push('\n');
        raw.push_str(&line);
    }
    raw.push('\n');
    Ok(raw)
}
