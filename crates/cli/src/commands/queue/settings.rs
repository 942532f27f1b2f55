//! How a queue is to work, as flags.

use std::time::Duration;

use clap::ValueEnum;
use taffrail_client::proto::{QueueOrder, QueueRetention, QueueSettings};

use crate::duration;

/// How a queue is to work.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Settings {
    /// How long a worker has a record before another one gets it (30s)
    #[arg(long, value_name = "T", value_parser = duration::parse)]
    lease: Option<Duration>,
    /// How often a record is tried before it is parked (5)
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// How long a record waits after its first attempt that failed, doubling, and at the most (1s..10m)
    #[arg(long, value_name = "MIN..MAX", value_parser = parse_range)]
    backoff: Option<(Duration, Duration)>,
    /// Which records wait for others (none)
    #[arg(long)]
    order: Option<Order>,
    /// How many records of a partition may be leased, delayed or passed over at once (10000)
    #[arg(long, value_name = "N")]
    max_outstanding: Option<u32>,
    /// How many records may be parked until nothing more is handed out (1000000)
    #[arg(long, value_name = "N")]
    max_parked: Option<u32>,
    /// The topic that records are copied to which are not tried any more, each once; "" for none: they stay parked
    #[arg(long, value_name = "TOPIC")]
    dead_letters: Option<String>,
    /// What becomes of records that are not settled when the topic's retention would delete them (hold)
    #[arg(long)]
    retention: Option<Retention>,
}

/// What becomes of records that are not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Retention {
    /// They stay
    Hold,
    /// They are copied to the topic of --dead-letters
    Copy,
}

/// Which records wait for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    /// None do
    None,
    /// Those with the key of one before them that is not settled
    PerKey,
}

impl Settings {
    pub(super) fn message(&self) -> QueueSettings {
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let order = match self.order {
            None => QueueOrder::Unspecified,
            Some(Order::None) => QueueOrder::None,
            Some(Order::PerKey) => QueueOrder::PerKey,
        };
        let retention = match self.retention {
            None => QueueRetention::Unspecified,
            Some(Retention::Hold) => QueueRetention::Hold,
            Some(Retention::Copy) => QueueRetention::Copy,
        };
        QueueSettings {
            lease_ms: self.lease.map(millis),
            max_attempts: self.max_attempts,
            min_backoff_ms: self.backoff.map(|(min, _)| millis(min)),
            max_backoff_ms: self.backoff.map(|(_, max)| millis(max)),
            order: order.into(),
            max_outstanding: self.max_outstanding,
            max_parked: self.max_parked,
            dead_letter_topic: self.dead_letters.clone(),
            retention: retention.into(),
        }
    }
}

fn parse_range(text: &str) -> Result<(Duration, Duration), String> {
    let (min, max) = text.split_once("..").ok_or("write it like 1s..10m")?;
    Ok((duration::parse(min)?, duration::parse(max)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backoff_has_a_shortest_and_a_longest_time() {
        let seconds = Duration::from_secs;
        assert_eq!(parse_range("1s..10m"), Ok((seconds(1), seconds(600))));
        assert!(parse_range("1s").is_err() && parse_range("1s..soon").is_err());
    }
}
