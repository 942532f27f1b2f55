//! The state machine of groups against members that lag behind, by chance and by tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use taffrail_model::{PartitionIndex, Timestamp, TopicId};

use super::assign::{Assignor, Wishes};
use super::catalogue::Catalogue;
use super::command::{Command, CommandKind, GroupRefusal, OwnCommit, Reply};
use super::event::{Commit, Profile, Slot};
use super::state::{Group, Registry};
use crate::coordinator::StateMachine;

const GROUP: &str = "billing";
const NOW: Timestamp = Timestamp::from_millis(5);

fn slot(topic: u8, partition: u32) -> Slot {
    Slot(TopicId::new([topic; 12]).log(PartitionIndex::new(partition)))
}

fn slots(topic: u8, partitions: u32) -> BTreeSet<Slot> {
    (0..partitions).map(|partition| slot(topic, partition)).collect()
}

fn profile(topics: &[&str], instance: &str) -> Profile {
    let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
    Profile { topics, instance: instance.to_owned(), ..Profile::default() }
}

fn commit(slot: Slot, offset: u64) -> Commit {
    Commit { slot, offset, metadata: "m".to_owned() }
}

/// A group, and what each of its members believes that it may read.
#[derive(Default)]
struct Bench {
    registry: Registry,
    topics: BTreeMap<String, (u8, u32)>,
    /// What each process reads and the epoch that it has heard of, those included that are no members
    /// any more and do not know it.
    reading: BTreeMap<String, (u32, BTreeSet<Slot>)>,
    /// What members have said, and nobody has heard yet.
    late: Vec<(String, u32, BTreeSet<Slot>)>,
}

impl Bench {
    fn with_topics(topics: &[(&str, u8, u32)]) -> Self {
        let topics = topics.iter().map(|(name, id, count)| ((*name).to_owned(), (*id, *count)));
        Self { topics: topics.collect(), ..Self::default() }
    }

    fn catalogue(&self) -> Catalogue {
        let topics = self.topics.iter();
        Catalogue::new(
            topics.map(|(name, (id, count))| (name.clone(), TopicId::new([*id; 12]), *count)),
        )
    }

    fn submit(&mut self, kind: CommandKind) -> Result<(Reply, usize), GroupRefusal> {
        let topics = Arc::new(ArcSwap::from_pointee(self.catalogue()));
        self.command(Command::Of { group: GROUP.to_owned(), kind, topics })
    }

    fn follow(&mut self) {
        let topics = Arc::new(ArcSwap::from_pointee(self.catalogue()));
        self.command(Command::Follow { topics }).expect("it follows");
    }

    /// Whoever is not told of a change sees none.
    fn command(&mut self, command: Command) -> Result<(Reply, usize), GroupRefusal> {
        let before = self.registry.clone();
        let (reply, events) = self.registry.decide(command, NOW)?;
        for event in &events {
            // What is persisted is what is applied.
            let text = serde_json::to_string(event).expect("it can be written");
            let read = serde_json::from_str(&text).expect("it can be read");
            assert_eq!(*event, read);
            self.registry.apply(&read);
        }
        let told: BTreeSet<_> = reply.changes.iter().flat_map(|change| &change.members).collect();
        if let (Some(before), Some(after)) = (before.get(GROUP), self.registry.get(GROUP)) {
            for member in after.members().keys().filter(|member| !told.contains(member)) {
                let (before, after) = (before.view(member), after.view(member));
                assert_eq!(before.assigned, after.assigned, "{member} was not told");
                assert_eq!(before.awaited, after.awaited, "{member} was not told");
            }
        }
        Ok((reply, events.len()))
    }

    fn group(&self) -> &Group {
        self.registry.get(GROUP).expect("it is there")
    }

    fn assigned(&self, member: &str) -> BTreeSet<Slot> {
        self.group().view(member).assigned.into_keys().collect()
    }

    fn join(&mut self, member: &str, topics: &[&str]) {
        let (member, profile) = (member.to_owned(), profile(topics, ""));
        let join = CommandKind::Join { member, profile, assignor: None, is_back: false };
        self.submit(join).expect("it joins");
    }

    fn leave(&mut self, member: &str) {
        self.submit(CommandKind::Leave { member: member.to_owned() }).expect("it leaves");
        self.reading.remove(member);
    }

    /// A member hears what it is assigned, stops all else, and says so.
    fn hear(&mut self, member: &str) {
        self.hear_only(member);
        self.say(member);
    }

    /// A member hears what it is assigned, and stops all else.
    fn hear_only(&mut self, member: &str) {
        let assigned = self.assigned(member);
        self.reading.insert(member.to_owned(), (self.group().epoch(), assigned));
    }

    /// A member says what it reads, as far as it has heard.
    fn say(&mut self, member: &str) {
        let (epoch, kept) = self.reading.get(member).cloned().unwrap_or_default();
        let release = CommandKind::Release { member: member.to_owned(), epoch, kept };
        self.submit(release).expect("it is a member");
    }

    /// A member says what it reads, and that takes its time.
    fn say_later(&mut self, member: &str) {
        let (epoch, kept) = self.reading.get(member).cloned().unwrap_or_default();
        self.late.push((member.to_owned(), epoch, kept));
    }

    /// Something arrives that was said before.
    fn hear_late(&mut self, index: usize) {
        let (member, epoch, kept) = self.late.swap_remove(index);
        // Whoever said it may have gone since.
        drop(self.submit(CommandKind::Release { member, epoch, kept }));
    }

    fn settle(&mut self) {
        for _ in 0..3 {
            let members: Vec<_> = self.group().members().keys().cloned().collect();
            for member in &members {
                self.hear(member);
            }
        }
    }

    fn check(&self) {
        let mut readers: BTreeMap<Slot, &String> = BTreeMap::new();
        for (member, (_, slots)) in &self.reading {
            for slot in slots {
                let other = readers.insert(*slot, member);
                assert_eq!(other, None, "{slot:?} is read by {member} too");
            }
        }
        let Some(group) = self.registry.get(GROUP) else { return };
        for (slot, owner) in group.owners() {
            assert!(group.members().contains_key(&owner.member), "{slot:?}: {owner:?}");
            assert!(owner.since <= group.epoch());
        }
        for (slot, reader) in readers {
            let owner = group.owners().get(&slot).expect("what is read is owned");
            assert_eq!(owner.member, *reader, "{slot:?}");
        }
        for (slot, target) in group.target() {
            assert!(
                group.owners().contains_key(slot),
                "{slot:?} is {target}'s, and nobody owns it"
            );
        }
    }

    /// After everybody has heard everything.
    fn check_settled(&self) {
        let (group, catalogue) = (self.group(), self.catalogue());
        for (member, profile) in group.members() {
            let wanted = catalogue.slots(&profile.topics);
            let (_, reading) = &self.reading[member];
            assert!(reading.is_subset(&wanted), "{member} reads what it does not want");
            assert!(wanted.iter().all(|it| group.owners().contains_key(it)), "one is left over");
            assert_eq!(*reading, self.assigned(member));
            assert!(group.view(member).awaited.is_empty());
        }
        let read: usize = self.reading.values().map(|(_, slots)| slots.len()).sum();
        assert_eq!(read, group.owners().len());
    }

    fn counts(&self) -> Vec<usize> {
        self.reading.values().map(|(_, slots)| slots.len()).collect()
    }

    /// How many partitions members have lost since, but for one of them.
    fn lost_since(&self, before: &BTreeMap<String, (u32, BTreeSet<Slot>)>, but: &str) -> usize {
        let others = before.iter().filter(|(member, _)| *member != but);
        others.map(|(member, (_, had))| had.difference(&self.reading[member].1).count()).sum()
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[test]
fn whoever_comes_and_goes_a_partition_has_one_reader_and_none_is_left_over() {
    for seed in 1..=600 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut bench = Bench::with_topics(&[("a", 1, 7), ("b", 2, 3), ("c", 3, 1)]);
        let mut number = 0;
        for _ in 0..dice.below(80) {
            let members: Vec<_> = bench
                .registry
                .get(GROUP)
                .map_or_else(Vec::new, |it| it.members().keys().cloned().collect());
            let somebody = members.get(dice.below(members.len().max(1) as u64) as usize).cloned();
            let topics = [&["a"][..], &["a", "b"], &["?"], &["a", "b", "c"]];
            let topics = topics[dice.below(4) as usize];
            match (dice.below(12), somebody) {
                (0 | 1, _) | (_, None) => {
                    number += 1;
                    bench.join(&format!("m{number}"), topics);
                }
                (2, Some(member)) => bench.leave(&member),
                (3, Some(member)) => bench.join(&member, topics),
                (4, Some(_)) => {
                    let name = ["a", "b", "c"][dice.below(3) as usize];
                    let more = 1 + dice.below(12) as u32;
                    let (_, partitions) = bench.topics.get_mut(name).expect("a topic");
                    *partitions = more.max(*partitions);
                    bench.follow();
                }
                (5, Some(member)) => {
                    // A process of the same instance takes over, if it has one; else everything moves.
                    let assignor = [Assignor::Range, Assignor::UniformSticky];
                    let assignor = Some(assignor[dice.below(2) as usize]);
                    let profile = profile(topics, "");
                    let join = CommandKind::Join { member, profile, assignor, is_back: true };
                    bench.submit(join).expect("it is a member");
                }
                (6, Some(member)) => {
                    bench.hear_only(&member);
                    bench.say_later(&member);
                }
                (7, Some(_)) if !bench.late.is_empty() => {
                    bench.hear_late(dice.below(bench.late.len() as u64) as usize);
                }
                (7, Some(member)) => bench.hear_only(&member),
                (8, Some(member)) => bench.say(&member),
                (_, Some(member)) => bench.hear(&member),
            }
            bench.check();
        }
        if bench.registry.get(GROUP).is_some() {
            bench.settle();
            bench.check();
            bench.check_settled();
        }
        let snapshot = serde_json::to_string(&bench.registry).expect("it can be written");
        assert_eq!(bench.registry, serde_json::from_str(&snapshot).expect("it can be read"));
    }
}

#[test]
fn those_who_want_the_same_have_equally_many_and_only_what_must_move_does() {
    for partitions in [1, 5, 16, 100] {
        let mut bench = Bench::with_topics(&[("a", 1, partitions)]);
        for members in 1..=12_u32 {
            let before = bench.reading.clone();
            bench.join(&format!("m{members}"), &["a"]);
            bench.settle();
            bench.check_settled();
            let counts = bench.counts();
            let spread = counts.iter().max().map(|max| max - counts.iter().min().unwrap_or(max));
            assert!(spread <= Some(1), "{counts:?}");
            let lost = bench.lost_since(&before, "") as u32;
            assert_eq!(lost, partitions / members * u32::from(members > 1), "{members} members");
        }
        let gone = bench.reading["m3"].1.len();
        let before = bench.reading.clone();
        bench.leave("m3");
        bench.settle();
        bench.check_settled();
        let lost = bench.lost_since(&before, "m3");
        assert!(lost <= 1, "{lost} moved that were not the one's who left with {gone}");
    }
}

#[test]
fn a_partition_is_given_on_once_it_was_released_and_what_its_former_owner_says_does_not_count() {
    let mut bench = Bench::with_topics(&[("a", 1, 2)]);
    bench.join("one", &["a"]);
    bench.hear("one");
    let early = bench.group().epoch();
    bench.join("two", &["a"]);
    assert_eq!(bench.assigned("two"), BTreeSet::new(), "nothing was released yet");
    let kept = bench.assigned("one");
    let moved = *slots(1, 2).difference(&kept).next().expect("one moves");
    assert_eq!(bench.group().view("two").awaited, BTreeMap::from([(moved, "one".to_owned())]));
    let refused = |bench: &mut Bench, member: &str, slot: Slot, epoch: u32| {
        let offsets = vec![OwnCommit { commit: commit(slot, 7), epoch }];
        let (reply, events) =
            bench.submit(CommandKind::Commit { by: Some(member.to_owned()), offsets })?;
        assert_eq!(events + reply.refused.len(), 1);
        Ok::<_, GroupRefusal>(!reply.refused.is_empty())
    };
    // What it has done before it stops still counts.
    assert_eq!(refused(&mut bench, "one", moved, early), Ok(false));
    bench.hear("one");
    assert_eq!(bench.assigned("two"), BTreeSet::from([moved]));
    let since = bench.group().owners()[&moved].since;
    assert!(early < since);
    assert_eq!(refused(&mut bench, "one", moved, early), Ok(true));
    assert_eq!(refused(&mut bench, "one", moved, since), Ok(true));
    assert_eq!(refused(&mut bench, "two", moved, early), Ok(true));
    assert_eq!(refused(&mut bench, "two", moved, since + 1), Ok(true), "it has no such epoch");
    assert_eq!(refused(&mut bench, "two", moved, since), Ok(false));
    assert_eq!(refused(&mut bench, "one", *kept.first().expect("one"), early), Ok(false));
    bench.leave("two");
    let unknown = GroupRefusal::UnknownMember { group: GROUP.into(), member: "two".into() };
    assert_eq!(refused(&mut bench, "two", moved, since), Err(unknown));
    assert_eq!(bench.group().committed()[&moved].offset, 7);
}

#[test]
fn whoever_says_something_late_releases_nothing_that_it_had_not_heard_of() {
    let mut bench = Bench::with_topics(&[("a", 1, 2)]);
    bench.join("one", &["a"]);
    bench.join("two", &["a"]);
    bench.hear("two");
    let (early, nothing) = (bench.group().epoch(), BTreeSet::new());
    bench.leave("one");
    bench.hear("two");
    assert_eq!(bench.assigned("two"), slots(1, 2));
    // Now the first one is to have one of them again, and the second one still reads both.
    bench.join("one", &["a"]);
    let late = CommandKind::Release { member: "two".into(), epoch: early, kept: nothing };
    bench.submit(late).expect("it is a member");
    bench.check();
    assert_eq!(bench.assigned("one"), BTreeSet::new());
    bench.hear("two");
    assert_eq!(bench.assigned("one").len(), 1);
}

#[test]
fn an_instance_that_comes_back_has_what_it_had_and_fences_the_process_before_it() {
    let mut bench = Bench::with_topics(&[("a", 1, 4)]);
    let join = |member: &str, instance: &str, is_back: bool| CommandKind::Join {
        member: member.to_owned(),
        profile: profile(&["a"], instance),
        assignor: None,
        is_back,
    };
    bench.submit(join("p1", "left", false)).expect("it joins");
    bench.submit(join("p2", "right", false)).expect("it joins");
    bench.settle();
    let (had, others) = (bench.assigned("p1"), bench.assigned("p2"));
    let epoch = bench.group().epoch();
    bench.submit(join("p3", "left", false)).expect("it goes on");
    assert_eq!((bench.assigned("p3"), bench.assigned("p2")), (had.clone(), others));
    let offsets = vec![OwnCommit { commit: commit(*had.first().expect("one"), 1), epoch }];
    let by = |member: &str| CommandKind::Commit {
        by: Some(member.to_owned()),
        offsets: offsets.clone(),
    };
    bench.submit(by("p1")).expect_err("fenced");
    let (reply, _) = bench.submit(by("p3")).expect("it is a member");
    assert_eq!(reply.refused.len(), 1, "it was another process's in that epoch");
    let fenced = GroupRefusal::FencedInstance {
        group: GROUP.into(),
        member: "p1".into(),
        instance: "left".into(),
    };
    assert_eq!(bench.submit(join("p1", "left", true)).expect_err("fenced"), fenced);
    assert_eq!(bench.assigned("p3"), had);
}

#[test]
fn a_group_with_members_is_changed_from_outside_only_by_force_and_then_they_begin_anew() {
    let mut bench = Bench::with_topics(&[("a", 1, 4)]);
    bench.join("one", &["a"]);
    let offsets = vec![commit(slot(1, 0), 7)];
    let reset = |is_forced| CommandKind::Reset { offsets: offsets.clone(), is_forced };
    let has_members = GroupRefusal::HasMembers { group: GROUP.to_owned(), members: 1 };
    assert_eq!(bench.submit(reset(false)).expect_err("refused"), has_members);
    assert_eq!(bench.submit(CommandKind::Delete).expect_err("refused"), has_members);
    let outside = CommandKind::Commit {
        by: None,
        offsets: vec![OwnCommit { commit: commit(slot(1, 0), 9), epoch: 0 }],
    };
    assert_eq!(bench.submit(outside.clone()).expect_err("refused"), has_members);
    let before = bench.group().view("one").assigned;
    let (reply, _) = bench.submit(reset(true)).expect("it is forced");
    assert!(reply.changes[0].members.contains("one"));
    let after = bench.group().view("one").assigned;
    let differ = |slot: &&Slot| before[*slot] != after[*slot];
    assert_eq!(before.keys().filter(differ).collect::<Vec<_>>(), [&slot(1, 0)]);
    bench.leave("one");
    bench.submit(outside).expect("nobody is in it");
    assert_eq!(bench.group().committed()[&slot(1, 0)].offset, 9);
    bench.submit(CommandKind::Delete).expect("nobody is in it");
    let unknown = GroupRefusal::UnknownGroup { group: GROUP.to_owned() };
    assert_eq!(bench.submit(CommandKind::Delete).expect_err("refused"), unknown);
}

#[test]
fn what_was_committed_goes_with_its_topic_and_groups_that_nobody_uses_go() {
    let mut bench = Bench::with_topics(&[("a", 1, 1), ("b", 2, 1)]);
    let offsets =
        [slot(1, 0), slot(2, 0)].map(|slot| OwnCommit { commit: commit(slot, 7), epoch: 0 });
    bench.submit(CommandKind::Commit { by: None, offsets: offsets.into() }).expect("it commits");
    bench.topics.remove("a");
    bench.follow();
    assert_eq!(bench.group().committed().keys().collect::<Vec<_>>(), [&slot(2, 0)]);
    bench.join("one", &["b"]);
    bench.command(Command::Expire { before: Timestamp::from_millis(99) }).expect("it expires");
    assert!(bench.registry.get(GROUP).is_some(), "somebody is in it");
    bench.leave("one");
    bench.command(Command::Expire { before: NOW }).expect("it expires");
    assert!(bench.registry.get(GROUP).is_some(), "it was in use just now");
    bench.command(Command::Expire { before: Timestamp::from_millis(6) }).expect("it expires");
    assert_eq!(bench.registry, Registry::default());
}

#[test]
fn patterns_take_what_comes_later_but_nothing_of_the_broker_s_own() {
    let mut bench = Bench::with_topics(&[("orders.eu", 1, 1), ("__x", 9, 1)]);
    bench.join("one", &["orders.*", "*"]);
    assert_eq!(bench.assigned("one"), slots(1, 1));
    bench.topics.insert("orders.us".to_owned(), (2, 2));
    bench.follow();
    assert_eq!(bench.assigned("one"), slots(1, 1).union(&slots(2, 2)).copied().collect());
}

#[test]
fn ranges_keep_partitions_of_one_number_together() {
    let (a, b) = (slots(1, 6), slots(2, 6));
    let mut wishes = Wishes::default();
    wishes.add(["m1", "m2"], a.union(&b).copied().collect());
    wishes.add(["m3"], a);
    let owners = Assignor::Range.assign(&wishes, &BTreeMap::new());
    let of = |topic, partition| owners[&slot(topic, partition)].as_str();
    assert_eq!([0, 1, 2, 3, 4, 5].map(|it| of(1, it)), ["m1", "m1", "m2", "m2", "m3", "m3"]);
    assert_eq!([0, 1, 2, 3, 4, 5].map(|it| of(2, it)), ["m1", "m1", "m1", "m2", "m2", "m2"]);
}
