//! The settings that a topic can have: the catalogue of names, and their typed values.

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use taffrail_log::LogConfig;
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
pub const SETTINGS: [SettingInfo; 4] = [
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
        name: "segment.bytes",
        kind: "bytes, 64KiB to 1GiB",
        default: "1GiB",
        description: "The size at which a segment file is sealed and the next one begun.",
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
        description: "The age at which a segment file is sealed, once something is appended.",
        set: |settings, value| {
            settings.segment_age = match value {
                "none" => None,
                _ => Some(duration(value).filter(|age| *age >= Duration::from_secs(1))?),
            };
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
        let batch_bytes = u64::from(settings.batch_bytes_max);
        let segment_bytes = settings.segment_bytes;
        if batch_bytes > segment_bytes {
            return Err(SettingError::BatchExceedsSegment { batch_bytes, segment_bytes });
        }
        Ok(settings)
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
        let value = |info: &SettingInfo| {
            let own = overrides.get(info.name);
            let value = own.map_or(info.default, String::as_str).to_owned();
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
