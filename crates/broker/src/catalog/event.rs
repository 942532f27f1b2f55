//! The facts that the catalog persists. They only ever grow: fields that are added have a default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Something that happened to a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Event {
    /// There is a new topic; its partitions' files are on disk.
    TopicCreated {
        name: String,
        id: String,
        partitions: u32,
        settings: BTreeMap<String, String>,
        created_ms: i64,
    },
    /// A topic sets these and nothing else.
    TopicAltered { name: String, settings: BTreeMap<String, String> },
    /// A topic has so many partitions now; the new ones' files are on disk.
    PartitionsAdded { name: String, partitions: u32 },
    /// There is no such topic any more; its files may still be there.
    TopicDeleted { name: String },
    /// The files of a deleted topic are gone.
    TopicRemoved { id: String },
}
