//! Records are parked without end: snapshots are written while workers go on, and nothing is forgotten by that.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use taffrail_proto::v1;
use taffrail_proto::v1::receive_request::Command;

use super::{Worker, create, parked_page, reject, value};
use crate::broker::Home;
use crate::door::{Door, soon};

const WORKERS: usize = 3;
/// Records that a worker rejects at once.
const RECORDS: usize = 200;
/// Rounds until the log must have been cut off.
const ROUNDS_MAX: usize = 150;

fn reason(value: &str) -> String {
    format!("{value} {}", "x".repeat(980))
}

async fn log_start(door: &Door) -> u64 {
    door.describe("__queues").await.partitions[0].log_start
}

impl Worker {
    /// Rejects the next records, all in one message.
    async fn reject_some(&mut self) -> Vec<(u64, String)> {
        self.grant(RECORDS as u32);
        let (mut rejected, mut settlements) = (Vec::new(), Vec::new());
        for _ in 0..RECORDS {
            let delivery = self.next().await;
            let verdict = Some(reject(&reason(&value(&delivery))));
            settlements.push(v1::Settlement { ack_id: delivery.ack_id.clone(), verdict });
            rejected.push((delivery.offset, value(&delivery)));
        }
        self.say(Command::Settle(v1::SettleRecords { settlements }));
        while self.results.len() < RECORDS {
            soon(self.take()).await.expect("the stream goes on");
        }
        assert!(self.results.drain(..).all(|result| result.error.is_none()));
        rejected
    }
}

/// The offset of each parked record, and why it is; each was tried once.
async fn reasons(door: &Door) -> Vec<(u64, String)> {
    let (mut found, mut behind) = (Vec::new(), None);
    loop {
        let (queue, max_records) = ("q".into(), 1_000);
        let request = v1::ListParkedRequest { queue, behind, max_records, without_records: true };
        let page = parked_page(door, request).await;
        behind = page.records.last().and_then(|it| it.place);
        assert!(page.records.iter().all(|it| it.attempts == 1));
        let place = |it: &v1::ParkedRecord| it.place.expect("a place").offset;
        found.extend(page.records.into_iter().map(|it| (place(&it), it.reason)));
        if !page.has_more {
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_parked_does_not_grow_the_log_of_queues_for_ever_and_none_is_forgotten() {
    let home = Home::new();
    let mut broker = home.start(&[]);
    let door = Door::open(&broker).await;
    create(&door, 1, v1::QueueSettings::default()).await;
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(Worker::open(&door, "q").await);
    }
    let mut rejected = BTreeMap::new();
    for round in 0.. {
        assert!(
            round < ROUNDS_MAX,
            "{} are parked, and nothing of __queues has gone",
            rejected.len()
        );
        let texts: Vec<_> =
            (0..WORKERS * RECORDS).map(|index| format!("{round} {index}")).collect();
        door.append("t", &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
        rejected.extend(join_all(workers.iter_mut().map(Worker::reject_some)).await.concat());
        if log_start(&door).await > 0 {
            break;
        }
    }
    broker.program.kill();
    drop(broker);

    let broker = home.start(&[]);
    let door = Door::open(&broker).await;
    door.online("t").await;
    assert!(log_start(&door).await > 0);
    let expected = rejected.into_iter().map(|(offset, value)| (offset, reason(&value)));
    assert!(expected.eq(reasons(&door).await), "something was forgotten, or not known right");
}
