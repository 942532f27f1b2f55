//! The contract as others read it: from `proto/` and by reflection alone, no generated code.

use std::path::PathBuf;
use std::sync::OnceLock;

use protox::prost_reflect::{DescriptorPool, DynamicMessage, Value};
use taffrail_proto::v1;

/// A batch in one of the views.
#[derive(Clone, Debug)]
pub(crate) struct View(DynamicMessage);

/// Both views, compiled from `proto/`.
pub(crate) fn contract() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let proto = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../proto");
        let files = ["log", "log_raw", "group", "admin"];
        let files = files.map(|name| format!("taffrail/v1/{name}.proto"));
        let set = protox::compile(files, [proto]).expect("the contract compiles");
        DescriptorPool::from_file_descriptor_set(set).expect("a whole contract")
    })
}

/// Decodes a message of the contract by its full name.
#[track_caller]
pub(crate) fn decode(name: &str, bytes: &[u8]) -> View {
    let message = contract().get_message_by_name(name).expect("the contract has it");
    View(DynamicMessage::decode(message, bytes).expect("what the contract says"))
}

impl View {
    /// The messages of a repeated field.
    pub(crate) fn list(&self, field: &str) -> Vec<Self> {
        let value = self.0.get_field_by_name(field).expect("the message has it");
        let list = value.as_list().expect("repeated");
        list.iter().map(|item| Self(item.as_message().expect("a message").clone())).collect()
    }

    pub(crate) fn message(&self, field: &str) -> Self {
        assert!(self.0.has_field_by_name(field), "{field} is not there");
        Self(self.value(field).as_message().expect("a message").clone())
    }

    pub(crate) fn value(&self, field: &str) -> Value {
        self.0.get_field_by_name(field).expect("the message has it").into_owned()
    }

    pub(crate) fn number(&self, field: &str) -> u64 {
        match self.value(field) {
            Value::U64(number) => number,
            Value::U32(number) => number.into(),
            Value::I64(number) => u64::try_from(number).expect("not negative"),
            Value::EnumNumber(number) => u64::try_from(number).expect("not negative"),
            other => panic!("{field} is {other:?}"),
        }
    }

    /// Whether it has fields that the contract does not know.
    pub(crate) fn has_unknown_fields(&self) -> bool {
        self.0.unknown_fields().next().is_some()
    }

    /// A record in the generated types.
    pub(crate) fn record(&self) -> v1::Record {
        self.0.transcode_to().expect("a record")
    }
}
