//! `taffrail group`: list, describe, reset, delete.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use serde_json::{Value, json};
use taffrail_client::Position;
use taffrail_client::proto::{
    Assignor, DeliveryState, DescribeGroupResponse, GroupMember, GroupPartition, GroupSummary,
    OffsetReset, ResetOffsetsRequest, reset_offsets_request,
};

use crate::context::Context;
use crate::output::table;
use crate::{duration, figures, place};

/// Time between two looks of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// What to do with consumer groups.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the groups
    List,
    /// Describe a group: its members, how far behind it is, and why nothing is being delivered
    Describe {
        /// Its name
        group: String,
        /// Look again every second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Move a group's committed offsets
    Reset(Reset),
    /// Forget a group that nobody is in, and what it has committed
    Delete {
        /// Its name
        group: String,
    },
}

/// Moves a group's committed offsets.
#[derive(Debug, clap::Args)]
pub(crate) struct Reset {
    /// The group's name
    group: String,
    /// Where to: earliest, latest, an offset, -N for the last N, a time such as 2018-02-05T00:00Z or
    /// "10m ago", or group:OTHER for where another group is
    #[arg(long, value_name = "POS", allow_hyphen_values = true, required_unless_present = "shift")]
    to: Option<String>,
    /// So many offsets forward, or backward
    #[arg(long, value_name = "N", allow_hyphen_values = true, conflicts_with = "to")]
    shift: Option<i64>,
    /// Only this topic; none: all that the group reads
    #[arg(long = "topic", value_name = "T")]
    topics: Vec<String>,
    /// Only this partition; none: all
    #[arg(long = "partition", value_name = "P")]
    partitions: Vec<u32>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Even if the group has members: they go on at the new place
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(command: Command, context: &Context) -> anyhow::Result<()> {
    let output = context.output;
    let groups = context.client()?.groups();
    match command {
        Command::List => {
            let listed = groups.list().await.context("cannot list the groups")?;
            if listed.is_empty() {
                output.note("there are no groups; `taffrail consume TOPIC --group NAME` makes one");
            }
            output.result(|| list_text(&listed), || listed.iter().map(summary_json).collect())?;
        }
        Command::Describe { group, watch } => loop {
            let described = groups.describe(&group).await;
            let described = described.with_context(|| format!("cannot describe {group}"))?;
            if watch && io::stdout().is_terminal() {
                write!(io::stdout(), "{CLEAR}")?;
            }
            output.result(|| describe_text(&described), || description_json(&described))?;
            if !watch {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        },
        Command::Reset(reset) => {
            let (group, is_dry_run) = (reset.group.clone(), reset.dry_run);
            let moved = groups.reset(reset.request()?).await;
            let moved = moved.with_context(|| format!("cannot reset {group}"))?;
            ensure!(
                !moved.is_empty(),
                "{group} has committed nothing and reads nothing: name a topic, --topic"
            );
            output.result(|| reset_text(&moved), || moved.iter().map(reset_json).collect())?;
            if is_dry_run {
                output.note("nothing was changed: run it again without --dry-run");
            }
        }
        Command::Delete { group } => {
            let deleted = groups.delete(&group).await;
            deleted.with_context(|| format!("cannot delete {group}"))?;
            output.result(|| format!("deleted {group}"), || json!({ "deleted": group }))?;
        }
    }
    Ok(())
}

impl Reset {
    fn request(self) -> anyhow::Result<ResetOffsetsRequest> {
        use reset_offsets_request::To;
        let to = match (self.to, self.shift) {
            (_, Some(shift)) => To::Shift(shift),
            (to, None) => {
                let to = to.unwrap_or_default();
                match to.strip_prefix("group:") {
                    Some(other) => To::OtherGroup(other.to_owned()),
                    None => To::Position(Position::into(place::parse(&to)?)),
                }
            }
        };
        Ok(ResetOffsetsRequest {
            group: self.group,
            topics: self.topics,
            partitions: self.partitions,
            to: Some(to),
            dry_run: self.dry_run,
            force: self.force,
        })
    }
}

fn list_text(groups: &[GroupSummary]) -> String {
    if groups.is_empty() {
        return String::new();
    }
    let row = |group: &GroupSummary| {
        let (members, lag) = (group.members.to_string(), figures::count(group.lag));
        vec![group.group.clone(), members, lag, group.topics.join(" ")]
    };
    table(&["GROUP", "MEMBERS", "LAG", "TOPICS"], &[1, 2], groups.iter().map(row).collect())
}

fn describe_text(group: &DescribeGroupResponse) -> String {
    let lag: u64 = group.partitions.iter().map(|partition| partition.lag).sum();
    let bytes: u64 = group.partitions.iter().map(|partition| partition.lag_bytes).sum();
    let age = group.partitions.iter().map(|partition| partition.age_ms).max().unwrap_or(0);
    let mut text = format!(
        "{}  epoch {}  {}  lag {} records, {}, the oldest {}\n\n",
        group.group,
        group.epoch,
        assignor(group),
        figures::count(lag),
        figures::bytes(bytes as f64),
        duration::text(age),
    );
    let header = ["MEMBER", "CLIENT", "INSTANCE", "PARTITIONS", "SILENT", "SESSION", "READS", ""];
    if group.members.is_empty() {
        text.push_str("no members\n");
    } else {
        text.push_str(&table(&header, &[3, 4, 5], group.members.iter().map(member_row).collect()));
        text.push('\n');
    }
    if !group.partitions.is_empty() {
        let header = [
            "PARTITION",
            "COMMITTED",
            "END",
            "LAG",
            "BYTES",
            "AGE",
            "IN/S",
            "OUT/S",
            "DRAINED IN",
            "OWNER",
            "STATE",
        ];
        let rows = group.partitions.iter().map(partition_row).collect();
        text.push('\n');
        text.push_str(&table(&header, &[1, 2, 3, 4, 5, 6, 7, 8], rows));
    }
    text
}

fn assignor(group: &DescribeGroupResponse) -> &'static str {
    match group.assignor() {
        Assignor::Range => "range",
        Assignor::UniformSticky | Assignor::Unspecified => "uniform-sticky",
    }
}

fn member_row(member: &GroupMember) -> Vec<String> {
    vec![
        member.member_id.clone(),
        member.client_id.clone(),
        member.instance_id.clone(),
        member.partitions.to_string(),
        duration::text(member.silent_ms),
        duration::text(member.session_timeout_ms.into()),
        member.topics.join(" "),
        member.idle_because.clone(),
    ]
}

fn partition_row(partition: &GroupPartition) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let owner = match (partition.owner.as_str(), partition.next_owner.as_str()) {
        ("", _) => "-".to_owned(),
        (owner, "") => owner.to_owned(),
        (owner, next) => format!("{owner}, then {next}"),
    };
    let mut state = state(partition).to_owned();
    if matches!(partition.state(), DeliveryState::AwaitsRelease | DeliveryState::Failed) {
        state = format!("{state}: {}", partition.state_message);
    }
    if partition.stalled_ms >= STALLED_MS {
        state = format!("{state}, nothing done for {}", duration::text(partition.stalled_ms));
    }
    vec![
        format!("{}/{}", partition.topic, partition.partition),
        or_dash(partition.committed.map(figures::count)),
        figures::count(partition.end),
        figures::count(partition.lag),
        figures::bytes(partition.lag_bytes as f64),
        duration::text(partition.age_ms),
        or_dash(partition.rate_in.map(figures::rate)),
        or_dash(partition.rate_out.map(figures::rate)),
        or_dash(partition.drain_ms.map(duration::text)),
        owner,
        state,
    ]
}

/// What has not got on for as long is said to be stalled.
const STALLED_MS: u64 = 30_000;

fn state(partition: &GroupPartition) -> &'static str {
    match partition.state() {
        DeliveryState::Unspecified => "not reading",
        DeliveryState::Delivering => "delivering",
        DeliveryState::AtEnd => "at end",
        DeliveryState::Paused => "paused",
        DeliveryState::NoCredit => "no credit",
        DeliveryState::NoMember => "no member",
        DeliveryState::AwaitsRelease => "awaits release",
        DeliveryState::Failed => "failed",
    }
}

fn reset_text(moved: &[OffsetReset]) -> String {
    let row = |moved: &OffsetReset| {
        let before = moved.before.map_or_else(|| "-".to_owned(), figures::count);
        let by = moved.before.map_or_else(String::new, |before| {
            format!("{:+}", i128::from(moved.after) - i128::from(before))
        });
        let partition = format!("{}/{}", moved.topic, moved.partition);
        vec![partition, before, figures::count(moved.after), by]
    };
    table(&["PARTITION", "BEFORE", "AFTER", "BY"], &[1, 2, 3], moved.iter().map(row).collect())
}

fn summary_json(group: &GroupSummary) -> Value {
    json!({
        "group": group.group,
        "members": group.members,
        "lag": group.lag,
        "topics": group.topics,
        "epoch": group.epoch,
    })
}

fn description_json(group: &DescribeGroupResponse) -> Value {
    json!({
        "group": group.group,
        "epoch": group.epoch,
        "assignor": assignor(group),
        "lag": group.partitions.iter().map(|partition| partition.lag).sum::<u64>(),
        "members": group.members.iter().map(member_json).collect::<Vec<_>>(),
        "partitions": group.partitions.iter().map(partition_json).collect::<Vec<_>>(),
    })
}

fn member_json(member: &GroupMember) -> Value {
    json!({
        "member_id": member.member_id,
        "client_id": member.client_id,
        "instance_id": member.instance_id,
        "partitions": member.partitions,
        "silent_ms": member.silent_ms,
        "session_timeout_ms": member.session_timeout_ms,
        "topics": member.topics,
        "idle_because": member.idle_because,
    })
}

fn partition_json(partition: &GroupPartition) -> Value {
    let or_null = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    let error = partition.error.as_ref();
    json!({
        "topic": partition.topic,
        "partition": partition.partition,
        "committed": partition.committed,
        "metadata": partition.metadata,
        "log_start": partition.log_start,
        "end": partition.end,
        "lag": partition.lag,
        "lag_bytes": partition.lag_bytes,
        "age_ms": partition.age_ms,
        "owner": or_null(&partition.owner),
        "next_owner": or_null(&partition.next_owner),
        "state": state(partition).replace(' ', "_"),
        "state_message": partition.state_message,
        "rate_in": partition.rate_in,
        "rate_out": partition.rate_out,
        "drain_ms": partition.drain_ms,
        "stalled_ms": partition.stalled_ms,
        "error": error.map(|error| json!({ "reason": error.reason, "message": error.message })),
    })
}

fn reset_json(moved: &OffsetReset) -> Value {
    json!({
        "topic": moved.topic,
        "partition": moved.partition,
        "before": moved.before,
        "after": moved.after,
    })
}
