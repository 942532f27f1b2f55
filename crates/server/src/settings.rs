//! What can be set, and where it is read from: defaults, then a TOML file, then the environment
//! (`TAFFRAIL_` and the name in capitals), then flags. A key that does not exist refuses to start.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use taffrail_broker::BrokerConfig;
use taffrail_model::limits;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The prefix of settings in the environment.
const ENVIRONMENT_PREFIX: &str = "TAFFRAIL_";

/// Variables with that prefix that are no settings of the broker.
const OTHER_VARIABLES: [&str; 1] = ["TAFFRAIL_SERVER"];

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where data is.
    pub data: PathBuf,
    /// Whether an empty directory may be made a data directory.
    pub init: bool,
    /// Where to listen; port 0 picks one.
    pub listen: SocketAddr,
    /// Whether anybody who reaches a listening address that is not loopback may do everything.
    pub allow_unauthenticated: bool,
    /// Open connections at the most.
    pub connections_max: usize,
    /// How long a stop waits for what is in flight.
    pub drain_timeout: Duration,
    /// Threads that serve connections.
    pub runtime_threads: usize,
    /// Which events are logged, as `tracing` understands it.
    pub log: String,
    /// How they are written.
    pub log_format: LogFormat,
    /// The broker's own.
    pub broker: BrokerConfig,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

/// A setting, for people.
#[derive(Clone, Copy, Debug)]
pub struct SettingInfo {
    /// Its name in the file and as a flag; in the environment `TAFFRAIL_` and capitals.
    pub name: &'static str,
    /// What values it takes.
    pub kind: &'static str,
    /// What it does, and its default.
    pub description: &'static str,
    set: fn(&mut Settings, &str) -> Option<()>,
}

/// Why settings cannot be.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the settings file {path} is not valid TOML: {cause}")]
    Toml {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        cause: String,
    },
    /// There is no such setting.
    #[error("{origin}: there is no setting {name:?}{nearest}")]
    Unknown {
        /// Where it stands.
        origin: String,
        /// What was asked for.
        name: String,
        /// What it was probably meant to be.
        nearest: String,
    },
    /// It does not take this value.
    #[error("{origin}: {name} takes {kind}, not {value:?}")]
    Value {
        /// Where it stands.
        origin: String,
        /// The setting.
        name: &'static str,
        /// What it takes.
        kind: &'static str,
        /// What was given.
        value: String,
    },
    /// Everybody in the network could do everything.
    #[error(
        "{listen} is not a loopback address, and there is no authentication yet: whoever reaches it \
         may read and delete everything; say --allow-unauthenticated if that is meant"
    )]
    Unauthenticated {
        /// Where to listen.
        listen: SocketAddr,
    },
    /// Values that cannot be together.
    #[error(transparent)]
    Broker(#[from] taffrail_broker::ConfigError),
}

/// Every setting.
pub static SETTINGS: [SettingInfo; 23] = [
    setting(
        "allow_unauthenticated",
        "true | false",
        "Listen on other addresses than loopback although anybody may do everything (false).",
        |s, v| {
            s.allow_unauthenticated = v.parse().ok()?;
            Some(())
        },
    ),
    setting(
        "backup_bytes_per_second",
        "bytes, at least 64KiB",
        "What a backup reads and writes in a second (128MiB).",
        |s, v| {
            s.broker.backup_bytes_per_second = bytes(v).filter(|bytes| *bytes >= 64 << 10)?;
            Some(())
        },
    ),
    setting(
        "committer_threads",
        "1 to 256",
        "Threads that sync logs; so many syncs may hang before others wait (8).",
        |s, v| {
            s.broker.committer_threads = v.parse().ok()?;
            Some(())
        },
    ),
    setting(
        "compaction_bytes_per_second",
        "bytes, at least 64KiB",
        "What compaction reads and writes in a second, over all topics (64MiB).",
        |s, v| {
            s.broker.compaction_bytes_per_second = bytes(v).filter(|bytes| *bytes >= 64 << 10)?;
            Some(())
        },
    ),
    setting("data", "a path", "The data directory (./taffrail-data).", |s, v| {
        s.data = PathBuf::from(v);
        Some(())
    }),
    setting(
        "drain_timeout",
        "a duration such as 500ms or 10s",
        "How long a stop waits for what is in flight (10s).",
        |s, v| {
            s.drain_timeout = duration(v)?;
            Some(())
        },
    ),
    setting(
        "init",
        "true | false",
        "Make an existing empty directory a data directory (false).",
        |s, v| {
            s.init = v.parse().ok()?;
            Some(())
        },
    ),
    setting(
        "listen",
        "an address with a port, such as 127.0.0.1:7245",
        "Where to listen; port 0 picks one and says which (127.0.0.1:7245).",
        |s, v| {
            s.listen = v.parse().ok()?;
            Some(())
        },
    ),
    setting(
        "log",
        "a level (error, warn, info, debug, trace) or tracing directives",
        "Which events are logged (info).",
        |s, v| {
            // A word alone would be taken for the name of a module.
            let is_word = v.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let is_level = v.parse::<LevelFilter>().is_ok();
            EnvFilter::builder().parse(v).ok().filter(|_| is_level || !is_word)?;
            v.clone_into(&mut s.log);
            Some(())
        },
    ),
    setting(
        "log_format",
        "text | json",
        "How events are logged, on standard error (text).",
        |s, v| {
            s.log_format = match v {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return None,
            };
            Some(())
        },
    ),
    setting(
        "max_connections",
        "1 to 1000000",
        "Open connections; more wait in the kernel's queue (4096).",
        |s, v| {
            s.connections_max = v.parse().ok().filter(|max| (1..=1_000_000).contains(max))?;
            Some(())
        },
    ),
    setting(
        "max_partitions",
        "1 to 1000000",
        "Partitions of all topics; each keeps a file open (20000).",
        |s, v| {
            let range = 1..=limits::PARTITIONS_MAX;
            s.broker.partitions_max = v.parse().ok().filter(|max| range.contains(max))?;
            Some(())
        },
    ),
    setting(
        "max_request_bytes",
        "bytes, 2MiB to 65MiB",
        "Bytes of one request; a topic's max.batch.bytes must fit (16MiB).",
        |s, v| {
            let range = limits::REQUEST_BYTES_FLOOR..=limits::REQUEST_BYTES_MAX;
            s.broker.request_bytes_max = bytes(v).filter(|max| range.contains(max))? as usize;
            Some(())
        },
    ),
    setting(
        "group_retention",
        "a duration such as 30d, or 0s for ever",
        "How long a consumer group is remembered that nobody is in and nobody commits to (30d).",
        |s, v| {
            s.broker.group_retention = duration(v)?;
            Some(())
        },
    ),
    setting(
        "max_timestamp_ahead",
        "a duration such as 24h",
        "How far in the future a record's timestamp may lie (24h).",
        |s, v| {
            s.broker.timestamp_ahead = duration(v)?;
            Some(())
        },
    ),
    setting(
        "memory",
        "bytes, at least 16MiB",
        "Requests and answers in memory, over all connections; half of it more for requests that come in part (512MiB).",
        |s, v| {
            s.broker.memory_bytes = bytes(v)?;
            Some(())
        },
    ),
    setting(
        "reader_threads",
        "1 to 256",
        "Threads that read from disk what is not in memory (4).",
        |s, v| {
            s.broker.reader_threads = v.parse().ok()?;
            Some(())
        },
    ),
    setting(
        "runtime_threads",
        "1 to 256",
        "Threads that serve connections (half the cores).",
        |s, v| {
            s.runtime_threads = v.parse().ok().filter(|threads| (1..=256).contains(threads))?;
            Some(())
        },
    ),
    setting(
        "scrub_bytes_per_second",
        "bytes, at least 64KiB",
        "How fast sealed segments are read again to find rot, over all topics (16MiB).",
        |s, v| {
            s.broker.scrub_bytes_per_second = bytes(v).filter(|bytes| *bytes >= 64 << 10)?;
            Some(())
        },
    ),
    setting(
        "scrub_interval",
        "a duration such as 12h or 7d, or 0s for never",
        "How often all sealed segments are read again to find rot (7d).",
        |s, v| {
            s.broker.scrub_interval = duration(v)?;
            Some(())
        },
    ),
    setting(
        "sync_together_min",
        "2 to 1000000",
        "Partitions waiting for a sync from which on one is for all of them, on ext4 (16).",
        |s, v| {
            let min = v.parse().ok().filter(|min| (2..=1_000_000).contains(min));
            s.broker.sync_together_min = min?;
            Some(())
        },
    ),
    setting(
        "tail_memory",
        "bytes",
        "The ends of all logs in memory, for readers at the tail (256MiB).",
        |s, v| {
            s.broker.tail_bytes = bytes(v)?;
            Some(())
        },
    ),
    setting("writer_threads", "1 to 256", "Threads that write to logs (2).", |s, v| {
        s.broker.writer_threads = v.parse().ok()?;
        Some(())
    }),
];

const fn setting(
    name: &'static str,
    kind: &'static str,
    description: &'static str,
    set: fn(&mut Settings, &str) -> Option<()>,
) -> SettingInfo {
    SettingInfo { name, kind, description, set }
}

impl Default for Settings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            data: PathBuf::from("taffrail-data"),
            init: false,
            listen: SocketAddr::from(([127, 0, 0, 1], 7245)),
            allow_unauthenticated: false,
            connections_max: limits::CONNECTIONS_DEFAULT,
            drain_timeout: Duration::from_secs(10),
            runtime_threads: (cores / 2).max(1),
            log: "info".into(),
            log_format: LogFormat::Text,
            broker: BrokerConfig::default(),
        }
    }
}

impl Settings {
    /// Reads the settings: the defaults, then `file`, then `environment`, then `flags`.
    ///
    /// # Errors
    /// On the first thing that is not a setting or not a value of it, or that should not be.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &BTreeMap<&str, String>,
    ) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        if let Some(path) = file {
            let origin = path.display().to_string();
            for (name, value) in read_file(path)? {
                settings.set(&origin, &name, &value)?;
            }
        }
        for (variable, value) in environment {
            if OTHER_VARIABLES.contains(&variable.as_str()) || is_service_link(&variable) {
                continue;
            }
            if let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) {
                settings.set(&variable, &name.to_lowercase(), &value)?;
            }
        }
        for (name, value) in flags {
            settings.set("on the command line", name, value)?;
        }
        settings.validate()?;
        Ok(settings)
    }

    fn set(&mut self, origin: &str, name: &str, value: &str) -> Result<(), SettingsError> {
        let Some(info) = SETTINGS.iter().find(|info| info.name == name) else {
            let (origin, name) = (origin.to_owned(), name.to_owned());
            let nearest = nearest(&name);
            return Err(SettingsError::Unknown { origin, name, nearest });
        };
        (info.set)(self, value).ok_or_else(|| SettingsError::Value {
            origin: origin.to_owned(),
            name: info.name,
            kind: info.kind,
            value: value.to_owned(),
        })
    }

    fn validate(&self) -> Result<(), SettingsError> {
        if !self.listen.ip().is_loopback() && !self.allow_unauthenticated {
            return Err(SettingsError::Unauthenticated { listen: self.listen });
        }
        Ok(self.broker.validate()?)
    }
}

/// Whether an orchestrator put it there, because it calls some service `taffrail`.
fn is_service_link(variable: &str) -> bool {
    ["TAFFRAIL_PORT", "TAFFRAIL_SERVICE_"].iter().any(|prefix| variable.starts_with(prefix))
}

/// The keys and values of a settings file, as text.
fn read_file(path: &Path) -> Result<Vec<(String, String)>, SettingsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| SettingsError::File { path: path.to_owned(), source })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        SettingsError::Toml { path: path.to_owned(), cause: error.to_string() }
    })?;
    let text = |value: toml::Value| match value {
        toml::Value::String(text) => text,
        other @ (toml::Value::Integer(_)
        | toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_)
        | toml::Value::Array(_)
        | toml::Value::Table(_)) => other.to_string(),
    };
    Ok(table.into_iter().map(|(name, value)| (name, text(value))).collect())
}

fn nearest(name: &str) -> String {
    let names: Vec<_> = SETTINGS.iter().map(|info| info.name).collect();
    let similar = names.iter().map(|other| (strsim::jaro_winkler(name, other), other));
    let best = similar.max_by(|(a, _), (b, _)| a.total_cmp(b));
    match best.filter(|(similarity, _)| *similarity > 0.7) {
        Some((_, other)) => format!(", did you mean {other:?}?"),
        None => format!("; there are {}", names.join(", ")),
    }
}

fn bytes(value: &str) -> Option<u64> {
    Some(value.parse::<ByteSize>().ok()?.as_u64())
}

fn duration(value: &str) -> Option<Duration> {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = value.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(millis)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(environment: &[(&str, &str)], flags: &[(&'static str, &str)], expected: &str) {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let flags = flags.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        let found = match Settings::load(None, environment, &flags) {
            Ok(settings) => format!("{} {}", settings.listen, settings.broker.memory_bytes),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{found:?} does not say {expected:?}");
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_defaults() {
        check(&[], &[], "127.0.0.1:7245 536870912");
        check(&[("TAFFRAIL_MEMORY", "1GiB")], &[], "127.0.0.1:7245 1073741824");
        check(&[("TAFFRAIL_LISTEN", "[::1]:1")], &[("listen", "127.0.0.1:2")], "127.0.0.1:2 ");
        check(
            &[("TAFFRAIL_SERVER", "http://x"), ("HOME", "/"), ("TAFFRAIL_PORT_80_TCP", "tcp://x")],
            &[],
            "127.0.0.1:7245",
        );
    }

    #[test]
    fn what_cannot_be_is_named_with_what_could() {
        check(&[("TAFFRAIL_MEMORI", "1GiB")], &[], "did you mean \"memory\"?");
        check(&[("TAFFRAIL_MEMORY", "lots")], &[], "TAFFRAIL_MEMORY: memory takes bytes");
        check(&[("TAFFRAIL_MEMORY", "1KiB")], &[], "at least 16777216");
        check(&[], &[("listen", "0.0.0.0:7245")], "--allow-unauthenticated");
        let open = [("listen", "0.0.0.0:7245"), ("allow_unauthenticated", "true")];
        check(&[], &open, "0.0.0.0:7245");
    }

    #[test]
    fn a_settings_file_is_read_and_its_mistakes_are_named() {
        let directory =
            std::env::temp_dir().join(format!("taffrail-settings-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("taffrail.toml");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Settings::load(Some(&path), std::iter::empty(), &BTreeMap::new())
        };
        let settings = load("memory = \"64MiB\"\nreader_threads = 3\ninit = true\n").unwrap();
        assert_eq!(settings.broker.memory_bytes, 64 << 20);
        assert_eq!((settings.broker.reader_threads, settings.init), (3, true));
        let error = load("reader_thread = 3\n").unwrap_err().to_string();
        assert!(error.contains("did you mean \"reader_threads\"?"), "{error}");
        assert!(load("memory =").is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
