//! What a broker tells about itself: health, metrics, and its description.

use std::collections::BTreeMap;

use taffrail_proto::v1;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::broker::Broker;
use crate::door::{Door, batch, produce_batch, soon};
use crate::http::{await_metric, get, metric};
use crate::pipe::{EARLIEST, Feed, Pipe};

#[tokio::test]
async fn health_answers_over_grpc_for_the_whole_and_for_each_service() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let mut health = HealthClient::new(door.channel.clone());
    for service in ["", "taffrail.v1.LogService", "taffrail.v1.AdminService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer: HealthCheckResponse =
            soon(health.check(request)).await.expect("it answers").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
}

#[tokio::test]
async fn health_answers_over_http_on_the_same_port() {
    let broker = Broker::new();
    let (head, body) = get(&broker, "/healthz").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let health: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(health["status"], "ok");
    assert_eq!(health["process"], broker.id());
    assert_eq!(health["data"], broker.home.data().to_str().expect("text"));
}

#[tokio::test]
async fn the_numbers_move_with_what_happens() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let counters = [
        "taffrail_produced_batches_total",
        "taffrail_produced_records_total",
        "taffrail_refused_batches_total",
        "taffrail_produce_seconds_count",
        "taffrail_sync_seconds_count",
    ];
    let mut before = BTreeMap::new();
    for name in counters {
        before.insert(name, metric(&broker, name).await);
    }
    door.append("t", &["a", "b", "c"]).await;
    door.append("t", &["d"]).await;
    let bad = v1::RecordBatch { kind: 1, ..batch(&["x"]) };
    assert!(door.produce(produce_batch("t", 0, bad)).await.error.is_some());
    for (name, more) in counters.into_iter().zip([2, 4, 1, 2, 2]) {
        let moved = metric(&broker, name).await - before[name];
        // A refusal waits for what came before it, which may take a sync more.
        let slack = u64::from(name.contains("sync"));
        assert!((more..=more + slack).contains(&moved), "{name} moved by {moved}");
    }
    let labels = "{topic=\"t\",partition=\"0\"}";
    for (name, value) in [
        ("taffrail_log_start_offset", 0),
        ("taffrail_log_high_watermark", 4),
        ("taffrail_log_end_offset", 4),
        ("taffrail_partition_online", 1),
    ] {
        assert_eq!(metric(&broker, &format!("{name}{labels}")).await, value, "{name}");
    }
    assert!(metric(&broker, &format!("taffrail_log_size_bytes{labels}")).await > 100);
    let read = metric(&broker, "taffrail_read_bytes_total").await;
    assert_eq!(door.values("t").await.len(), 4);
    assert!(metric(&broker, "taffrail_read_bytes_total").await > read);
    let (head, body) = get(&broker, "/metrics").await;
    assert!(head.contains("application/openmetrics-text"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
}

#[tokio::test]
async fn a_client_that_disappears_leaves_nothing_behind() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create_with("t", 1, &[("durability", "page_cache")]).await;
    let large = "x".repeat(500_000);
    let mut gone = Vec::new();
    for _ in 0..10 {
        let door = Door::open(&broker).await;
        let pipe = Pipe::open(&door).await;
        for number in 1..=8 {
            pipe.send(number, produce_batch("t", 0, batch(&[&large])));
        }
        let feed = Feed::on(&door, "t", EARLIEST, 1 << 30).await;
        let own = door.clone();
        let fetch = tokio::spawn(async move {
            let request = crate::door::fetch_request("t", 0, u64::MAX >> 1);
            let request = v1::FetchRequest { max_wait_ms: 60_000, ..request };
            own.log.clone().fetch(request).await
        });
        gone.push((door, pipe, feed, fetch));
    }
    await_metric(&broker, "taffrail_produce_streams", |streams| streams == 10).await;
    await_metric(&broker, "taffrail_consume_streams", |streams| streams == 10).await;
    // 10 of theirs, ours, and the one that asks.
    await_metric(&broker, "taffrail_connections", |connections| connections == 12).await;
    for (door, pipe, feed, fetch) in gone {
        fetch.abort();
        drop((door, pipe, feed));
    }
    await_metric(&broker, "taffrail_produce_streams", |streams| streams == 0).await;
    await_metric(&broker, "taffrail_consume_streams", |streams| streams == 0).await;
    await_metric(&broker, "taffrail_connections", |connections| connections == 2).await;
    await_metric(&broker, "taffrail_read_memory_used_bytes", |bytes| bytes == 0).await;
    door.append("t", &["after"]).await;
}

#[tokio::test]
async fn the_broker_describes_itself() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 3).await;
    let request = v1::DescribeBrokerRequest {};
    let answer = soon(door.admin.clone().describe_broker(request)).await.expect("it answers");
    let about = answer.into_inner();
    assert_eq!((about.topics, about.partitions), (1, 3), "without its own");
    assert_eq!(about.data_directory, broker.home.data().to_str().expect("text"));
    assert_eq!((about.version.as_str(), about.directory_id.len()), (env!("CARGO_PKG_VERSION"), 32));
    assert!(about.limits.contains_key("read_memory_bytes"), "{:?}", about.limits);
    assert!(about.limits.values().all(|limit| *limit > 0));
}
