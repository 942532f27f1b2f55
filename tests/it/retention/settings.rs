//! Settings that belong together: what follows from them, and what contradicts them.

use tonic::Code;

use crate::broker::Broker;
use crate::door::{Door, check_status};

/// What a topic says itself, and two words about it.
type Case = (&'static [(&'static str, &'static str)], &'static str, &'static str);

/// A setting of topic `t`, and whether it is not the topic's own.
async fn setting(door: &Door, name: &str) -> (String, bool) {
    let settings = door.describe("t").await.topic.expect("a topic").settings;
    let found = settings.into_iter().find(|setting| setting.name == name).expect("every setting");
    (found.value, found.is_default)
}

#[tokio::test]
async fn segments_are_an_eighth_of_what_is_kept_where_the_topic_does_not_say() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("t", 1).await;
    let cases: &[Case] = &[
        (&[], "1GiB", "none"),
        (&[("retention.bytes", "800MiB")], "100MiB", "none"),
        (&[("retention.bytes", "1TiB")], "1GiB", "none"),
        // As large as a batch may be, at the least.
        (&[("retention.bytes", "2MiB")], "1MiB", "none"),
        (&[("retention.bytes", "256KiB"), ("max.batch.bytes", "4KiB")], "64KiB", "none"),
        (&[("retention.bytes", "64KiB")], "1MiB", "none"),
        (&[("retention.bytes", "none")], "1GiB", "none"),
        (&[("retention.ms", "8d")], "1GiB", "1d"),
        (&[("retention.ms", "1h")], "1GiB", "450s"),
        (&[("retention.ms", "3s")], "1GiB", "1s"),
        (&[("retention.ms", "9000")], "1GiB", "1125ms"),
        (&[("retention.ms", "none")], "1GiB", "none"),
        (&[("retention.ms", "16h"), ("retention.bytes", "80GiB")], "1GiB", "2h"),
        (&[("cleanup", "both"), ("retention.bytes", "80MiB")], "10MiB", "none"),
        (&[("cleanup", "compact")], "64MiB", "none"),
    ];
    for (settings, bytes, age) in cases {
        door.alter("t", settings).await.expect("it can be");
        let expected = ((*bytes).to_owned(), true);
        assert_eq!(setting(&door, "segment.bytes").await, expected, "{settings:?}");
        let expected = ((*age).to_owned(), true);
        assert_eq!(setting(&door, "segment.ms").await, expected, "{settings:?}");
        // What the topic says itself counts.
        let own = [("segment.bytes", "64KiB"), ("max.batch.bytes", "4KiB"), ("segment.ms", "1s")];
        door.alter("t", &own).await.expect("it can be");
        assert_eq!(setting(&door, "segment.bytes").await, ("64KiB".to_owned(), false));
        assert_eq!(setting(&door, "segment.ms").await, ("1s".to_owned(), false));
        let none: Vec<_> = settings.iter().chain(&own).map(|(name, _)| (*name, "")).collect();
        door.alter("t", &none).await.expect("it can be");
    }
}

#[tokio::test]
async fn settings_that_contradict_each_other_are_refused_by_name_and_change_nothing() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    let kept = [("retention.ms", "1h"), ("retention.bytes", "4MiB")];
    door.create_with("t", 1, &kept).await;
    let before = door.describe("t").await.topic;
    let cases: &[Case] = &[
        (&[("segment.bytes", "5MiB")], "segment.bytes", "(5242880) is larger than retention.bytes"),
        (&[("segment.ms", "2h")], "segment.ms", "(7200000) is longer than retention.ms (3600000)"),
        (&[("cleanup", "compact")], "retention.ms", "cleanup=both"),
        (&[("cleanup", "compact"), ("retention.ms", "")], "retention.bytes", "cleanup=both"),
        (&[("segment.bytes", "64KiB")], "segment.bytes", "raise segment.bytes"),
        (&[("retention.bytes", "63KiB")], "retention.bytes", "at least 64KiB"),
        (&[("retention.bytes", "much")], "retention.bytes", "`none`"),
        (&[("retention.ms", "999")], "retention.ms", "at least 1s"),
        (&[("retention.ms", "-1")], "retention.ms", "a duration"),
        (&[("cleanup", "compact,delete")], "cleanup", "delete | compact | both"),
    ];
    for (settings, name, says) in cases {
        let metadata = [("name", *name)];
        let altered = door.alter("t", settings).await;
        check_status(altered, Code::InvalidArgument, "INVALID_SETTING", &metadata, says);
        let mut all: std::collections::BTreeMap<_, _> = kept.into_iter().collect();
        all.extend(settings.iter().copied());
        let all: Vec<_> = all.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let created = door.try_create("u", 1, &all).await;
        check_status(created, Code::InvalidArgument, "INVALID_SETTING", &metadata, says);
    }
    assert_eq!(door.describe("t").await.topic, before);
    check_status(
        door.alter("u", &[]).await,
        Code::NotFound,
        "UNKNOWN_TOPIC",
        &[("topic", "u")],
        "no topic",
    );
    // One batch may be larger than what is kept.
    let large = [("retention.bytes", "64KiB"), ("max.batch.bytes", "8MiB")];
    door.create_with("large", 1, &large).await;
}
