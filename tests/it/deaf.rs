//! Producers that send and never take their answers: they are read no further, and cost others nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use taffrail_proto::v1;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::broker::Broker;
use crate::door::{Door, batch, produce_batch, soon};
use crate::http::{await_metric, metric};
use crate::pipe::{Feed, LATEST, Pipe};

const MIB: u64 = 1 << 20;

/// Bytes of a batch, about.
const BATCH_BYTES: usize = 8_000;

/// What a stream may have taken and not told of, what waits in front of it on the connection (16 MiB),
/// and what lies in buffers on the way.
const TAKEN_MAX: u64 = 2 * 1_024 + 16 * MIB / BATCH_BYTES as u64 + 4_000;

/// A producer that never looks at an answer, and has room for few. It has a runtime of its own, with
/// which its connection goes too.
struct Deaf {
    sent: Arc<AtomicU64>,
    runtime: Option<Runtime>,
}

impl Deaf {
    fn start(broker: &Broker, batch: v1::ProduceBatch) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let sent = Arc::new(AtomicU64::new(0));
        runtime.spawn(send(broker.url.clone(), batch, Arc::clone(&sent)));
        Self { sent, runtime: Some(runtime) }
    }

    /// Waits until it can send no more.
    async fn is_stuck(&self) {
        let stuck = async {
            let mut before = 0;
            loop {
                tokio::time::sleep(Duration::from_millis(300)).await;
                let sent = self.sent();
                assert!(sent < TAKEN_MAX, "{sent} batches were taken, and no answer was");
                if before > 1_000 && sent == before {
                    return;
                }
                before = sent;
            }
        };
        soon(stuck).await;
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Sends a batch again and again.
async fn send(url: String, batch: v1::ProduceBatch, sent: Arc<AtomicU64>) {
    let door = Door::narrow(url, 1 << 10).await;
    let (sender, requests) = mpsc::channel(1);
    let requests = ReceiverStream::new(requests);
    let _answers = soon(door.log.clone().produce_stream(requests)).await.expect("it answers");
    for number in 1.. {
        let batch = Some(batch.clone());
        let request = v1::ProduceStreamRequest { number, batch, ..Default::default() };
        sender.send(request).await.expect("the stream is open");
        sent.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_that_take_no_answers_are_read_no_further_and_stop_nobody() {
    let broker = Broker::with(&["memory=64MiB", "tail_memory=16MiB"]);
    let door = Door::open(&broker).await;
    door.create_with("t", 1, &[("durability", "page_cache")]).await;
    let value = "x".repeat(BATCH_BYTES);
    let deaf = [
        Deaf::start(&broker, produce_batch("t", 0, batch(&[&value]))),
        // Of a refusal it hears as little.
        Deaf::start(&broker, produce_batch("nowhere", 0, batch(&[&value]))),
    ];
    for deaf in &deaf {
        deaf.is_stuck().await;
    }
    let used = "taffrail_produce_memory_used_bytes";
    await_metric(&broker, used, |bytes| bytes <= 2 * MIB).await;

    // Another producer and a consumer of the same topic.
    let mut pipe = Pipe::open(&door).await;
    let mut next = door.fetch("t", 0, 0).await.high_watermark;
    let mut feed = Feed::on(&door, "t", LATEST, 1 << 30).await;
    assert!(feed.subscribed().await.offset >= next, "it begins at the end");
    for number in 1..=50 {
        let (text, started) = (number.to_string(), Instant::now());
        pipe.send(number, produce_batch("t", 0, batch(&[&text])));
        let (answered, result) = pipe.next().await;
        assert_eq!((answered, &result.error), (number, &None));
        assert!(next <= result.base_offset(), "in order");
        next = result.base_offset();
        assert_eq!(feed.values(next, 1).await, [text]);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?} for a record beside deaf producers");
    }
    let resident = metric(&broker, "taffrail_process_resident_memory_bytes").await;
    // What it is to start with, the settings, and the windows of two connections.
    assert!(resident < (40 + 16 + 64 + 2 * 32) * MIB, "{resident} bytes");
    for deaf in &deaf {
        assert!(deaf.sent() < TAKEN_MAX, "{} batches were taken", deaf.sent());
    }

    drop((deaf, pipe, feed));
    await_metric(&broker, "taffrail_produce_streams", |streams| streams == 0).await;
    await_metric(&broker, used, |bytes| bytes == 0).await;
    await_metric(&broker, "taffrail_read_memory_used_bytes", |bytes| bytes == 0).await;
    door.append("t", &["after"]).await;
}
