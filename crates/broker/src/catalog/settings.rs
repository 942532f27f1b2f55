//! The settings that a topic can have: the catalogue of names, and their typed values.

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use taffrail_log::{LogConfig, Retention};
use taffrail_model::limits;

use crate::nearest::nearest;

/// Bytes of a value, at the most: they are stored as they are given.
const TEXT_BYTES_MAX: usize = 64;

/// What *committed* means in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On disk: a sync has returned.
    Fsync,
    /// Written to the operating system; synced in the background.
    PageCache,
}

/// What becomes of records when they are old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// Retention deletes them.
    Delete,
    /// Of each key the latest stays.
    Compact,
    /// Both.
    Both,
}

/// How a topic is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// What *committed* means.
    pub durability: Durability,
    /// Bytes of a batch with its header, at the most.
    pub batch_bytes_max: u32,
    /// Bytes at which a segment is sealed.
    pub segment_bytes: u64,
    /// Age at which a segment is sealed.
    pub segment_age: Option<Duration>,
    /// What becomes of records when they are old.
    pub cleanup: Cleanup,
    /// How long, and how much, retention keeps.
    pub retention: Retention,
    /// How long a tombstone stays after the first compaction that has seen it.
    pub tombstone_age: Duration,
    /// Of all that could be compacted, the part that must be new before it is.
    pub dirty_ratio_min: Ratio,
}

/// A part of a whole, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio(u16);

impl Ratio {
    /// From 0 to 1.
    pub fn get(self) -> f64 {
        f64::from(self.0) / 1_000.0
    }
}

impl Cleanup {
    /// Whether records go that a later one of their key supersedes.
    pub const fn compacts(self) -> bool {
        matches!(self, Self::Compact | Self::Both)
    }
}

/// A setting, for people.
#[derive(Clone, Copy, Debug)]
pub struct SettingInfo {
    /// Its name.
    pub name: &'static str,
    /// What values it takes.
    pub kind: &'static str,
    /// Its value where a topic does not set it.
    pub default: &'static str,
    /// What it does.
    pub description: &'static str,
    set: fn(&mut TopicSettings, &str) -> Option<()>,
}

/// A setting and its value in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingValue {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// Whether the topic does not set it itself.
    pub is_default: bool,
}

/// Why settings cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is no such setting.
    #[error("there is no setting {name:?}{}; there are {}", crate::nearest::did_you_mean(.nearest.as_deref()), names())]
    Unknown {
        /// What was asked for.
        name: String,
        /// A setting with a similar name.
        nearest: Option<String>,
    },
    /// It does not take this value.
    #[error("{name} takes {kind}, not {value:?}")]
    Value {
        /// The setting.
        name: &'static str,
        /// What it takes.
        kind: &'static str,
        /// What was given.
        value: String,
    },
    /// Segments that are larger than what is to be kept.
    #[error(
        "segment.bytes ({segment_bytes}) is larger than retention.bytes ({retention_bytes}), and only whole segments are deleted: lower segment.bytes, or leave it out"
    )]
    SegmentExceedsRetention {
        /// Bytes of a segment.
        segment_bytes: u64,
        /// Bytes that are to be kept.
        retention_bytes: u64,
    },
    /// Segments that may become older than what is to be kept.
    #[error(
        "segment.ms ({segment_ms}) is longer than retention.ms ({retention_ms}), and only whole segments are deleted: lower segment.ms, or leave it out"
    )]
    SegmentOutlivesRetention {
        /// Age of a segment in milliseconds.
        segment_ms: u64,
        /// Age of what is to be kept.
        retention_ms: u64,
    },
    /// Retention where nothing is deleted for its age or size.
    #[error(
        "{name} has no effect with cleanup=compact, which keeps the latest record of each key: say cleanup=both to delete those as well, or leave {name} out"
    )]
    RetentionOfCompacted {
        /// The setting.
        name: &'static str,
    },
    /// Two settings that exclude each other.
    #[error(
        "max.batch.bytes ({batch_bytes}) is larger than segment.bytes ({segment_bytes}): raise segment.bytes"
    )]
    BatchExceedsSegment {
        /// Bytes of a batch.
        batch_bytes: u64,
        /// Bytes of a segment.
        segment_bytes: u64,
    },
    /// Batches that the broker would never take.
    #[error(
        "max.batch.bytes ({batch_bytes}) does not fit into a request of {request_bytes} bytes: lower it, or raise the broker's max_request_bytes"
    )]
    BatchExceedsRequest {
        /// Bytes of a batch.
        batch_bytes: u64,
        /// Bytes of a request.
        request_bytes: u64,
    },
}

/// What is around a batch in a request, at the most.
const REQUEST_ENVELOPE_BYTES: u64 = 1 << 10;

/// Every setting that a topic can have, ascending by name.
pub static SETTINGS: [SettingInfo; 9] = [
    SettingInfo {
        name: "cleanup",
        kind: "delete | compact | both",
        default: "delete",
        description: "What becomes of old records: deleted by retention.ms and retention.bytes \
                      (delete), superseded by a later one of the same key (compact), or both. \
                      Where records are compacted, each must have a key.",
        set: |settings, value| {
            settings.cleanup = match value {
                "delete" => Cleanup::Delete,
                "compact" => Cleanup::Compact,
                "both" => Cleanup::Both,
                _ => return None,
            };
            Some(())
        },
    },
    SettingInfo {
        name: "delete.retention.ms",
        kind: "a duration such as 90s, 12h, 7d, or milliseconds",
        default: "1d",
        description: "How long a tombstone stays after the first compaction that has seen it, so \
                      that whoever has read an older record of its key comes to it.",
        set: |settings, value| {
            settings.tombstone_age = duration(value)?;
            Some(())
        },
    },
    SettingInfo {
        name: "durability",
        kind: "fsync | page_cache",
        default: "fsync",
        description: "What an acknowledgement means: on disk (fsync), or written to the operating \
                      system and synced within a second (page_cache), which survives the death of \
                      the broker, not of the machine.",
        set: |settings, value| {
            settings.durability = match value {
                "fsync" => Durability::Fsync,
                "page_cache" => Durability::PageCache,
                _ => return None,
            };
            Some(())
        },
    },
    SettingInfo {
        name: "max.batch.bytes",
        kind: "bytes, 1KiB to 64MiB",
        default: "1MiB",
        description: "The largest batch that the topic takes, with its header of 89 bytes.",
        set: |settings, value| {
            let range = u64::from(limits::BATCH_BYTES_FLOOR)..=u64::from(limits::BATCH_BYTES_MAX);
            settings.batch_bytes_max = u32::try_from(bytes(value, &range)?).ok()?;
            Some(())
        },
    },
    SettingInfo {
        name: "min.cleanable.dirty.ratio",
        kind: "0 to 1",
        default: "0.5",
        description: "The part of a partition's sealed segments that no compaction has seen, by \
                      bytes, at which it is compacted. Less keeps the log smaller, and reads and \
                      writes more.",
        set: |settings, value| {
            let ratio: f64 = value.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))?;
            settings.dirty_ratio_min = Ratio((ratio * 1_000.0).round() as u16);
            Some(())
        },
    },
    SettingInfo {
        name: "retention.bytes",
        kind: "bytes, at least 64KiB, or `none`",
        default: "none",
        description: "How much of each partition is kept at least: the oldest segment is deleted \
                      once there is as much without it. Segments are sealed at an eighth of it \
                      where segment.bytes is not set.",
        set: |settings, value| {
            settings.retention.bytes = match value {
                "none" => None,
                _ => Some(bytes(value, &(limits::SEGMENT_BYTES_FLOOR..=u64::MAX))?),
            };
            Some(())
        },
    },
    SettingInfo {
        name: "retention.ms",
        kind: "a duration of at least 1s such as 90s, 12h, 7d, or milliseconds, or `none`",
        default: "none",
        description: "How long records are kept at least, from when the broker appended them: a \
                      segment is deleted once its last record is as old. Segments are sealed at \
                      an eighth of it where segment.ms is not set.",
        set: |settings, value| {
            settings.retention.age = age(value)?;
            Some(())
        },
    },
    SettingInfo {
        name: "segment.bytes",
        kind: "bytes, 64KiB to 1GiB",
        default: "1GiB",
        description: "The size at which a segment file is sealed and the next one begun. Where it \
                      is not set it is less with retention.bytes, and 64MiB with compaction.",
        set: |settings, value| {
            let range = limits::SEGMENT_BYTES_FLOOR..=limits::SEGMENT_BYTES_MAX;
            settings.segment_bytes = bytes(value, &range)?;
            Some(())
        },
    },
    SettingInfo {
        name: "segment.ms",
        kind: "a duration of at least 1s such as 90s, 12h, 7d, or milliseconds, or `none`",
        default: "none",
        description: "The age at which a segment file that has records is sealed and the next one \
                      begun. Where it is not set it follows from retention.ms.",
        set: |settings, value| {
            settings.segment_age = age(value)?;
            Some(())
        },
    },
];

impl Default for TopicSettings {
    fn default() -> Self {
        Self {
            durability: Durability::Fsync,
            batch_bytes_max: limits::BATCH_BYTES_DEFAULT,
            segment_bytes: limits::SEGMENT_BYTES_MAX,
            segment_age: None,
            cleanup: Cleanup::Delete,
            retention: Retention::default(),
            tombstone_age: limits::TOMBSTONE_AGE_DEFAULT,
            dirty_ratio_min: Ratio(500),
        }
    }
}

impl TopicSettings {
    /// Reads settings by name; what is not named has its default.
    ///
    /// # Errors
    /// If a name or a value is not known, or two exclude each other.
    pub fn parse(overrides: &BTreeMap<String, String>) -> Result<Self, SettingError> {
        let mut settings = Self::default();
        for (name, value) in overrides {
            let info = find(name)?;
            let (name, kind) = (info.name, info.kind);
            let set =
                if value.len() > TEXT_BYTES_MAX { None } else { (info.set)(&mut settings, value) };
            set.ok_or_else(|| SettingError::Value { name, kind, value: shown(value) })?;
        }
        settings.derive(overrides);
        settings.check_together()?;
        Ok(settings)
    }

    /// Sizes segments by what is to be done with them, where the topic does not say.
    fn derive(&mut self, overrides: &BTreeMap<String, String>) {
        if !overrides.contains_key("segment.bytes") {
            if self.cleanup.compacts() {
                self.segment_bytes = limits::COMPACTED_SEGMENT_BYTES;
            }
            if let Some(bytes) = self.retention.bytes {
                self.segment_bytes = self.segment_bytes.min(bytes / limits::RETAINED_SEGMENTS);
            }
            let least = limits::SEGMENT_BYTES_FLOOR.max(self.batch_bytes_max.into());
            self.segment_bytes = self.segment_bytes.max(least);
        }
        if !overrides.contains_key("segment.ms")
            && let Some(age) = self.retention.age
        {
            let part = age / limits::RETAINED_SEGMENTS as u32;
            self.segment_age = Some(part.max(Duration::from_secs(1)));
        }
    }

    /// Checks that no setting contradicts another one.
    fn check_together(&self) -> Result<(), SettingError> {
        let batch_bytes = u64::from(self.batch_bytes_max);
        let segment_bytes = self.segment_bytes;
        if batch_bytes > segment_bytes {
            return Err(SettingError::BatchExceedsSegment { batch_bytes, segment_bytes });
        }
        let Retention { age, bytes } = self.retention;
        if self.cleanup == Cleanup::Compact && (age.is_some() || bytes.is_some()) {
            let name = if age.is_some() { "retention.ms" } else { "retention.bytes" };
            return Err(SettingError::RetentionOfCompacted { name });
        }
        // One batch may be more than what is to be kept.
        let most = |bytes: u64| bytes.max(batch_bytes);
        if let Some(retention_bytes) = bytes.filter(|bytes| most(*bytes) < segment_bytes) {
            return Err(SettingError::SegmentExceedsRetention { segment_bytes, retention_bytes });
        }
        match (self.segment_age, age) {
            (Some(segment), Some(retention)) if retention < segment => {
                let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                let (segment_ms, retention_ms) = (millis(segment), millis(retention));
                Err(SettingError::SegmentOutlivesRetention { segment_ms, retention_ms })
            }
            _ => Ok(()),
        }
    }

    /// Checks that a batch fits into a request.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn check_request(&self, request_bytes_max: usize) -> Result<(), SettingError> {
        let batch_bytes = u64::from(self.batch_bytes_max);
        let request_bytes = request_bytes_max as u64;
        if batch_bytes + REQUEST_ENVELOPE_BYTES > request_bytes {
            return Err(SettingError::BatchExceedsRequest { batch_bytes, request_bytes });
        }
        Ok(())
    }

    /// Every setting with its value, given what the topic sets itself.
    pub fn values(overrides: &BTreeMap<String, String>) -> Vec<SettingValue> {
        let settings = Self::parse(overrides).unwrap_or_default();
        let value = |info: &SettingInfo| {
            let own = overrides.get(info.name);
            let value = match (own, info.name) {
                (Some(own), _) => own.clone(),
                (None, "segment.bytes") => bytes_text(settings.segment_bytes),
                (None, "segment.ms") => settings.segment_age.map_or("none".into(), age_text),
                (None, _) => info.default.to_owned(),
            };
            SettingValue { name: info.name, value, is_default: own.is_none() }
        };
        SETTINGS.iter().map(value).collect()
    }

    pub(crate) fn log_config(&self, tail_bytes_max: usize) -> LogConfig {
        LogConfig {
            segment_bytes: self.segment_bytes,
            segment_age: self.segment_age,
            tail_bytes_max,
            reserves_offsets: self.durability == Durability::PageCache,
        }
    }
}

/// The setting with this name.
pub(super) fn find(name: &str) -> Result<&'static SettingInfo, SettingError> {
    SETTINGS.iter().find(|info| info.name == name).ok_or_else(|| {
        let name = shown(name);
        let nearest = nearest(&name, SETTINGS.iter().map(|info| info.name));
        SettingError::Unknown { name, nearest }
    })
}

/// A name or a value, cut to what an answer can hold.
fn shown(text: &str) -> String {
    text.chars().take(TEXT_BYTES_MAX).collect()
}

fn names() -> String {
    SETTINGS.map(|info| info.name).join(", ")
}

fn bytes(value: &str, range: &std::ops::RangeInclusive<u64>) -> Option<u64> {
    let bytes = value.parse::<ByteSize>().ok()?.as_u64();
    range.contains(&bytes).then_some(bytes)
}

/// Bytes, in the largest unit of which they are a number.
fn bytes_text(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(unit, _)| bytes.is_multiple_of(*unit));
    unit.map_or(bytes.to_string(), |(unit, name)| format!("{}{name}", bytes / unit))
}

/// An age, in the largest unit of which it is a number.
fn age_text(age: Duration) -> String {
    let millis = age.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    let unit = units.into_iter().find(|(unit, _)| millis.is_multiple_of(*unit));
    unit.map_or(String::new(), |(unit, name)| format!("{}{name}", millis / unit))
}

/// An age of at least a second, or none.
#[expect(clippy::option_option, reason = "it is none, or no age at all")]
fn age(value: &str) -> Option<Option<Duration>> {
    match value {
        "none" => Some(None),
        _ => Some(Some(duration(value).filter(|age| *age >= Duration::from_secs(1))?)),
    }
}

fn duration(value: &str) -> Option<Duration> {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = value.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "" | "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(millis)?))
}
