//! Records that are not tried any more.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::ArgGroup;
use serde_json::{Value, json};
use taffrail_client::Queues;
use taffrail_client::proto::parked_selection::Selection;
use taffrail_client::proto::{ListParkedRequest, ParkedRecord, RecordPlace, RecordPlaces};

use crate::output::{Output, table};
use crate::render::json::bytes_value;

/// Records of one call.
const PAGE: u32 = 500;
/// Letters of a value that people are shown.
const SHOWN: usize = 40;

/// Lists parked records.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// The queue
    queue: String,
    /// So many at the most
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// Only those whose reason holds this text
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Does something with parked records.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("which").required(true).args(["all", "ids"])))]
pub(crate) struct Act {
    /// The queue
    queue: String,
    /// Records, as `queue parked` lists them: PARTITION/OFFSET
    #[arg(value_name = "ID", value_parser = parse_id)]
    ids: Vec<RecordPlace>,
    /// All that are parked when it begins
    #[arg(long)]
    all: bool,
    /// Of all, only those whose reason holds this text
    #[arg(long, value_name = "TEXT", requires = "all")]
    reason: Option<String>,
    /// So many a second, such as 100/s
    #[arg(long, value_name = "N/s", value_parser = parse_rate)]
    rate: Option<u32>,
}

fn parse_id(text: &str) -> Result<RecordPlace, String> {
    let error = || format!("{text:?} is no record: write PARTITION/OFFSET, such as 0/42");
    let (partition, offset) = text.split_once('/').ok_or_else(error)?;
    let partition = partition.parse().map_err(|_| error())?;
    Ok(RecordPlace { partition, offset: offset.parse().map_err(|_| error())? })
}

fn parse_rate(text: &str) -> Result<u32, String> {
    let count = text.strip_suffix("/s").unwrap_or(text);
    let rate = count.parse().ok().filter(|rate| *rate > 0);
    rate.ok_or_else(|| format!("{text:?} is no rate: write it like 100/s"))
}

/// What is made of parked records: of all, or of the first ones that are wanted.
async fn all<T>(
    queues: &Queues,
    mut request: ListParkedRequest,
    count_max: usize,
    pick: impl Fn(ParkedRecord) -> Option<T>,
) -> anyhow::Result<Vec<T>> {
    let mut found = Vec::new();
    request.max_records = PAGE;
    loop {
        let page = queues.parked(request.clone()).await;
        let page =
            page.with_context(|| format!("cannot list what is parked in {}", request.queue))?;
        request.behind = page.records.last().and_then(|it| it.place);
        found.extend(page.records.into_iter().filter_map(&pick));
        if !page.has_more || count_max <= found.len() {
            found.truncate(count_max);
            return Ok(found);
        }
    }
}

fn has_reason(record: &ParkedRecord, wanted: Option<&str>) -> bool {
    wanted.is_none_or(|text| record.reason.contains(text))
}

pub(super) async fn list(arguments: List, queues: &Queues, output: Output) -> anyhow::Result<()> {
    let List { queue, count, reason } = arguments;
    let count_max = count.unwrap_or(usize::MAX);
    let request = ListParkedRequest { queue, ..ListParkedRequest::default() };
    let pick = |record| has_reason(&record, reason.as_deref()).then_some(record);
    let records = all(queues, request, count_max, pick).await?;
    let json = || json!({ "records": records.iter().map(record_json).collect::<Vec<_>>() });
    output.result(|| list_text(&records), json)?;
    if records.is_empty() {
        output.note("nothing is parked");
    }
    Ok(())
}

pub(super) async fn redrive(arguments: Act, queues: &Queues, output: Output) -> anyhow::Result<()> {
    let queue = arguments.queue.clone();
    let act = |selection| async { queues.redrive(&queue, selection).await };
    let count = in_turn(arguments, queues, act).await.context("cannot redrive")?;
    output.result(|| format!("redriven: {count}"), || json!({ "redriven": count }))?;
    Ok(())
}

pub(super) async fn discard(arguments: Act, queues: &Queues, output: Output) -> anyhow::Result<()> {
    let queue = arguments.queue.clone();
    let act = |selection| async { queues.discard(&queue, selection).await };
    let count = in_turn(arguments, queues, act).await.context("cannot discard")?;
    output.result(|| format!("discarded: {count}"), || json!({ "discarded": count }))?;
    Ok(())
}

/// Does it with all that are meant, as many at once as the rate allows; with how many it was done.
async fn in_turn<F>(
    arguments: Act,
    queues: &Queues,
    act: impl Fn(Selection) -> F,
) -> anyhow::Result<u64>
where
    F: Future<Output = Result<u64, taffrail_client::CallError>>,
{
    let Act { queue, ids, all: is_all, reason, rate } = arguments;
    let places = if is_all {
        let queue = queue.clone();
        let request = ListParkedRequest { queue, without_records: true, ..Default::default() };
        let pick = |it: ParkedRecord| it.place.filter(|_| has_reason(&it, reason.as_deref()));
        all(queues, request, usize::MAX, pick).await?
    } else {
        ids
    };
    let begun = Instant::now();
    let (mut done, mut said) = (0, 0_u32);
    for part in places.chunks(rate.unwrap_or(PAGE).min(PAGE) as usize) {
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(f64::from(said) / f64::from(rate));
            tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        }
        done += act(Selection::Places(RecordPlaces { places: part.to_vec() })).await?;
        said += part.len() as u32;
    }
    if done == 0 && !is_all {
        bail!("none of these is parked: see `taffrail queue parked {queue}`");
    }
    Ok(done)
}

fn id(record: &ParkedRecord) -> String {
    let place = record.place.unwrap_or_default();
    format!("{}/{}", place.partition, place.offset)
}

fn list_text(records: &[ParkedRecord]) -> String {
    let rows = records.iter().map(|it| {
        let value = it.record.as_ref().and_then(|record| record.value.as_deref());
        let value = value.map_or("-".into(), |value| String::from_utf8_lossy(value));
        let value: String =
            value.chars().filter(|letter| !letter.is_control()).take(SHOWN).collect();
        vec![id(it), it.attempts.to_string(), it.reason.clone(), value]
    });
    table(&["ID", "ATTEMPTS", "REASON", "VALUE"], &[1], rows.collect())
}

fn record_json(it: &ParkedRecord) -> Value {
    let record = it.record.as_ref();
    json!({
        "id": id(it),
        "partition": it.place.unwrap_or_default().partition,
        "offset": it.place.unwrap_or_default().offset,
        "attempts": it.attempts,
        "reason": it.reason,
        "parked_ms": it.parked_ms,
        "key": record.map(|record| bytes_value(record.key.as_deref())),
        "value": record.map(|record| bytes_value(record.value.as_deref())),
        "timestamp": record.map(|record| record.timestamp_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_rates_are_read_as_people_write_them() {
        assert_eq!(parse_id("3/42"), Ok(RecordPlace { partition: 3, offset: 42 }));
        assert!(parse_id("42").is_err() && parse_id("a/1").is_err());
        assert_eq!((parse_rate("100/s"), parse_rate("7")), (Ok(100), Ok(7)));
        assert!(parse_rate("0/s").is_err());
    }
}
