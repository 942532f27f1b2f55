//! What a compacted topic does not take, and what settings do not go together.

use taffrail_client::{ProduceError, Record};
use tonic::Code;

use super::{EAGER, Given};
use crate::commands::{taffrail, taffrail_fed};
use crate::door::{Door, batch_of, check_error, check_status, produce_batch, record, soon};
use crate::pipe::Pipe;

/// A batch whose records have no key at these places.
fn keyless(count: usize, places: &[usize]) -> taffrail_proto::v1::ProduceBatch {
    let record = |place| {
        let key = (!places.contains(&place)).then(|| "k".into());
        taffrail_proto::v1::Record { key, ..record("v") }
    };
    produce_batch("t", 0, batch_of((0..count).map(record).collect()))
}

#[tokio::test]
async fn records_without_a_key_are_refused_and_named_however_they_come() {
    let given = Given::new().await;
    let many: Vec<_> = (1..30).step_by(2).collect();
    let cases = [
        (keyless(1, &[0]), "1", "1 of the batch's records have no key, at index 0:"),
        (keyless(5, &[1, 4]), "2", "at index 1, 4:"),
        (keyless(30, &many), "15", "at index 1, 3, 5, 7, 9, 11, 13, 15, 17, 19 and 5 more:"),
    ];
    for (batch, count, says) in cases {
        let metadata = [("records", count)];
        let result = given.door.produce(batch.clone()).await;
        check_error(result.error.as_ref(), "KEY_MISSING", &metadata, says);
        let mut pipe = Pipe::open(&given.door).await;
        pipe.send(1, batch);
        let result = pipe.next().await.1;
        check_error(result.error.as_ref(), "KEY_MISSING", &metadata, says);
    }
    // An empty key is one, and so is that of a tombstone.
    let empty = taffrail_proto::v1::Record { key: Some("".into()), ..Default::default() };
    let result = given.door.produce(produce_batch("t", 0, batch_of(vec![empty]))).await;
    assert_eq!((result.base_offset, result.error), (Some(0), None), "nothing else was appended");

    let producer = given.broker.client().producer("t").build().await.expect("it starts");
    let delivery = soon(producer.send(Record::value(b"v"))).await.expect("it takes it");
    match soon(delivery).await {
        Err(ProduceError::Refused(error)) => assert_eq!(error.reason, "KEY_MISSING", "{error:?}"),
        other => panic!("{other:?}"),
    }
    let delivery = soon(producer.send(Record::value(b"v").key(b"k"))).await.expect("it takes it");
    soon(delivery).await.expect("the next one goes");

    let refused = taffrail_fed(&given.broker, &["produce", "t"], "one\n");
    refused.check(3, &["at index 0", "KEY_MISSING"]);
    taffrail_fed(&given.broker, &["produce", "t", "--key-separator", ":"], "a:1\n").success();
    assert_eq!(given.door.describe("t").await.partitions[0].log_end, 3);
}

#[tokio::test]
async fn what_has_no_key_stays_when_a_topic_becomes_compacted() {
    let deleting: Vec<_> = EAGER.into_iter().filter(|(name, _)| *name != "cleanup").collect();
    let mut given = Given::with(&deleting, &[]).await;
    for _ in 0..40 {
        given.append(&[(Some(1), false), (None, false), (None, true)]).await;
    }
    let end = given.end();
    given.door.alter("t", &EAGER).await.expect("it can be altered");
    // By altering alone, what is there is compacted.
    given.settle().await;
    given.compact().await;
    let left = given.left();
    assert_eq!(given.read(0).await, left);
    let keyless = left.iter().filter(|entry| entry.key.is_none()).count();
    assert_eq!(keyless, 80);
    assert_eq!(left.iter().filter(|entry| entry.offset < end).count(), 81);
    let result = given.door.produce(keyless_one()).await;
    assert_eq!(result.error.expect("refused").reason, "KEY_MISSING");

    // And back: nothing goes any more, and keys are not asked for.
    given.door.alter("t", &[("cleanup", "delete")]).await.expect("it can be altered");
    given.append(&[(None, false)]).await;
    let before = given.read(0).await;
    given.append_some(200, 3).await;
    let found = given.read(0).await;
    assert_eq!(found.len(), before.len() + 200);
    let given = given.restart().await;
    assert_eq!(given.read(0).await, found);
}

fn keyless_one() -> taffrail_proto::v1::ProduceBatch {
    keyless(1, &[0])
}

#[tokio::test]
async fn settings_that_contradict_each_other_or_say_nothing_are_refused() {
    let broker = crate::broker::Broker::new();
    let door = Door::open(&broker).await;
    let compact = ("cleanup", "compact");
    for (name, value) in [
        ("cleanup", "sometimes"),
        ("min.cleanable.dirty.ratio", "1.01"),
        ("min.cleanable.dirty.ratio", "-0.1"),
        ("min.cleanable.dirty.ratio", "NaN"),
        ("min.cleanable.dirty.ratio", "half"),
        ("min.cleanable.dirty.ratio", ""),
        ("delete.retention.ms", "-1s"),
        ("delete.retention.ms", "soon"),
        ("delete.retention.ms", "none"),
    ] {
        let refused = door.try_create("t", 1, &[compact, (name, value)]).await;
        let names = [("name", name)];
        if name == "cleanup" {
            let refused = door.try_create("t", 1, &[(name, value)]).await;
            check_status(refused, Code::InvalidArgument, "INVALID_SETTING", &names, value);
        } else {
            check_status(refused, Code::InvalidArgument, "INVALID_SETTING", &names, value);
        }
    }
    for name in ["retention.ms", "retention.bytes"] {
        let value = "10000000";
        let refused = door.try_create("t", 1, &[compact, (name, value)]).await;
        check_status(refused, Code::InvalidArgument, "INVALID_SETTING", &[("name", "*")], name);
        // With both it means something.
        let topic = format!("both-{name}");
        door.create_with(&topic, 1, &[("cleanup", "both"), (name, value)]).await;
        let refused = door.alter(&topic, &[compact, (name, value)]).await;
        check_status(refused, Code::InvalidArgument, "INVALID_SETTING", &[("name", "*")], name);
    }
    for value in ["0", "0.333", "1", "1e-3"] {
        door.create_with(&format!("r{value}"), 1, &[compact, ("min.cleanable.dirty.ratio", value)])
            .await;
    }
    let described = taffrail(&broker, &["topic", "describe", "r0.333"]).success();
    for words in ["cleanup", "compact", "min.cleanable.dirty.ratio", "0.333", "64MiB"] {
        assert!(described.contains(words), "{described} does not say {words}");
    }
}
