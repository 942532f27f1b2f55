//! The long poll: what wakes it, what it waits for, and how much it brings.

use std::time::{Duration, Instant};

use taffrail_proto::v1;

use crate::broker::Broker;
use crate::door::{Door, batch, batches, check_error, fetch_request, placed, produce_batch};

/// Far below the 30 s that the fetches here may wait.
const AT_ONCE: Duration = Duration::from_secs(10);

fn waiting(topic: &str, partition: u32, offset: u64) -> v1::FetchRequest {
    v1::FetchRequest { max_wait_ms: 30_000, ..fetch_request(topic, partition, offset) }
}

/// Starts a fetch and makes sure that the broker has it and waits.
async fn start(
    door: &Door,
    request: v1::FetchRequest,
) -> tokio::task::JoinHandle<Vec<v1::FetchResult>> {
    let own = door.clone();
    let fetch = tokio::spawn(async move { own.fetch_all(request).await });
    // Requests on one connection are taken in order: once a later one is answered, it has begun.
    for _ in 0..3 {
        tokio::task::yield_now().await;
        door.describe("t").await;
    }
    assert!(!fetch.is_finished(), "there is nothing to answer with yet");
    fetch
}

/// Waits for what must not wait.
async fn at_once<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(AT_ONCE, what).await.expect("it is answered at once")
}

#[tokio::test]
async fn a_waiting_fetch_is_answered_by_the_next_record() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    for (topic, durability) in [("t", "fsync"), ("u", "page_cache")] {
        door.create_with(topic, 1, &[("durability", durability)]).await;
        door.append(topic, &["a"]).await;
        let fetch = start(&door, waiting(topic, 0, 1)).await;
        door.append(topic, &["b"]).await;
        let result = at_once(fetch).await.expect("no panic").remove(0);
        assert_eq!((result.next_offset, result.high_watermark), (2, 2));
        assert_eq!(placed(&result.data)[0].offset, 1);
    }
}

#[tokio::test]
async fn any_of_its_partitions_wakes_a_fetch() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 3).await;
    let mut request = waiting("t", 0, 0);
    request.partitions.extend(waiting("t", 1, 0).partitions);
    request.partitions.extend(waiting("t", 2, 0).partitions);
    let fetch = start(&door, request).await;
    door.produce(produce_batch("t", 2, batch(&["x"]))).await;
    let results = at_once(fetch).await.expect("no panic");
    let found: Vec<_> = results.iter().map(|r| (r.partition, batches(&r.data).len())).collect();
    assert_eq!(found, [(0, 0), (1, 0), (2, 1)]);
}

#[tokio::test]
async fn a_fetch_waits_for_the_bytes_it_wants() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let record = "x".repeat(1_000);
    let request = v1::FetchRequest { min_bytes: 2_500, ..waiting("t", 0, 0) };
    let fetch = start(&door, request).await;
    for round in 0..3 {
        assert!(!fetch.is_finished(), "answered with {round} records");
        door.append("t", &[&record]).await;
        door.describe("t").await;
    }
    let result = at_once(fetch).await.expect("no panic").remove(0);
    assert_eq!((batches(&result.data).len(), result.next_offset), (3, 3));
}

#[tokio::test]
async fn a_fetch_is_empty_when_its_wait_is_over_and_says_so_no_earlier() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    door.append("t", &["a"]).await;
    for (min_bytes, offset, expected) in [(0, 1, 0), (1 << 20, 0, 1)] {
        let began = Instant::now();
        let request =
            v1::FetchRequest { max_wait_ms: 200, min_bytes, ..fetch_request("t", 0, offset) };
        let result = door.fetch_all(request).await.remove(0);
        assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
        assert_eq!((result.error, batches(&result.data).len()), (None, expected));
        assert_eq!((result.next_offset, result.log_start, result.high_watermark), (1, 0, 1));
    }
}

#[tokio::test]
async fn an_error_in_one_partition_is_told_at_once_beside_what_others_have() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    door.append("t", &["a"]).await;
    let mut request = waiting("t", 0, 1);
    request.partitions.extend(waiting("gone", 0, 0).partitions);
    request.partitions.extend(waiting("t", 0, 0).partitions);
    let results = at_once(door.fetch_all(request)).await;
    assert_eq!(results[0].error, None);
    check_error(results[1].error.as_ref(), "UNKNOWN_TOPIC", &[("topic", "gone")], "no topic");
    assert_eq!(placed(&results[2].data).len(), 1);
}

#[tokio::test]
async fn an_answer_holds_what_was_asked_for_and_at_least_one_batch() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 2).await;
    let record = "x".repeat(10_000);
    for _ in 0..10 {
        door.append("t", &[&record]).await;
        door.produce(produce_batch("t", 1, batch(&[&record]))).await;
    }
    for (max_bytes, expected) in [(1, 1), (10_000, 1), (25_000, 2), (0, 10)] {
        let request = v1::FetchRequest { max_bytes, ..fetch_request("t", 0, 0) };
        let result = door.fetch_all(request).await.remove(0);
        assert_eq!(batches(&result.data).len(), expected, "max_bytes {max_bytes}");
        assert_eq!(result.next_offset, expected as u64);
    }
    // The bytes are those of the whole answer: the first partition may leave nothing.
    let mut request = v1::FetchRequest { max_bytes: 40_000, ..fetch_request("t", 0, 0) };
    request.partitions.extend(fetch_request("t", 1, 0).partitions);
    let results = door.fetch_all(request).await;
    let bytes: usize = results.iter().map(|result| result.data.len()).sum();
    assert!(bytes <= 40_000, "{bytes}");
    assert_eq!((batches(&results[0].data).len(), results[1].next_offset), (3, 0));
}

#[tokio::test]
async fn no_answer_exceeds_what_the_client_can_receive() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let record = "x".repeat(30_000);
    for _ in 0..4 {
        door.append("t", &[&record]).await;
    }
    for max_message_bytes in [32_000, 64_000, 100_000] {
        let request =
            v1::FetchRequest { max_bytes: 1 << 20, max_message_bytes, ..fetch_request("t", 0, 0) };
        let results = door.fetch_all(request).await;
        let answer = v1::FetchResponse { results };
        let bytes = prost::Message::encoded_len(&answer);
        assert!(bytes <= max_message_bytes as usize, "{bytes} > {max_message_bytes}");
        let expected = max_message_bytes as usize / 31_100;
        assert_eq!(batches(&answer.results[0].data).len(), expected.max(1));
    }
}

#[tokio::test]
async fn many_partitions_and_errors_come_in_turn_through_small_messages() {
    const MESSAGE_BYTES: u32 = 64 << 10;
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 85).await;
    let record = "x".repeat(3_000);
    let mut left = Vec::new();
    for partition in 0..85 {
        door.produce(produce_batch("t", partition, batch(&[&record]))).await;
        left.extend(fetch_request("t", partition, 0).partitions);
    }
    for partition in 0..60 {
        left.extend(fetch_request(&"x".repeat(200), partition, 0).partitions);
    }
    for _ in 0..left.len() {
        let partitions = left.clone();
        let max_message_bytes = MESSAGE_BYTES;
        let request = v1::FetchRequest { partitions, max_message_bytes, ..waiting("t", 0, 0) };
        let results = at_once(door.fetch_all(request)).await;
        let before = left.len();
        left.retain(|asked| {
            let of = |result: &&v1::FetchResult| {
                (&result.topic, result.partition) == (&asked.topic, asked.partition)
            };
            let result = results.iter().find(of).expect("a result for each partition");
            let reason = result.error.as_ref().map(|error| error.reason.as_str());
            let expected = (asked.topic != "t").then_some("UNKNOWN_TOPIC");
            assert!(reason.is_none() || reason == expected, "{reason:?}");
            reason.is_none() && result.next_offset == 0
        });
        assert!(left.len() < before, "{before} partitions have nothing to say");
        let bytes = prost::Message::encoded_len(&v1::FetchResponse { results });
        assert!(bytes <= MESSAGE_BYTES as usize, "{bytes} bytes");
        if left.is_empty() {
            return;
        }
    }
}

#[tokio::test]
async fn a_batch_that_fits_alone_comes_before_the_errors_of_others() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    door.append("t", &[&"x".repeat(98_000)]).await;
    let mut request = fetch_request("gone", 0, 0);
    request.max_message_bytes = 100_000;
    request.partitions.extend(fetch_request("t", 0, 0).partitions);
    let results = door.fetch_all(request.clone()).await;
    assert_eq!((results[0].error.as_ref(), results[1].next_offset), (None, 1));
    request.partitions[1].offset = 1;
    let results = door.fetch_all(request).await;
    check_error(results[0].error.as_ref(), "UNKNOWN_TOPIC", &[("topic", "gone")], "no topic");
}

#[tokio::test]
async fn a_message_without_room_for_any_batch_is_an_error_and_not_a_wait() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    door.append("t", &["a"]).await;
    let request = v1::FetchRequest { max_message_bytes: 100, ..waiting("t", 0, 0) };
    let results = at_once(door.fetch_all(request)).await;
    let metadata = &[("batch_bytes", "*"), ("max_message_bytes", "100")];
    check_error(results[0].error.as_ref(), "MESSAGE_TOO_SMALL", metadata, "raise");
}

#[tokio::test]
async fn errors_of_other_partitions_leave_the_first_batch_less_room() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    door.append("t", &[&"x".repeat(98_000)]).await;
    let ask = |max_message_bytes| {
        let mut request = v1::FetchRequest { max_message_bytes, ..fetch_request("t", 0, 0) };
        let unknown = (1..300).flat_map(|partition| fetch_request("t", partition, 0).partitions);
        request.partitions.extend(unknown);
        door.fetch_all(request)
    };
    const METADATA: &[(&str, &str)] = &[("batch_bytes", "*"), ("max_message_bytes", "100000")];
    let results = ask(100_000).await;
    check_error(results[0].error.as_ref(), "MESSAGE_TOO_SMALL", METADATA, "raise");
    let results = ask(500_000).await;
    assert_eq!(results[0].next_offset, 1);
    assert!(prost::Message::encoded_len(&v1::FetchResponse { results }) <= 500_000);
}

#[tokio::test]
async fn a_fetch_may_begin_inside_a_batch_and_then_gets_all_of_it() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    door.append("t", &["a", "b", "c"]).await;
    let result = door.fetch("t", 0, 2).await;
    let offsets: Vec<_> = placed(&result.data).iter().map(|placed| placed.offset).collect();
    assert_eq!((offsets, result.next_offset), (vec![0, 1, 2], 3));
}
