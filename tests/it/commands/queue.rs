//! `taffrail queue`.

use serde_json::json;

use super::taffrail;
use crate::broker::Broker;
use crate::door::Door;

#[tokio::test]
async fn a_queue_is_worked_on_looked_at_and_put_right_by_hand() {
    let broker = Broker::new();
    let door = Door::open(&broker).await;
    door.create("orders", 1).await;
    door.append("orders", &["good", "bad", "worse"]).await;
    let flags =
        ["--lease", "20s", "--max-attempts", "2", "--backoff", "10ms..1s", "--order", "per-key"];
    let create = [&["queue", "create", "q", "--topic", "orders"][..], &flags].concat();
    assert_eq!(taffrail(&broker, &create).success().trim(), "created q");
    let handle = "read line; case $line in bad) exit 1;; worse) echo no use >&2; exit 2;; esac";
    // Three records, one of them twice.
    let receive = ["queue", "receive", "q", "--exec", handle, "--count", "4"];
    let received = taffrail(&broker, &receive);
    assert!(received.errors.contains("4 records received, 0 of them"), "{}", received.errors);
    let described = taffrail(&broker, &["queue", "describe", "q", "--output", "json"]).json();
    assert_eq!(described["settings"]["lease_ms"], json!(20_000), "{described}");
    assert_eq!(
        (&described["idle"], &described["partitions"][0]["parked"]),
        (&json!("EMPTY"), &json!(2))
    );
    let parked = taffrail(&broker, &["queue", "parked", "q", "--output", "json"]).json();
    let reasons = parked["records"].as_array().expect("a list").iter();
    let reasons: Vec<_> = reasons.map(|it| (&it["id"], &it["value"], &it["reason"])).collect();
    let (bad, worse) = (json!("bad"), json!("worse"));
    assert_eq!(
        reasons,
        [
            (&json!("0/1"), &bad, &json!("failed at attempt 2")),
            (&json!("0/2"), &worse, &json!("no use")),
        ]
    );
    let chosen = taffrail(&broker, &["queue", "parked", "q", "--reason", "use"]).success();
    assert!(chosen.contains("0/2") && !chosen.contains("0/1"), "{chosen}");
    taffrail(&broker, &["queue", "redrive", "q", "0/2", "--rate", "100/s"]).success();
    assert_eq!(taffrail(&broker, &["queue", "receive", "q", "--count", "1"]).success(), "worse\n");
    taffrail(&broker, &["queue", "discard", "q", "--all"]).success();
    taffrail(&broker, &["queue", "redrive", "q", "0/1"]).check(1, &["none of these is parked"]);
    taffrail(&broker, &["queue", "alter", "q", "--max-attempts", "7"]).success();
    let described = taffrail(&broker, &["queue", "describe", "q"]).success();
    assert!(
        described.contains("7 attempts") && described.contains("all is settled"),
        "{described}"
    );
    assert!(taffrail(&broker, &["queue", "list"]).success().contains("orders"));
    taffrail(&broker, &["queue", "delete", "q"]).success();
    taffrail(&broker, &["queue", "receive", "q"]).check(3, &["no queue \"q\"", "create it first"]);
    taffrail(&broker, &["queue", "create", "q", "--topic", "orders", "--backoff", "1s"])
        .check(2, &["1s..10m"]);
}
