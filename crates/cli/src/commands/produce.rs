//! `taffrail produce`: appends records from files or standard input.
//!
//! A record that cannot be read stops it: what came before is appended, nothing behind it is sent,
//! and the message says where to go on.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use indicatif::ProgressBar;
use serde_json::json;
use taffrail_client::{
    Acks, Compression, HeaderView, PartitionIndex, ProduceError, Producer, ProducerStats, Record,
    TopicName,
};

use super::topic::key_value;
use crate::context::Context;
use crate::exit::Usage;
use crate::figures;
use crate::input::{self, Chunk, LineError, Parsed, Parser, ReadError, Source};
use crate::output::Output;

/// Arguments of `produce`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The topic to append to
    #[arg(value_parser = TopicName::parse)]
    topic: TopicName,
    /// Files to read; none or `-`: standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The values are JSON objects, and this field is the key
    #[arg(long, value_name = "FIELD", conflicts_with = "key_separator")]
    key_field: Option<String>,
    /// The values are JSON objects, and this field is the timestamp: a number of Unix milliseconds
    /// or an RFC 3339 string
    #[arg(long, value_name = "FIELD", conflicts_with = "key_separator")]
    timestamp_field: Option<String>,
    /// Key and value stand on the line, with this between them
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_separator: Option<String>,
    /// The partition to append to, whatever the key
    #[arg(long, value_name = "P")]
    partition: Option<u32>,
    /// A header of every record
    #[arg(long = "header", value_name = "K=V", value_parser = key_value)]
    headers: Vec<(String, String)>,
    /// What to wait for
    #[arg(long, value_enum, value_name = "ACKS", default_value_t)]
    acks: AcksArgument,
    /// How to compress batches
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    compression: CompressionArgument,
    /// Take this producer's name: whoever had it before appends nothing any more
    #[arg(long, value_name = "NAME")]
    producer_name: Option<String>,
    /// How records are told apart
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: InputFormat,
}

/// What a producer waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum AcksArgument {
    /// Until records are committed: on disk, unless the topic says otherwise
    #[default]
    Committed,
    /// For nothing: fire and forget
    None,
}

impl AcksArgument {
    /// What is known to have been done with records that are not known to have failed.
    const fn done(self) -> &'static str {
        match self {
            Self::Committed => "appended",
            Self::None => "sent",
        }
    }
}

impl From<AcksArgument> for Acks {
    fn from(acks: AcksArgument) -> Self {
        match acks {
            AcksArgument::Committed => Self::Committed,
            AcksArgument::None => Self::None,
        }
    }
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum CompressionArgument {
    /// Not at all
    #[default]
    None,
    /// Quickly, and well enough for text
    Lz4,
    /// Better, with more work
    Zstd,
}

impl From<CompressionArgument> for Compression {
    fn from(compression: CompressionArgument) -> Self {
        match compression {
            CompressionArgument::None => Self::None,
            CompressionArgument::Lz4 => Self::Lz4,
            CompressionArgument::Zstd => Self::Zstd,
        }
    }
}

/// How records are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum InputFormat {
    /// A record a line
    #[default]
    Lines,
    /// A JSON object a line, as `consume --format json` writes it
    Json,
    /// Records end with a zero byte
    NullDelimited,
}

/// Why reading stopped before the end.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("{place}: {cause}")]
    BadRecord {
        place: String,
        #[source]
        cause: LineError,
    },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{place}: {cause}")]
    Refused {
        place: String,
        #[source]
        cause: ProduceError,
    },
    /// Records sent before failed: the producer says how.
    #[error("records failed")]
    Failed,
    #[error("interrupted")]
    Interrupted,
}

pub(crate) async fn run(arguments: Arguments, context: &Context) -> anyhow::Result<()> {
    let parser = arguments.parser()?;
    let sources = arguments.sources();
    let client = context.client()?;
    let mut builder = client.producer(arguments.topic.as_str()).acks(arguments.acks.into());
    builder = builder.compression(arguments.compression.into());
    if let Some(name) = &arguments.producer_name {
        builder = builder.name(name);
    }
    let producer = builder.build().await;
    let producer = producer.with_context(|| format!("cannot append to {}", arguments.topic))?;
    let partition = arguments.partition.map(PartitionIndex::new);
    let partitions = producer.partitions();
    if let Some(partition) = partition.filter(|partition| partition.get() >= partitions) {
        let cause = ProduceError::NoSuchPartition { partition, partitions };
        return Err(Usage(format!("--partition {partition}: {cause}")).into());
    }

    let total_bytes = sources.iter().map(Source::known_bytes).sum();
    let bar = context.output.progress(total_bytes);
    let delimiter = if arguments.format == InputFormat::NullDelimited { 0 } else { b'\n' };
    let chunks = input::open(sources, delimiter);
    let feed = Feed {
        producer: &producer,
        parser,
        headers: arguments.headers.iter().map(|(name, value)| header(name, value)).collect(),
        partition,
        bar: &bar,
    };
    let begun = Instant::now();
    let fed = tokio::select! {
        fed = feed.feed_all(chunks) => fed,
        _ = tokio::signal::ctrl_c() => Err(Stopped::Interrupted),
    };
    // What was taken is waited for; who does not want to wait says so once more.
    let closed = tokio::select! {
        closed = producer.close() => closed,
        _ = tokio::signal::ctrl_c() => bail!("interrupted: what was on its way may be in {}", arguments.topic),
    };
    let elapsed = begun.elapsed();
    bar.finish_and_clear();
    let stats = producer.stats();

    let topic = &arguments.topic;
    let records = match stats.delivered_records {
        1 => "1 record was".to_owned(),
        records => format!("{} records were", figures::count(records)),
    };
    let delivered = format!("{records} {} to {topic}", arguments.acks.done());
    closed.with_context(|| format!("{delivered}{}", failures(&stats)))?;
    if let Err(stopped) = fed {
        let note = match stopped {
            Stopped::BadRecord { .. } | Stopped::Refused { .. } => {
                "; nothing from there on was sent: mend it and go on from there"
            }
            Stopped::Read(_) | Stopped::Failed | Stopped::Interrupted => "",
        };
        context.output.note(format_args!("{delivered}{note}"));
        return Err(stopped.into());
    }
    summarise(context.output, &arguments, &stats, elapsed)?;
    Ok(())
}

impl Arguments {
    fn parser(&self) -> anyhow::Result<Parser> {
        let has_fields = self.key_field.is_some() || self.timestamp_field.is_some();
        if self.format == InputFormat::Json && (has_fields || self.key_separator.is_some()) {
            return Err(Usage(
                "--format json has keys and timestamps of its own: leave the --key-* and --timestamp-* flags out".to_owned(),
            )
            .into());
        }
        Ok(match (&self.format, &self.key_separator) {
            (InputFormat::Json, _) => Parser::Json,
            (_, Some(separator)) => Parser::Separated(separator.clone().into_bytes()),
            _ if has_fields => Parser::fields(self.key_field.clone(), self.timestamp_field.clone()),
            _ => Parser::Value,
        })
    }

    fn sources(&self) -> Vec<Source> {
        let source = |path: &PathBuf| match path.to_str() {
            Some("-") => Source::Stdin,
            _ => Source::File(path.clone()),
        };
        if self.files.is_empty() {
            vec![Source::Stdin]
        } else {
            self.files.iter().map(source).collect()
        }
    }
}

fn header<'a>(name: &'a str, value: &'a str) -> HeaderView<'a> {
    HeaderView { name, value: value.as_bytes() }
}

/// Carries what is read to the producer.
struct Feed<'a> {
    producer: &'a Producer,
    parser: Parser,
    headers: Vec<HeaderView<'a>>,
    partition: Option<PartitionIndex>,
    bar: &'a ProgressBar,
}

impl Feed<'_> {
    async fn feed_all(
        &self,
        mut chunks: tokio::sync::mpsc::Receiver<Result<Chunk, ReadError>>,
    ) -> Result<(), Stopped> {
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk?;
            self.feed(&chunk).await?;
            self.bar.inc(chunk.len() as u64);
            let stats = self.producer.stats();
            self.bar.set_message(format!("{} records", figures::count(stats.accepted_records)));
            if stats.failed_records + stats.unknown_records + stats.refused_batches > 0 {
                return Err(Stopped::Failed);
            }
        }
        Ok(())
    }

    async fn feed(&self, chunk: &Chunk) -> Result<(), Stopped> {
        for (index, piece) in chunk.records().enumerate() {
            let place = || format!("{}:{}", chunk.source, chunk.first_line + index as u64);
            let parsed = self.parser.parse(piece);
            let parsed = parsed.map_err(|cause| Stopped::BadRecord { place: place(), cause })?;
            let Some(parsed) = parsed else { continue };
            let sent = self.send(&parsed).await;
            sent.map_err(|cause| Stopped::Refused { place: place(), cause })?;
        }
        Ok(())
    }

    async fn send(&self, parsed: &Parsed<'_>) -> Result<(), ProduceError> {
        let mut record = match &parsed.value {
            Some(value) => Record::value(value),
            None => Record::default(),
        };
        if let Some(key) = &parsed.key {
            record = record.key(key);
        }
        if let Some(timestamp) = parsed.timestamp {
            record = record.timestamp(timestamp);
        }
        if let Some(partition) = self.partition.or(parsed.partition) {
            record = record.partition(partition);
        }
        let own = parsed.headers.iter().map(|(name, value)| HeaderView { name, value });
        let delivery = if parsed.headers.is_empty() {
            self.producer.send(record.headers(&self.headers)).await?
        } else {
            let headers: Vec<_> = own.chain(self.headers.iter().copied()).collect();
            self.producer.send(record.headers(&headers)).await?
        };
        // Failures are kept by the producer until it is flushed.
        drop(delivery);
        Ok(())
    }
}

/// What became of the records that were not delivered.
fn failures(stats: &ProducerStats) -> String {
    let failed = figures::count(stats.failed_records);
    let failed = match (stats.refused_batches, stats.failed_records) {
        (0, _) => format!(", {failed} were not"),
        // Nobody waited to hear which records they had.
        (batches, 0) => format!(" in batches of which {} were refused", figures::count(batches)),
        (batches, _) => {
            let refused = figures::count(batches);
            format!(" in batches of which {refused} were refused, and {failed} records were not")
        }
    };
    let unknown = match stats.unknown_records {
        0 => String::new(),
        unknown => format!(
            ", of {} it is not known: read before you send them again",
            figures::count(unknown)
        ),
    };
    format!("{failed}{unknown}")
}

fn summarise(
    output: Output,
    arguments: &Arguments,
    stats: &ProducerStats,
    elapsed: Duration,
) -> std::io::Result<()> {
    let (topic, done) = (&arguments.topic, arguments.acks.done());
    let (records, bytes) = (stats.delivered_records, stats.delivered_bytes);
    let seconds = elapsed.as_secs_f64();
    let records_per_second = records as f64 / seconds.max(1e-9);
    let bytes_per_second = bytes as f64 / seconds.max(1e-9);
    let counted = match records {
        1 => "1 record".to_owned(),
        _ => format!("{} records", figures::count(records)),
    };
    output.note(format_args!(
        "{done} {} ({}) to {topic} in {seconds:.2} s: {} records/s, {}/s",
        counted,
        figures::bytes(bytes as f64),
        figures::rate(records_per_second),
        figures::bytes(bytes_per_second),
    ));
    let json = || {
        json!({
            "topic": topic.as_str(),
            "records": records,
            "bytes": bytes,
            "seconds": seconds,
            "records_per_second": records_per_second,
            "bytes_per_second": bytes_per_second,
        })
    };
    output.result(String::new, json)
}
