//! Very many tiny batches: others get their turn, none is lost, and readers get them by the megabyte.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use taffrail_proto::v1;
use tokio::sync::Semaphore;

use crate::broker::Broker;
use crate::door::{
    Door, Placed, batch, batches, fetch_request, placed, produce_batch, soon, value,
};
use crate::pipe::{EARLIEST, Feed, Pipe};

const MIB: usize = 1 << 20;

/// Batches that one client sends as fast as it can.
fn count() -> u64 {
    if std::env::var_os("TAFFRAIL_DEEP").is_some() { 1_000_000 } else { 200_000 }
}

fn tiny(text: &str) -> v1::ProduceBatch {
    produce_batch("t", 0, batch(&[text]))
}

/// Sends so many batches of one record, and returns their offsets.
async fn flood(door: Door, count: u64) -> Vec<u64> {
    let Pipe { requests, mut answers, limits } = Pipe::open(&door).await;
    let room = Arc::new(Semaphore::new(limits.max_in_flight_requests as usize));
    let free = Arc::clone(&room);
    let sending = tokio::spawn(async move {
        for number in 1..=count {
            free.acquire().await.expect("it is open").forget();
            let batch = Some(tiny(&format!("flood {number}")));
            let request = v1::ProduceStreamRequest { number, batch, ..Default::default() };
            requests.send(request).expect("the stream is open");
        }
    });
    let mut offsets = Vec::new();
    for number in 1..=count {
        let answer = soon(answers.message()).await.expect("no error");
        let answer = answer.expect("the stream goes on");
        let result = answer.result.expect("a result");
        assert_eq!((answer.number, &result.error), (number, &None));
        offsets.push(result.base_offset());
        room.add_permits(1);
    }
    sending.await.expect("no panic");
    offsets
}

/// Sends one record after another, each when the one before it is acknowledged.
async fn trickle(door: Door, is_over: Arc<AtomicBool>) -> Vec<u64> {
    let mut pipe = Pipe::open(&door).await;
    let mut offsets = Vec::new();
    for number in 1.. {
        let started = Instant::now();
        pipe.send(number, tiny(&format!("trickle {number}")));
        let (answered, result) = pipe.next().await;
        let took = started.elapsed();
        assert_eq!((answered, &result.error), (number, &None));
        offsets.push(result.base_offset());
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        assert!(took < Duration::from_secs(5), "{took:?} for one record beside many");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    offsets
}

fn check(found: &[Placed], who: &str, offsets: &[u64]) {
    assert!(offsets.is_sorted_by(|a, b| a < b), "in order");
    let own: Vec<_> = found
        .iter()
        .filter_map(|placed| Some((placed.offset, value(placed).strip_prefix(who)?.parse().ok()?)))
        .collect();
    let expected: Vec<(u64, u64)> = offsets.iter().copied().zip(1..).collect();
    assert!(own == expected, "{who}: not each of them once where it was said to be");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_tiny_batches_starves_nobody_and_is_read_by_the_megabyte() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let other = Door::open(&broker).await;
    let trickling = tokio::spawn(trickle(other, Arc::clone(&is_over)));
    let flood = flood(door.clone(), count()).await;
    is_over.store(true, Ordering::Relaxed);
    let trickle = trickling.await.expect("no panic");
    assert!(trickle.len() >= 10, "{} records beside the flood", trickle.len());

    // By fetches of a MiB.
    let total = flood.len() + trickle.len();
    let (mut found, mut answers, mut bytes, mut next) = (Vec::new(), 0, 0, 0);
    loop {
        let request = v1::FetchRequest { max_bytes: MIB as u32, ..fetch_request("t", 0, next) };
        let result = door.fetch_all(request).await.remove(0);
        assert_eq!(result.error, None);
        if result.next_offset == next {
            break;
        }
        next = result.next_offset;
        answers += 1;
        bytes += result.data.len();
        found.extend(placed(&result.data));
    }
    assert_eq!(found.len(), total, "none is lost, none is there twice");
    assert!((0..).zip(&found).all(|(offset, placed)| placed.offset == offset), "a seam");
    check(&found, "flood ", &flood);
    check(&found, "trickle ", &trickle);
    // One is cut short where what is in memory begins.
    assert!(answers <= bytes / (MIB * 9 / 10) + 2, "{answers} answers for {bytes} bytes");

    // By a stream.
    let mut feed = Feed::on(&door, "t", EARLIEST, 1 << 30).await;
    feed.subscribed().await;
    let (mut deliveries, mut seen) = (0, 0);
    while seen < total {
        seen += batches(&feed.delivery().await.data).len();
        deliveries += 1;
    }
    assert!(deliveries <= bytes / (MIB * 9 / 10) + 2, "{deliveries} deliveries of {bytes} bytes");
}
