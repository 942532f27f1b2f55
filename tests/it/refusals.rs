//! Every refusal that can be provoked from outside: its reason, its code, the numbers it carries,
//! and the words that say what to do next.
//!
//! Deliberately absent: what only a failing disk brings (`STORAGE_FULL`, `PARTITION_READ_ONLY`,
//! `DATA_LOSS`, ...), and `PRECEDING_FAILED` and `OVERLOADED`, which are in `stream`.

use taffrail_proto::v1;
use taffrail_proto::v1::position::At;
use tonic::Code;

use crate::broker::Broker;
use crate::door::{
    Door, batch, batch_of, batch_with, check_error, check_status, fetch_request, produce_batch,
    record, settings_of, soon,
};
use crate::pipe::{EARLIEST, Feed, Pipe};
use crate::wire;

/// What to read, and what is said then.
type ReadCase<'a> = (&'a str, u32, u64, &'a str, &'a [(&'a str, &'a str)], &'a str);

/// What to send, and what is said then.
type Case<'a> = (v1::ProduceBatch, &'a str, &'a [(&'a str, &'a str)], &'a str);

/// Each batch is refused so, and nothing of it is in `orders` or anywhere else.
async fn check_produce(door: &Door, cases: Vec<Case<'_>>) {
    for (batch, reason, metadata, says) in cases {
        let result = door.produce(batch).await;
        check_error(result.error.as_ref(), reason, metadata, says);
        assert_eq!((result.base_offset(), result.append_time_ms, result.high_watermark), (0, 0, 0));
    }
    let description = door.describe("orders").await;
    let ends: Vec<_> = description.partitions.iter().map(|part| part.log_end).collect();
    assert_eq!(ends, [0, 0], "a refused batch leaves nothing in the log");
}

#[tokio::test]
async fn batches_for_places_that_do_not_exist() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("orders", 2).await;
    let to = |topic: &str, partition| produce_batch(topic, partition, batch(&["x"]));
    let long = "x".repeat(201);
    check_produce(
        &door,
        vec![
            (
                to("ordres", 0),
                "UNKNOWN_TOPIC",
                &[("topic", "ordres")],
                "did you mean \"orders\"?: create it first",
            ),
            (to("zzz", 0), "UNKNOWN_TOPIC", &[("topic", "zzz")], "create it first"),
            (
                to("orders", 2),
                "UNKNOWN_PARTITION",
                &[("topic", "orders"), ("partition", "2"), ("partitions", "2")],
                "has partitions 0 to 1, not 2",
            ),
            (to("", 0), "INVALID_TOPIC_NAME", &[], "give it a name"),
            (to("a/b", 0), "INVALID_TOPIC_NAME", &[], "use letters, digits"),
            (to("..", 0), "INVALID_TOPIC_NAME", &[], "use at least one letter"),
            (to(&long, 0), "INVALID_TOPIC_NAME", &[], "at most 200"),
            (
                to("__catalog", 0),
                "INTERNAL_TOPIC",
                &[("topic", "__catalog")],
                "only the broker writes",
            ),
            (to("__mine", 0), "INTERNAL_TOPIC", &[("topic", "__mine")], "only the broker writes"),
        ],
    )
    .await;
}

#[tokio::test]
async fn batches_that_are_not_what_they_must_be() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("orders", 2).await;
    let to = |batch| produce_batch("orders", 0, batch);
    let plain = || batch(&["x"]);
    let large = "x".repeat(1 << 20);
    let crc = crc32fast::hash(b"something else").to_string();
    let far = v1::Record { timestamp_ms: i64::MAX, ..record("x") };
    // As many milliseconds in a unit that is a thousand times finer.
    let micros = v1::Record { timestamp_ms: 1_517_788_800_123_000, ..record("x") };
    let ahead: &[_] = &[("found", "*"), ("now", "*"), ("ahead_ms", "86400000")];
    check_produce(
        &door,
        vec![
            (
                to(batch(&[&large])),
                "BATCH_TOO_LARGE",
                &[("found", "*"), ("max", "1048576")],
                "raise its max.batch.bytes",
            ),
            (
                to(v1::RecordBatch {
                    records_crc: Some(crc32fast::hash(b"something else")),
                    ..plain()
                }),
                "CORRUPT_BATCH",
                &[("found", &crc), ("computed", "*")],
                "send it again",
            ),
            (
                v1::ProduceBatch {
                    placement: None,
                    ..to(v1::RecordBatch { producer_id: 8, ..plain() })
                },
                "INVALID_REQUEST",
                &[],
                "names its partition",
            ),
            (
                to(v1::RecordBatch { kind: 1, ..plain() }),
                "CONTROL_BATCH",
                &[],
                "send BATCH_KIND_DATA",
            ),
            (
                to(v1::RecordBatch { kind: 9, ..plain() }),
                "CONTROL_BATCH",
                &[],
                "send BATCH_KIND_DATA",
            ),
            (
                to(batch_of(vec![record("x"), far])),
                "TIMESTAMP_AHEAD",
                ahead,
                "check the producer's clock",
            ),
            (to(batch_of(vec![micros])), "TIMESTAMP_AHEAD", ahead, "Unix milliseconds"),
            (
                v1::ProduceBatch { expected_next_offset: Some(3), ..to(plain()) },
                "OFFSET_MISMATCH",
                &[("expected", "3"), ("actual", "0")],
                "read what came in between",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn records_that_some_decoder_would_not_take() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("orders", 2).await;
    let good = wire::length(1, &wire::length(2, b"v"));
    let second = |record: &[u8]| [good.clone(), wire::length(1, record)].concat();
    let header = |fields: &[u8]| second(&wire::length(3, fields));
    let mut cut = good.clone();
    cut.pop();
    let overlong = [vec![0x20], vec![0xff; 10], vec![1]].concat();
    let payloads: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "send at least one"),
        (wire::length(9, b"no record"), "send at least one"),
        (second(&wire::number(5, 0)), "record 1 sets offset_delta"),
        (second(&wire::number(5, 3)), "leave it out"),
        (cut, "record 0 is not a valid protobuf message: it ends in the middle"),
        (vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], "in the middle of a value"),
        (second(&[0x12]), "record 1 is not a valid protobuf message"),
        (second(&wire::length(2, b"v")[..2]), "in the middle of a value"),
        (wire::number(1, 4), "wrong wire type"),
        (second(&wire::number(1, 4)), "field 1 has the wrong wire type"),
        (second(&wire::fixed64(2, 4)), "field 2 has the wrong wire type"),
        (second(&wire::fixed32(3, 4)), "field 3 has the wrong wire type"),
        (second(&wire::length(4, b"9")), "field 4 has the wrong wire type"),
        (second(&wire::group(2, &[])), "field 2 has wire type 3"),
        (second(&wire::group(50, &wire::number(1, 1))), "field 50 has wire type 3"),
        ([good.clone(), wire::group(50, &[])].concat(), "field 50 has wire type 3"),
        (second(&wire::varint(7)), "impossible number"),
        (second(&[0x96, 0x01, 0x00]), "which is not allowed"),
        (second(&[0x00, 0x01]), "impossible number"),
        // Some decoders refuse these, or pass over them.
        (second(&[0x92, 0x00, 0x01, b'v']), "padded with needless bytes"),
        (second(&[0x12, 0x81, 0x80, 0x80, 0x80, 0x80, 0x00, b'v']), "padded with needless bytes"),
        (second(&overlong), "longer than 64 bits"),
        (header(&wire::length(1, b"\xff\xfe")), "record 1 has a header whose name is not UTF-8"),
        (header(&wire::number(1, 1)), "field 1 has the wrong wire type"),
        (header(&wire::number(2, 1)), "field 2 has the wrong wire type"),
        (header(&wire::length(1, b"n")[..2]), "in the middle of a value"),
    ];
    let case = |(payload, says): (Vec<u8>, &'static str)| {
        let metadata: &[(&str, &str)] = &[];
        (produce_batch("orders", 0, batch_with(payload.into())), "INVALID_RECORDS", metadata, says)
    };
    check_produce(&door, payloads.into_iter().map(case).collect()).await;
    let without = v1::RecordBatch::default();
    check_produce(
        &door,
        vec![(produce_batch("orders", 0, without), "INVALID_RECORDS", &[], "at least one")],
    )
    .await;
}

#[tokio::test]
async fn one_refused_batch_of_a_request_leaves_those_of_other_partitions_alone() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("orders", 2).await;
    let bad = v1::RecordBatch { kind: 1, ..batch(&["x"]) };
    let results = door
        .produce_all(vec![
            produce_batch("orders", 0, batch(&["a"])),
            produce_batch("orders", 0, bad),
            produce_batch("orders", 1, batch(&["b"])),
            produce_batch("orders", 0, batch(&["c"])),
        ])
        .await;
    let reasons: Vec<_> = results
        .iter()
        .map(|r| r.error.as_ref().map_or("", |error| error.reason.as_str()))
        .collect();
    assert_eq!(reasons, ["", "CONTROL_BATCH", "", "PRECEDING_FAILED"]);
    check_error(
        results[3].error.as_ref(),
        "PRECEDING_FAILED",
        &[("refused", "2")],
        "send that again first",
    );
    assert_eq!(door.values("orders").await, ["a"]);
    assert_eq!(door.read("orders", 1, 0).await.len(), 1);
}

#[tokio::test]
async fn reads_of_what_is_not_there() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("orders", 1).await;
    door.append("orders", &["a", "b", "c"]).await;
    let large = "x".repeat(8_000);
    door.append("orders", &[&large]).await;
    let range: &[_] = &[("offset", "5"), ("start", "0"), ("end", "4")];
    let partitions: &[_] = &[("topic", "orders"), ("partition", "1"), ("partitions", "1")];
    let cases: [ReadCase<'_>; 6] = [
        ("ordres", 0, 0, "UNKNOWN_TOPIC", &[("topic", "ordres")], "did you mean \"orders\"?"),
        ("zzz", 0, 0, "UNKNOWN_TOPIC", &[("topic", "zzz")], "there is no topic \"zzz\""),
        ("orders", 1, 0, "UNKNOWN_PARTITION", partitions, "has partitions 0 to 0"),
        ("a b", 0, 0, "INVALID_TOPIC_NAME", &[], "use letters"),
        ("orders", 0, 5, "OFFSET_OUT_OF_RANGE", range, "the partition has 0 to 4"),
        (
            "orders",
            0,
            u64::MAX,
            "OFFSET_OUT_OF_RANGE",
            &[("offset", "*"), ("start", "0"), ("end", "4")],
            "0 to 4",
        ),
    ];
    let mut feed = Feed::open(&door).await;
    for (index, (topic, partition, offset, reason, metadata, says)) in cases.into_iter().enumerate()
    {
        let result = door.fetch(topic, partition, offset).await;
        check_error(result.error.as_ref(), reason, metadata, says);
        assert_eq!((result.data.len(), result.next_offset), (0, offset));
        let result = door.find(topic, partition, At::Offset(offset)).await;
        check_error(result.error.as_ref(), reason, metadata, says);
        feed.subscribe(index as u64, topic, partition, At::Offset(offset));
        let failure = feed.failure().await;
        assert_eq!(failure.subscription, index as u64);
        check_error(failure.error.as_ref(), reason, metadata, says);
    }
    let too_small: &[_] = &[("batch_bytes", "*"), ("max_message_bytes", "4096")];
    let request = v1::FetchRequest { max_message_bytes: 4096, ..fetch_request("orders", 0, 3) };
    let result = door.fetch_all(request).await.remove(0);
    check_error(result.error.as_ref(), "MESSAGE_TOO_SMALL", too_small, "raise max_message_bytes");
}

#[tokio::test]
async fn topics_that_cannot_be_created() {
    use Code::{AlreadyExists, InvalidArgument, PermissionDenied};
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("orders", 2).await;
    let create = |name: &'static str, partitions, settings: &'static [(&str, &str)]| {
        let door = door.clone();
        async move { door.try_create(name, partitions, settings).await }
    };
    check_status(
        create("orders", 1, &[]).await,
        AlreadyExists,
        "TOPIC_EXISTS",
        &[("topic", "orders")],
        "choose another name",
    );
    check_status(
        create("", 1, &[]).await,
        InvalidArgument,
        "INVALID_TOPIC_NAME",
        &[],
        "give it a name",
    );
    check_status(
        create("a b", 1, &[]).await,
        InvalidArgument,
        "INVALID_TOPIC_NAME",
        &[],
        "use letters",
    );
    check_status(
        create("__x", 1, &[]).await,
        PermissionDenied,
        "INTERNAL_TOPIC",
        &[("topic", "__x")],
        "choose another name",
    );
    check_status(
        create("new", 10_001, &[]).await,
        InvalidArgument,
        "INVALID_PARTITION_COUNT",
        &[("found", "10001"), ("max", "10000")],
        "give 1 to 10000",
    );
    check_status(
        create("new", 1, &[("durabilty", "fsync")]).await,
        InvalidArgument,
        "UNKNOWN_SETTING",
        &[("name", "durabilty")],
        "did you mean \"durability\"?",
    );
    let wrong = [
        ("durability", "maybe", "takes fsync | page_cache"),
        ("max.batch.bytes", "1", "takes bytes, 1KiB to 64MiB"),
        ("max.batch.bytes", "65MiB", "takes bytes, 1KiB to 64MiB"),
        ("segment.bytes", "63KiB", "takes bytes, 64KiB to 1GiB"),
        ("segment.bytes", "many", "takes bytes"),
        ("segment.ms", "-1", "takes a duration"),
        ("segment.ms", "999", "takes a duration of at least 1s"),
    ];
    for (name, value, says) in wrong {
        let answer = door.try_create("new", 1, &[(name, value)]).await;
        check_status(answer, InvalidArgument, "INVALID_SETTING", &[("name", name)], says);
    }
    check_status(
        create("new", 1, &[("segment.bytes", "64KiB")]).await,
        InvalidArgument,
        "INVALID_SETTING",
        &[("name", "segment.bytes")],
        "raise segment.bytes",
    );
    let listed = door.admin.clone().list_topics(v1::ListTopicsRequest::default()).await;
    let listed = listed.expect("it answers").into_inner().topics;
    assert_eq!(listed.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["orders"]);
}

#[tokio::test]
async fn changes_of_topics_that_cannot_be() {
    use Code::{InvalidArgument, NotFound, PermissionDenied};
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let before = door.create("orders", 2).await;
    let unknown: &[_] = &[("topic", "ordres")];
    let internal: &[_] = &[("topic", "__catalog")];
    check_status(
        door.alter("ordres", &[]).await,
        NotFound,
        "UNKNOWN_TOPIC",
        unknown,
        "did you mean \"orders\"?",
    );
    check_status(
        door.delete("ordres").await,
        NotFound,
        "UNKNOWN_TOPIC",
        unknown,
        "did you mean \"orders\"?",
    );
    check_status(
        door.delete("__catalog").await,
        PermissionDenied,
        "INTERNAL_TOPIC",
        internal,
        "the broker's own",
    );
    check_status(
        door.alter("__catalog", &[("segment.ms", "1s")]).await,
        PermissionDenied,
        "INTERNAL_TOPIC",
        internal,
        "the broker's own",
    );
    let both = [("segment.ms", "1h"), ("durability", "maybe")];
    check_status(
        door.alter("orders", &both).await,
        InvalidArgument,
        "INVALID_SETTING",
        &[("name", "durability")],
        "takes fsync",
    );
    let both = [("segment.ms", "1h"), ("segment.milli", "")];
    check_status(
        door.alter("orders", &both).await,
        InvalidArgument,
        "UNKNOWN_SETTING",
        &[("name", "segment.milli")],
        "segment.ms",
    );
    let describe = v1::DescribeTopicRequest { name: "ordres".to_owned() };
    let answer = soon(door.admin.clone().describe_topic(describe)).await;
    check_status(answer, NotFound, "UNKNOWN_TOPIC", unknown, "did you mean \"orders\"?");
    for (partitions, metadata) in [
        (1, [("topic", "orders"), ("found", "2")]),
        (2, [("topic", "orders"), ("found", "2")]),
        (10_001, [("found", "10001"), ("max", "10000")]),
    ] {
        let request = v1::AddPartitionsRequest { name: "orders".to_owned(), partitions };
        let answer = soon(door.admin.clone().add_partitions(request)).await;
        check_status(answer, InvalidArgument, "INVALID_PARTITION_COUNT", &metadata, "give ");
    }
    assert_eq!(door.describe("orders").await.topic, Some(before), "all or none");
}

#[tokio::test]
async fn a_topic_has_room_for_so_many_partitions() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("orders", 1).await;
    // Refused before a file is made.
    let (name, settings) = ("all".to_owned(), settings_of(&[]));
    let request = v1::CreateTopicRequest { name, partitions: u32::MAX, settings };
    let answer = soon(door.admin.clone().create_topic(request)).await;
    check_status(
        answer,
        Code::InvalidArgument,
        "INVALID_PARTITION_COUNT",
        &[("found", "*"), ("max", "10000")],
        "give 1 to",
    );
}

#[tokio::test]
async fn requests_that_make_no_sense() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("orders", 1).await;
    #[track_caller]
    fn check<T>(answer: Result<T, tonic::Status>, says: &str) {
        check_status(answer, Code::InvalidArgument, "INVALID_REQUEST", &[], says);
    }
    let mut log = door.log.clone();
    let one = produce_batch("orders", 0, batch(&["x"]));
    check(log.produce(v1::ProduceRequest::default()).await, "send at least one");
    let many = v1::ProduceRequest { batches: vec![one.clone(); 1_001], acks: 0 };
    check(log.produce(many).await, "send several requests");
    let acks = v1::ProduceRequest { batches: vec![one.clone()], acks: 5 };
    check(log.produce(acks).await, "ACKS_NONE");
    check(log.fetch(v1::FetchRequest::default()).await, "name at least one");
    let partition = fetch_request("orders", 0, 0).partitions.remove(0);
    let many = v1::FetchRequest { partitions: vec![partition; 1_001], ..Default::default() };
    check(log.fetch(many).await, "send several");
    check(log.list_offsets(v1::ListOffsetsRequest::default()).await, "1 to 1,000 queries");
    let query = v1::OffsetQuery { topic: "orders".to_owned(), partition: 0, position: None };
    let answer = log.list_offsets(v1::ListOffsetsRequest { queries: vec![query] }).await;
    let result = answer.expect("it answers").into_inner().results.remove(0);
    check_error(result.error.as_ref(), "INVALID_REQUEST", &[], "say earliest, latest");

    let mut pipe = Pipe::open(&door).await;
    pipe.send(0, one);
    check(pipe.try_next().await, "numbered from 1");
    let mut feed = Feed::open(&door).await;
    let without = crate::pipe::subscribe(1, "orders", 0, EARLIEST);
    let without = v1::Subscribe { position: None, ..without };
    feed.say(v1::consume_request::Command::Subscribe(without));
    let refused = loop {
        // A heartbeat may be on its way.
        match soon(feed.events.message()).await {
            Ok(event) => assert!(event.is_some(), "the stream ended without a word"),
            Err(status) => break status,
        }
    };
    check(Err::<(), _>(refused), "say earliest, latest");
    assert!(door.values("orders").await.is_empty());
}

#[tokio::test]
async fn commands_about_subscriptions_that_make_no_sense() {
    use v1::consume_request::Command;
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("orders", 1).await;
    let mut feed = Feed::on(&door, "orders", EARLIEST, 1 << 20).await;
    assert_eq!(feed.subscribed().await.subscription, 1);
    let position = Some(v1::Position { at: Some(EARLIEST) });
    let seek = |subscription, new_subscription| {
        Command::Seek(v1::Seek { subscription, new_subscription, position })
    };
    let subscribe =
        |number| Command::Subscribe(crate::pipe::subscribe(number, "orders", 0, EARLIEST));
    let cases = [
        (subscribe(1), 1, "take another one"),
        (Command::Pause(v1::Pause { subscription: 9 }), 9, "no such subscription"),
        (Command::Resume(v1::Resume { subscription: 9 }), 9, "no such subscription"),
        (seek(9, 10), 9, "no such subscription"),
        (seek(1, 1), 1, "take another one"),
    ];
    for (command, subscription, says) in cases {
        feed.say(command);
        let failure = feed.failure().await;
        assert_eq!(failure.subscription, subscription);
        check_error(failure.error.as_ref(), "INVALID_SUBSCRIPTION", &[], says);
    }
    // None of them has ended the subscription that there is.
    door.append("orders", &["x"]).await;
    assert_eq!(feed.values(0, 1).await, ["x"]);
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_and_the_connection_lives() {
    let broker = Broker::with(&["max_request_bytes=2MiB"]);
    let door = Door::open(&broker).await;
    let too_large = [("max.batch.bytes", "2MiB")];
    let name = [("name", "max.batch.bytes")];
    let says = "does not fit into a request of 2097152 bytes";
    let refused = door.try_create("orders", 1, &too_large).await;
    check_status(refused, Code::InvalidArgument, "INVALID_SETTING", &name, says);
    door.create("orders", 1).await;
    let refused = door.alter("orders", &too_large).await;
    check_status(refused, Code::InvalidArgument, "INVALID_SETTING", &name, says);
    let large = "x".repeat(2 << 20);
    let batches = vec![produce_batch("orders", 0, batch(&[&large]))];
    let mut log = door.log.clone();
    let request = v1::ProduceRequest { batches: batches.clone(), acks: 0 };
    let refused = soon(log.produce(request)).await.expect_err("too large");
    assert!(refused.message().contains("2097152"), "{refused:?}");

    let mut pipe = Pipe::open(&door).await;
    pipe.send(1, produce_batch("orders", 0, batch(&["before"])));
    assert_eq!(pipe.next().await.0, 1);
    pipe.send(2, batches[0].clone());
    let refused = pipe.try_next().await.expect_err("the stream says why it ends");
    assert!(refused.message().contains("2097152"), "{refused:?}");
    door.append("orders", &["after"]).await;
    assert_eq!(door.values("orders").await, ["before", "after"]);
}
