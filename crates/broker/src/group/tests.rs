//! The state machine of groups against members that lag behind, by chance and by tables.

use std::collections::{BTreeMap, BTreeSet};

use taffrail_model::{PartitionIndex, Timestamp, TopicId};

use super::assign::Assignor;
use super::event::{Commit, Profile, Slot};
use super::state::{Catalogue, Command, CommandKind, Group, GroupError, Groups};
use crate::coordinator::StateMachine;

const GROUP: &str = "billing";

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

/// A group, and what each of its members believes that it may read.
#[derive(Default)]
struct Bench {
    groups: Groups,
    topics: Catalogue,
    /// What each process reads, those included that are no members any more and do not know it.
    reading: BTreeMap<String, BTreeSet<Slot>>,
}

impl Bench {
    fn with_topics(topics: &[(&str, u8, u32)]) -> Self {
        let topics =
            topics.iter().map(|(name, id, count)| ((*name).to_owned(), slots(*id, *count)));
        Self { topics: topics.collect(), ..Self::default() }
    }

    fn submit(&mut self, kind: CommandKind) -> Result<usize, GroupError> {
        let command = Command { group: GROUP.to_owned(), kind, topics: self.topics.clone() };
        let ((), events) = self.groups.decide(command, Timestamp::from_millis(5))?;
        for event in &events {
            // What is persisted is what is applied.
            let text = serde_json::to_string(event).expect("it can be written");
            let read = serde_json::from_str(&text).expect("it can be read");
            assert_eq!(*event, read);
            self.groups.apply(&read);
        }
        Ok(events.len())
    }

    fn group(&self) -> &Group {
        self.groups.get(GROUP).expect("it is there")
    }

    fn join(&mut self, member: &str, topics: &[&str]) {
        let (member, profile) = (member.to_owned(), profile(topics, ""));
        self.submit(CommandKind::Join { member, profile }).expect("it joins");
    }

    fn leave(&mut self, member: &str) {
        self.submit(CommandKind::Leave { member: member.to_owned() }).expect("it leaves");
        self.reading.remove(member);
    }

    /// A member hears what it is assigned, stops all else, and says so.
    fn hear(&mut self, member: &str) {
        let assigned = self.group().assigned(member);
        self.reading.insert(member.to_owned(), assigned.clone());
        let keep = CommandKind::Keep { member: member.to_owned(), slots: assigned };
        self.submit(keep).expect("it is a member");
    }

    fn settle(&mut self) {
        for _ in 0..3 {
            let members: Vec<_> = self.group().members().keys().cloned().collect();
            members.iter().for_each(|member| self.hear(member));
        }
    }

    fn check(&self) {
        let mut readers: BTreeMap<Slot, &String> = BTreeMap::new();
        for (member, slots) in &self.reading {
            for slot in slots {
                let other = readers.insert(*slot, member);
                assert_eq!(other, None, "{slot:?} is read by {member} too");
            }
        }
        let group = self.group();
        for (slot, owner) in group.owners() {
            assert!(group.members().contains_key(&owner.member), "{slot:?}: {owner:?}");
            assert!(owner.since <= group.epoch());
        }
        for (slot, reader) in readers {
            let owner = group.owners().get(&slot).expect("what is read is owned");
            assert_eq!(owner.member, *reader, "{slot:?}");
        }
    }

    /// After everybody has heard everything.
    fn check_settled(&self) {
        let group = self.group();
        for (member, profile) in group.members() {
            let wanted: BTreeSet<_> =
                profile.topics.iter().flat_map(|topic| &self.topics[topic]).copied().collect();
            let reading = &self.reading[member];
            assert!(reading.is_subset(&wanted), "{member} reads what it does not want");
            assert!(wanted.iter().all(|it| group.owners().contains_key(it)), "one is left over");
            assert_eq!(*reading, group.assigned(member));
        }
        let read: usize = self.reading.values().map(BTreeSet::len).sum();
        assert_eq!(read, group.owners().len());
    }

    fn counts(&self) -> Vec<usize> {
        self.reading.values().map(BTreeSet::len).collect()
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
    for seed in 1..=400 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut bench = Bench::with_topics(&[("a", 1, 7), ("b", 2, 3), ("c", 3, 1)]);
        let mut number = 0;
        for _ in 0..dice.below(120) {
            let members: Vec<_> = bench
                .groups
                .get(GROUP)
                .map_or_else(Vec::new, |it| it.members().keys().cloned().collect());
            let somebody = members.get(dice.below(members.len().max(1) as u64) as usize).cloned();
            let topics = [&["a"][..], &["a", "b"], &["b", "c"], &["a", "b", "c"]];
            let topics = topics[dice.below(4) as usize];
            match (dice.below(10), somebody) {
                (0 | 1, _) | (_, None) => {
                    number += 1;
                    bench.join(&format!("m{number}"), topics);
                }
                (2, Some(member)) => bench.leave(&member),
                (3, Some(member)) => bench.join(&member, topics),
                (4, Some(_)) => {
                    let more = 1 + dice.below(12) as u32;
                    let name = ["a", "b", "c"][dice.below(3) as usize];
                    let id = bench.topics[name].first().map_or(1, |it| it.0.bytes()[0]);
                    let count = more.max(bench.topics[name].len() as u32);
                    bench.topics.insert(name.to_owned(), slots(id, count));
                    bench.submit(CommandKind::Look).expect("it looks");
                }
                (_, Some(member)) => bench.hear(&member),
            }
            bench.check();
        }
        if bench.groups.get(GROUP).is_some() {
            bench.settle();
            bench.check();
            bench.check_settled();
        }
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
            let lost: usize = before
                .iter()
                .map(|(member, slots)| slots.difference(&bench.reading[member]).count())
                .sum();
            assert_eq!(
                lost as u32,
                partitions / members * u32::from(members > 1),
                "{members} members"
            );
        }
        let gone = bench.reading["m3"].len();
        let before = bench.reading.clone();
        bench.leave("m3");
        bench.settle();
        bench.check_settled();
        let lost = before.iter().filter(|(member, _)| *member != "m3");
        let lost: usize =
            lost.map(|(member, slots)| slots.difference(&bench.reading[member]).count()).sum();
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
    assert_eq!(bench.group().assigned("two"), BTreeSet::new(), "nothing was released yet");
    let kept = bench.group().assigned("one");
    let moved = *slots(1, 2).difference(&kept).next().expect("one moves");
    let commit = |member: &str, epoch: u32, slot: Slot| CommandKind::Commit {
        by: Some((member.to_owned(), epoch)),
        offsets: vec![Commit { slot, offset: 7, metadata: String::new() }],
    };
    // What it has done before it stops still counts.
    assert_eq!(bench.submit(commit("one", early, moved)), Ok(1));
    bench.hear("one");
    assert_eq!(bench.group().assigned("two"), BTreeSet::from([moved]));
    let refused = bench.submit(commit("one", bench.group().epoch(), moved));
    assert!(matches!(refused, Err(GroupError::StaleMember { .. })), "{refused:?}");
    let since = bench.group().owners()[&moved].since;
    let refused = bench.submit(commit("two", since - 1, moved));
    assert!(matches!(refused, Err(GroupError::StaleMember { .. })), "{refused:?}");
    assert_eq!(bench.submit(commit("two", since, moved)), Ok(1));
    assert_eq!(bench.submit(commit("one", early, *kept.first().expect("one"))), Ok(1));
    bench.leave("two");
    let refused = bench.submit(commit("two", since, moved));
    assert!(matches!(refused, Err(GroupError::UnknownMember { .. })), "{refused:?}");
}

#[test]
fn an_instance_that_comes_back_has_what_it_had_and_fences_the_process_before_it() {
    let mut bench = Bench::with_topics(&[("a", 1, 4)]);
    let join = |member: &str, instance: &str| CommandKind::Join {
        member: member.to_owned(),
        profile: profile(&["a"], instance),
    };
    bench.submit(join("p1", "left")).expect("it joins");
    bench.submit(join("p2", "right")).expect("it joins");
    bench.settle();
    let (had, others) = (bench.group().assigned("p1"), bench.group().assigned("p2"));
    let epoch = bench.group().epoch();
    assert_eq!(bench.submit(join("p3", "left")), Ok(1));
    assert_eq!((bench.group().assigned("p3"), bench.group().assigned("p2")), (had.clone(), others));
    for (member, epoch) in [("p1", epoch), ("p1", u32::MAX), ("p3", epoch)] {
        let offsets =
            vec![Commit { slot: *had.first().expect("one"), offset: 1, metadata: String::new() }];
        let by = Some((member.to_owned(), epoch));
        bench.submit(CommandKind::Commit { by, offsets }).expect_err("fenced");
    }
}

#[test]
fn a_group_with_members_is_not_changed_from_outside() {
    let mut bench = Bench::with_topics(&[("a", 1, 4)]);
    bench.join("one", &["a"]);
    let offsets = vec![Commit { slot: slot(1, 0), offset: 7, metadata: "m".to_owned() }];
    let reset = CommandKind::Commit { by: None, offsets };
    let has_members = GroupError::HasMembers { group: GROUP.to_owned(), members: 1 };
    assert_eq!(bench.submit(reset.clone()), Err(has_members.clone()));
    assert_eq!(bench.submit(CommandKind::Delete), Err(has_members));
    bench.leave("one");
    assert_eq!(bench.submit(reset), Ok(1));
    assert_eq!(bench.group().committed()[&slot(1, 0)].offset, 7);
    assert_eq!(bench.submit(CommandKind::Delete), Ok(1));
    let unknown = GroupError::UnknownGroup(GROUP.to_owned());
    assert_eq!(bench.submit(CommandKind::Delete), Err(unknown.clone()));
    assert_eq!(bench.submit(CommandKind::Forget { slots: Vec::new() }), Err(unknown));
}

#[test]
fn ranges_keep_partitions_of_one_number_together() {
    let (a, b) = (slots(1, 6), slots(2, 6));
    let all: BTreeSet<_> = a.union(&b).copied().collect();
    let wishes = BTreeMap::from([("m1", &all), ("m2", &all), ("m3", &a)]);
    let owners = Assignor::Range.assign(&wishes, &BTreeMap::new());
    let of = |topic, partition| owners[&slot(topic, partition)].as_str();
    assert_eq!([0, 1, 2, 3, 4, 5].map(|it| of(1, it)), ["m1", "m1", "m2", "m2", "m3", "m3"]);
    assert_eq!([0, 1, 2, 3, 4, 5].map(|it| of(2, it)), ["m1", "m1", "m1", "m2", "m2", "m2"]);
}
