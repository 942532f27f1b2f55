//! Whatever members do, in whatever order: a partition is never named to two at a time.

use std::collections::BTreeMap;

use super::{Member, Places, describe, given};

const PARTITIONS: u32 = 7;
const MEMBERS: usize = 5;
const STEPS: usize = 400;

/// Numbers that look random, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_is_never_named_to_two_members_at_a_time() {
    for seed in 1..=3_u64 {
        println!("seed {seed}");
        run(Dice(0x9e37_79b9_7f4a_7c15 ^ seed)).await;
    }
}

/// Lets members come, go, hear and release by chance. What each reads, and has not said that it does
/// not, nobody else may be told to read.
async fn run(mut dice: Dice) {
    let (_broker, door) = given(PARTITIONS).await;
    let mut reading: BTreeMap<usize, (Member, Places)> = BTreeMap::new();
    let mut joined = 0;
    for step in 0..STEPS {
        let index = dice.below(MEMBERS as u64) as usize;
        let Some((mut member, mut reads)) = reading.remove(&index) else {
            joined += 1;
            let member = Member::joined(&door, &format!("m{index}-{joined}"), &["t"]).await;
            let places = member.places();
            reading.insert(index, (member, places));
            check(&reading, step);
            continue;
        };
        match dice.below(8) {
            0 => {
                member.leave().await;
                check(&reading, step);
                continue;
            }
            1 => {
                // It hears, and says nothing of what it reads.
                member.beat().await;
                reads.extend(member.places());
            }
            2 | 3 => {
                // It says what it reads, all of it.
                member.read_only(&reads).await;
                reads.extend(member.places());
            }
            _ => {
                // It stops reading some of what it is not to read any more.
                let over: Vec<_> = reads.difference(&member.places()).cloned().collect();
                for place in over {
                    if dice.below(2) == 0 {
                        reads.remove(&place);
                    }
                }
                member.read_only(&reads).await;
                reads.extend(member.places());
            }
        }
        reading.insert(index, (member, reads));
        check(&reading, step);
    }
    // Once everybody has heard and said all, everything is shared out evenly.
    for _ in 0..2 {
        for (member, reads) in reading.values_mut() {
            member.settle().await;
            *reads = member.places();
        }
    }
    check(&reading, STEPS);
    let all: usize = reading.values().map(|(_, reads)| reads.len()).sum();
    let described = describe(&door, "g").await.expect("it is there");
    assert_eq!(described.members.len(), reading.len());
    if !reading.is_empty() {
        assert_eq!(all, PARTITIONS as usize);
        let sizes = reading.values().map(|(_, reads)| reads.len());
        let (least, most) = (sizes.clone().min().unwrap_or(0), sizes.max().unwrap_or(0));
        assert!(most - least <= 1, "{reading:?}", reading = brief(&reading));
        assert!(described.partitions.iter().all(|it| it.next_owner.is_empty()), "{described:?}");
    }
}

#[track_caller]
fn check(reading: &BTreeMap<usize, (Member, Places)>, step: usize) {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (member, reads) in reading.values() {
        for place in reads {
            if let Some(other) = seen.insert(place, &member.id) {
                panic!("step {step}: {place} is read by {other} and {}", member.id);
            }
        }
    }
}

fn brief(reading: &BTreeMap<usize, (Member, Places)>) -> Vec<(&str, &Places)> {
    reading.values().map(|(member, reads)| (member.id.as_str(), reads)).collect()
}
