//! The text of `/metrics`, in the OpenMetrics format: read from the broker's counters when asked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use taffrail_broker::{
    Broker, Dirt, GroupDescription, Histogram, PartitionLag, PartitionStatus, QueueDescription,
    QueuePartition, QueueTally,
};

use crate::accept::Connections;

/// The metrics of a broker as text.
pub(crate) async fn text(
    broker: &Arc<Broker>,
    connections: &Arc<Connections>,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("taffrail");
    let (broker, connections) = (Arc::clone(broker), Arc::clone(connections));
    let groups = groups(&broker).await;
    let queues = queues(&broker).await;
    registry.register_collector(Box::new(Snapshot { broker, connections, groups, queues }));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// Where every group stands, if that is known.
async fn groups(broker: &Broker) -> Vec<GroupDescription> {
    let mut groups = Vec::new();
    for group in broker.list_groups().await.unwrap_or_default() {
        // One that was deleted just now is left out.
        groups.extend(broker.describe_group(&group.group).await);
    }
    groups
}

/// What stands in every queue, if that is known.
async fn queues(broker: &Broker) -> Vec<QueueDescription> {
    let mut queues = Vec::new();
    for queue in broker.list_queues().await.unwrap_or_default() {
        // One that was deleted just now is left out.
        queues.extend(broker.describe_queue(&queue.name).await);
    }
    queues
}

#[derive(Debug)]
struct Snapshot {
    broker: Arc<Broker>,
    connections: Arc<Connections>,
    groups: Vec<GroupDescription>,
    queues: Vec<QueueDescription>,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        self.counters(out)?;
        self.gauges(out)?;
        self.histograms(out)?;
        self.partitions(out)?;
        self.dirt(out)?;
        self.members(out)?;
        self.lags(out)?;
        self.queues(out)
    }
}

impl Snapshot {
    fn counters(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = self.broker.metrics();
        let counters: [(&str, &str, &AtomicU64); 17] = [
            ("produced_batches", "Batches that were appended", &metrics.produced_batches),
            ("produced_records", "Records that were appended", &metrics.produced_records),
            ("produced_bytes", "Bytes of records that were appended", &metrics.produced_bytes),
            ("refused_batches", "Batches that were refused", &metrics.refused_batches),
            (
                "duplicate_batches",
                "Batches of idempotent producers that were there already",
                &metrics.duplicate_batches,
            ),
            ("compactions", "Compactions that came to their end", &metrics.compactions),
            ("failed_compactions", "Compactions that did not", &metrics.failed_compactions),
            (
                "compaction_read_bytes",
                "Bytes that compactions have read",
                &metrics.compaction_read_bytes,
            ),
            (
                "compaction_written_bytes",
                "Bytes of segments that compactions have written",
                &metrics.compaction_written_bytes,
            ),
            (
                "compacted_records",
                "Records that compactions have removed",
                &metrics.compacted_records,
            ),
            (
                "scrubbed_bytes",
                "Bytes of sealed segments that were looked at again, and are sound",
                &metrics.scrubbed_bytes,
            ),
            ("deleted_segments", "Segments that were deleted", &metrics.deleted_segments),
            ("deleted_bytes", "Bytes of segments that were deleted", &metrics.deleted_bytes),
            ("reads", "Reads that found records", &metrics.fetches),
            ("read_bytes", "Bytes of batches that were read", &metrics.fetched_bytes),
            ("reads_from_memory", "Reads served from memory", &metrics.tail_reads),
            ("reads_from_files", "Reads that went to files", &metrics.disk_reads),
        ];
        for (name, help, counter) in counters {
            let counter = ConstCounter::new(counter.load(Ordering::Relaxed));
            counter.encode(out.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let cpu_seconds = ConstCounter::new(cpu_seconds());
        let help = "CPU time of the process";
        cpu_seconds.encode(out.encode_descriptor(
            "process_cpu_seconds",
            help,
            None,
            cpu_seconds.metric_type(),
        )?)?;
        let refused = ConstCounter::new(self.connections.failed());
        let help = "Connections that ended with an error";
        refused.encode(out.encode_descriptor(
            "connection_errors",
            help,
            None,
            refused.metric_type(),
        )?)
    }

    fn gauges(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = self.broker.metrics();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let arriving = self.broker.arriving_memory();
        let (requests, answers) = (self.broker.produce_memory(), self.broker.read_memory());
        let gauges = [
            ("connections", "Open connections", self.connections.open()),
            ("connections_max", "Open connections at the most", self.connections.max()),
            ("produce_streams", "Producers that are served", load(&metrics.produce_streams)),
            ("consume_streams", "Open streams of consumers", load(&metrics.consume_streams)),
            (
                "arriving_memory_used_bytes",
                "Bytes of requests that are not whole",
                arriving.used_bytes(),
            ),
            ("arriving_memory_bytes", "Bytes of those at the most", arriving.bytes_max()),
            ("produce_memory_used_bytes", "Bytes of requests in memory", requests.used_bytes()),
            ("produce_memory_bytes", "Bytes of requests at the most", requests.bytes_max()),
            ("read_memory_used_bytes", "Bytes of answers in memory", answers.used_bytes()),
            ("read_memory_bytes", "Bytes of answers at the most", answers.bytes_max()),
            ("process_resident_memory_bytes", "Memory of the process", resident_bytes()),
            (
                "compactions_waiting",
                "Partitions that are being compacted, or wait for that",
                load(&metrics.compactions_waiting),
            ),
            (
                "scrub_damaged",
                "Places that the scrub that is going on, or else the last one, has found damaged",
                load(&metrics.scrub_damaged),
            ),
            (
                "scrub_ended_timestamp_seconds",
                "When the last scrub ended; 0 before that",
                load(&metrics.scrub_ended_seconds),
            ),
            (
                "retention_paused",
                "1 while nothing is deleted for its age, because the clock leapt ahead",
                load(&metrics.retention_paused),
            ),
            ("uptime_seconds", "Since when the broker runs", self.broker.uptime().as_secs()),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(out.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }

    fn histograms(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = self.broker.metrics();
        let histograms: [(&str, &str, &Histogram); 3] = [
            ("produce_seconds", "From a batch's arrival to its commit", &metrics.produce_seconds),
            ("sync_seconds", "How long syncs take", &metrics.sync_seconds),
            ("write_seconds", "How long writes take", &metrics.write_seconds),
        ];
        for (name, help, histogram) in histograms {
            let buckets = histogram.buckets();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let mut metric = out.encode_descriptor(name, help, None, MetricType::Histogram)?;
            metric.encode_histogram::<NoLabelSet>(
                histogram.sum_seconds(),
                count,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }

    fn partitions(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let topics = self.broker.describe_all();
        let rows: Vec<_> = topics
            .iter()
            .flat_map(|topic| {
                topic.partitions.iter().map(move |partition| (&topic.topic.name, partition))
            })
            .collect();
        type Value = fn(&taffrail_broker::PartitionDescription) -> u64;
        let gauges: [(&str, &str, Value); 6] = [
            ("log_start_offset", "Offset of the first record", |p| p.log_start.get()),
            ("log_high_watermark", "End of what readers may see", |p| p.high_watermark.get()),
            ("log_end_offset", "End of what is written", |p| p.log_end.get()),
            ("log_size_bytes", "Bytes on disk", |p| p.size_bytes),
            ("log_damaged_offsets", "Offsets that are known to be damaged or missing", |p| {
                p.damaged.iter().map(|range| range.end.since(range.start)).sum()
            }),
            ("partition_online", "1 if it reads and writes", |p| {
                u64::from(p.status == PartitionStatus::Online)
            }),
        ];
        for (name, help, value) in gauges {
            let mut family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (topic, partition) in &rows {
                let labels =
                    [("topic", topic.to_string()), ("partition", partition.partition.to_string())];
                let gauge = ConstGauge::new(i64::try_from(value(partition)).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

impl Snapshot {
    /// How far compaction is behind, of the topics that are compacted.
    fn dirt(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Value = fn(&Dirt) -> f64;
        let gauges: [(&str, &str, Value); 2] = [
            ("log_dirty_bytes", "Bytes of sealed segments that no compaction has seen", |dirt| {
                dirt.dirty_bytes as f64
            }),
            ("log_dirty_ratio", "The part of all sealed segments that these are", |dirt| {
                dirt.dirty_bytes as f64 / dirt.sealed_bytes.max(1) as f64
            }),
        ];
        let topics = self.broker.describe_all();
        for (name, help, value) in gauges {
            let mut family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for topic in &topics {
                for partition in &topic.partitions {
                    let Some(dirt) = &partition.dirt else { continue };
                    let (topic, partition) = (&topic.topic.name, partition.partition);
                    let labels =
                        [("topic", topic.to_string()), ("partition", partition.to_string())];
                    ConstGauge::new(value(dirt)).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }

    fn members(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Members of a consumer group";
        let mut family = out.encode_descriptor("group_members", help, None, MetricType::Gauge)?;
        for group in &self.groups {
            let gauge = ConstGauge::new(group.members.len() as i64);
            gauge.encode(family.encode_family(&[("group", group.group.clone())])?)?;
        }
        Ok(())
    }

    fn lags(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Value = fn(&PartitionLag) -> f64;
        let gauges: [(&str, &str, Value); 5] = [
            ("group_committed_offset", "First offset that is not done", |lag| {
                lag.committed.map_or(0.0, |offset| offset.get() as f64)
            }),
            ("group_lag_records", "Records that are not done", |lag| lag.lag as f64),
            ("group_lag_bytes", "Bytes that are not done", |lag| lag.lag_bytes as f64),
            ("group_lag_seconds", "How long the oldest record waits that is not done", |lag| {
                lag.age.as_secs_f64()
            }),
            (
                "group_stalled_seconds",
                "How long nothing was done although there was something",
                |l| l.stalled.as_secs_f64(),
            ),
        ];
        for (name, help, value) in gauges {
            let mut family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for group in &self.groups {
                for lag in &group.partitions {
                    let labels = [
                        ("group", group.group.clone()),
                        ("topic", lag.topic.clone()),
                        ("partition", lag.partition.to_string()),
                    ];
                    let gauge = ConstGauge::new(value(lag));
                    gauge.encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

impl Snapshot {
    fn queues(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Count = fn(&QueueTally) -> u64;
        let counters: [(&str, &str, Count); 7] = [
            ("queue_delivered", "Attempts that were handed out", |it| it.delivered),
            ("queue_redelivered", "Attempts that were not the first", |it| it.redelivered),
            ("queue_acknowledged", "Records that were acknowledged", |it| it.acknowledged),
            ("queue_failed", "Attempts that failed, as a worker said", |it| it.failed),
            ("queue_expired", "Attempts whose lease ended", |it| it.expired),
            ("queue_given_up", "Records that are not tried any more", |it| it.parked),
            ("queue_dead_letters", "Records copied to the dead-letter topic", |it| it.copied),
        ];
        for (name, help, count) in counters {
            let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
            for queue in &self.queues {
                let counter = ConstCounter::new(count(&queue.tally));
                counter.encode(family.encode_family(&[("queue", queue.name.clone())])?)?;
            }
        }
        type Value = fn(&QueuePartition) -> u64;
        let states: [(&str, Value); 5] = [
            ("new", |it| it.fresh),
            ("ready", |it| it.ready),
            ("leased", |it| it.leased),
            ("delayed", |it| it.delayed),
            ("parked", |it| it.parked),
        ];
        let help = "Records of a queue that are not settled, and parked ones";
        let mut family = out.encode_descriptor("queue_records", help, None, MetricType::Gauge)?;
        for queue in &self.queues {
            for (state, value) in states {
                let records: u64 = queue.partitions.iter().map(value).sum();
                let labels = [("queue", queue.name.clone()), ("state", state.to_owned())];
                ConstGauge::new(records as i64).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "How long the oldest record that is not settled has been in the log";
        let name = "queue_oldest_seconds";
        let mut family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for queue in &self.queues {
            let age = queue.partitions.iter().map(|it| it.age).max().unwrap_or_default();
            let gauge = ConstGauge::new(age.as_secs_f64());
            gauge.encode(family.encode_family(&[("queue", queue.name.clone())])?)?;
        }
        let help = "Workers of a queue";
        let mut family = out.encode_descriptor("queue_workers", help, None, MetricType::Gauge)?;
        for queue in &self.queues {
            let gauge = ConstGauge::new(queue.crowd.workers as i64);
            gauge.encode(family.encode_family(&[("queue", queue.name.clone())])?)?;
        }
        Ok(())
    }
}

/// CPU time of this process: all its threads, at any time.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Memory of this process, as the kernel counts it.
fn resident_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}
