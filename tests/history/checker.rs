//! Judges a history: the same rules for every run, however it was made.
//!
//! What is acknowledged is there exactly once, at its offset, unchanged; what is unknown is there at
//! most once; what was refused or never sent is not there. Records of one producer keep their order
//! in a place, but for what a producer that waits for no answers has sent over several connections. Offsets are contiguous, used once, and behind those that were acknowledged before the
//! record was sent, or skipped by a gap that readers are told of. What anybody has read is still
//! there in the end. But for what a place may have lost: then it lies in such a gap, and nothing else
//! stands there. And but for what may be deleted: that, and nothing above it. And but for what compaction
//! removes: then a later record of the same key is there, or is deleted.

use std::collections::{BTreeMap, HashMap, HashSet, hash_map::Entry};

use super::{Event, LAST_READER, RecordId, key_of};

/// A rule that a history breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// Acknowledged, and not there.
    Lost,
    /// There twice.
    Duplicated,
    /// Not in the order in which its producer sent it.
    Reordered,
    /// Refused, and there.
    Resurrected,
    /// There, and not as it was sent or read before.
    Changed,
    /// There, and never sent, or sent elsewhere.
    Invented,
    /// One offset acknowledged for two records.
    Reused,
    /// Acknowledged below an offset that was acknowledged before it was sent.
    WentBack,
    /// Offsets that a reader skipped or got again.
    Hole,
    /// Read by somebody, and not there in the end.
    TakenBack,
    /// Said to be deleted, and not to be.
    Overcut,
    /// A place that nobody read in the end.
    Unread,
}

/// What breaks a rule, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) what: String,
}

/// Everything about a history that is not as it should be.
pub(crate) fn judge(history: &[Event]) -> Vec<Violation> {
    let mut judge = Judge::default();
    for event in history {
        judge.take(event);
    }
    judge.conclude();
    judge.violations
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Open,
    Ok(u64),
    Fail,
}

struct Sent<'a> {
    place: &'a str,
    digest: u32,
    outcome: Outcome,
    /// Everything below was acknowledged before this was sent.
    floor: u64,
}

#[derive(Default)]
struct Place {
    /// Everything below is acknowledged.
    floor: u64,
    acknowledged: HashMap<u64, RecordId>,
    /// What anybody has read.
    seen: BTreeMap<u64, (Option<RecordId>, u32)>,
    /// What is there in the end.
    last: BTreeMap<u64, RecordId>,
    /// What lies below this was acknowledged or read before something may have been lost.
    lossy_below: u64,
    /// The gaps that there are in the end.
    gaps: Vec<(u64, u64)>,
    /// What lies below this may be deleted.
    deletable_below: u64,
    /// What is deleted in the end, as far as that is allowed.
    cuts: Vec<(u64, u64)>,
    /// What compaction has removed in the end.
    superseded: Vec<(u64, u64)>,
    bounds: Option<(u64, u64)>,
}

impl Place {
    /// What was acknowledged or read so far may be gone.
    fn note_loss(&mut self) {
        let read = self.seen.last_key_value().map_or(0, |(offset, _)| offset + 1);
        self.lossy_below = self.lossy_below.max(self.floor).max(read);
    }

    /// Whether what was at an offset may be gone, and is.
    fn may_lack(&self, offset: u64) -> bool {
        let holds = |(from, to): &(u64, u64)| (*from..*to).contains(&offset);
        let is_lost = offset < self.lossy_below && self.gaps.iter().any(holds);
        is_lost || self.cuts.iter().any(holds)
    }

    /// Whether compaction has removed a record, and may have: a later one of its key is there, or was and
    /// is deleted.
    fn is_superseded(&self, offset: u64, record: RecordId) -> bool {
        let holds =
            |ranges: &[(u64, u64)], at| ranges.iter().any(|(from, to)| (*from..*to).contains(&at));
        let is_later = |at: u64, it| offset < at && key_of(it) == key_of(record);
        let is_cut = |at| holds(&self.cuts, at);
        let mut deleted = self.acknowledged.iter().filter(|(at, _)| is_cut(**at));
        let mut later = self.last.range(offset + 1..);
        let is_later_there = later.any(|(at, it)| is_later(*at, *it));
        holds(&self.superseded, offset)
            && (is_later_there || deleted.any(|(at, it)| is_later(*at, *it)))
    }
}

#[derive(Default)]
struct Judge<'a> {
    sent: HashMap<RecordId, Sent<'a>>,
    places: BTreeMap<&'a str, Place>,
    next: HashMap<(u32, &'a str), u64>,
    unordered: HashSet<u32>,
    violations: Vec<Violation>,
}

impl<'a> Judge<'a> {
    fn take(&mut self, event: &'a Event) {
        match event {
            Event::Invoke { record, place, digest } => {
                let floor = self.places.entry(place).or_default().floor;
                let sent = Sent { place, digest: *digest, outcome: Outcome::Open, floor };
                let before = self.sent.insert(*record, sent);
                assert!(before.is_none(), "{record:?} was sent twice: the test is wrong");
            }
            Event::Ok { record, offset } => self.take_ok(*record, *offset),
            Event::Fail { record } => self.sent_of(*record).outcome = Outcome::Fail,
            Event::Unknown { .. } | Event::Note { .. } => {}
            Event::Unordered { producer } => drop(self.unordered.insert(*producer)),
            Event::Loss { place } => self.places.entry(place).or_default().note_loss(),
            Event::Read { reader, place, offset, record, digest } => {
                self.take_read(*reader, place, *offset, *record, *digest);
            }
            Event::Gap { reader, place, from, to } => self.take_gap(*reader, place, *from, *to),
            Event::Superseded { reader, place, from, to } => {
                self.skip(*reader, place, *from, *to);
                if *reader == LAST_READER {
                    self.places.entry(place).or_default().superseded.push((*from, *to));
                }
            }
            Event::Deletable { place, before } => {
                let place = self.places.entry(place).or_default();
                place.deletable_below = place.deletable_below.max(*before);
            }
            Event::Cut { reader, place, from, to } => self.take_cut(*reader, place, *from, *to),
            Event::End { place, start, end } => {
                let next = self.next.get(&(LAST_READER, place.as_str())).copied();
                if next.unwrap_or(*start) != *end {
                    self.add(Rule::Hole, format!("{place}: read to {next:?} of {start}..{end}"));
                }
                self.places.entry(place).or_default().bounds = Some((*start, *end));
            }
        }
    }

    fn take_ok(&mut self, record: RecordId, offset: u64) {
        let sent = self.sent_of(record);
        sent.outcome = Outcome::Ok(offset);
        let (floor, name) = (sent.floor, sent.place);
        let place = self.places.entry(name).or_default();
        place.floor = place.floor.max(offset + 1);
        let other = place.acknowledged.insert(offset, record);
        if offset < floor {
            self.add(Rule::WentBack, format!("{name}: {record:?} at {offset}, below {floor}"));
        }
        if let Some(other) = other {
            self.add(Rule::Reused, format!("{name}: {other:?} and {record:?} at {offset}"));
        }
    }

    /// A reader goes on behind what is not there.
    fn skip(&mut self, reader: u32, name: &'a str, from: u64, to: u64) {
        let next = self.next.insert((reader, name), to);
        if let Some(next) = next.filter(|next| *next != from) {
            self.add(
                Rule::Hole,
                format!("{name}: reader {reader} got a gap at {from} behind {next}"),
            );
        }
    }

    fn take_cut(&mut self, reader: u32, name: &'a str, from: u64, to: u64) {
        self.skip(reader, name, from, to);
        let place = self.places.entry(name).or_default();
        let allowed = place.deletable_below;
        if reader == LAST_READER {
            place.cuts.push((from, to.min(allowed)));
        }
        if allowed < to {
            let what = format!("{name}: deleted up to {to}, where {allowed} was allowed");
            self.add(Rule::Overcut, what);
        }
    }

    fn take_gap(&mut self, reader: u32, name: &'a str, from: u64, to: u64) {
        self.skip(reader, name, from, to);
        let place = self.places.entry(name).or_default();
        if reader == LAST_READER {
            place.gaps.push((from, to));
        }
        let seen = place.seen.range(from.max(place.lossy_below)..to.max(place.lossy_below)).next();
        if let Some((offset, _)) = seen {
            let what = format!("{name}: {offset} was read and lies in the gap {from}..{to}");
            self.add(Rule::TakenBack, what);
        }
    }

    fn take_read(
        &mut self,
        reader: u32,
        name: &'a str,
        offset: u64,
        record: Option<RecordId>,
        digest: u32,
    ) {
        let next = self.next.insert((reader, name), offset + 1);
        if let Some(next) = next.filter(|next| *next != offset) {
            self.add(Rule::Hole, format!("{name}: reader {reader} got {offset} behind {next}"));
        }
        match record.and_then(|record| Some((record, self.sent.get(&record)?))) {
            Some((_, sent)) if sent.place == name && sent.digest == digest => {}
            Some((record, sent)) if sent.place == name => {
                let crc = sent.digest;
                let what = format!("{name}: {record:?} at {offset}: {digest:#x}, sent {crc:#x}");
                self.add(Rule::Changed, what);
            }
            _ => self.add(Rule::Invented, format!("{name}: {record:?} at {offset}")),
        }
        let place = self.places.entry(name).or_default();
        let before = *place.seen.entry(offset).or_insert((record, digest));
        if reader == LAST_READER
            && let Some(record) = record
        {
            place.last.insert(offset, record);
        }
        if before != (record, digest) {
            let what = format!("{name}: {record:?} at {offset}, before it was {:?}", before.0);
            self.add(Rule::Changed, what);
        }
    }

    fn conclude(&mut self) {
        let mut found = Vec::new();
        for (name, place) in &self.places {
            let Some((start, end)) = place.bounds else {
                found.push((Rule::Unread, (*name).to_owned()));
                continue;
            };
            let gone = place.seen.range(end..).next();
            found.extend(gone.map(|(offset, _)| {
                (Rule::TakenBack, format!("{name}: {offset} was read and the end is {end}"))
            }));
            found.extend(judge_order(name, place, &self.unordered));
            for (offset, record) in place.acknowledged.iter().filter(|(at, _)| start <= **at) {
                let is_there = place.last.get(offset) == Some(record);
                let may_lack = place.may_lack(*offset) || place.is_superseded(*offset, *record);
                if !is_there && !may_lack {
                    let there = place.last.get(offset);
                    let what = format!("{name}: {record:?} at {offset}, where there is {there:?}");
                    found.push((Rule::Lost, what));
                }
            }
            for (from, to) in &place.superseded {
                let seen = place.seen.range(*from..*to);
                let seen = seen.filter_map(|(at, (record, _))| Some((*at, (*record)?)));
                let lost = seen.filter(|(at, it)| start <= *at && !place.is_superseded(*at, *it));
                found.extend(lost.map(|(offset, record)| {
                    let what = format!("{name}: {record:?} was read at {offset}, and no later one of its key is there");
                    (Rule::Lost, what)
                }));
            }
            let refused =
                |record| self.sent.get(&record).is_some_and(|sent| sent.outcome == Outcome::Fail);
            for (offset, record) in place.last.iter().filter(|(_, record)| refused(**record)) {
                found.push((Rule::Resurrected, format!("{name}: {record:?} at {offset}")));
            }
        }
        for (rule, what) in found {
            self.add(rule, what);
        }
    }

    #[track_caller]
    fn sent_of(&mut self, record: RecordId) -> &mut Sent<'a> {
        self.sent.get_mut(&record).expect("an outcome is of a record that was sent")
    }

    fn add(&mut self, rule: Rule, what: String) {
        self.violations.push(Violation { rule, what });
    }
}

/// Each record once, those of a producer in its order.
fn judge_order(name: &str, place: &Place, unordered: &HashSet<u32>) -> Vec<(Rule, String)> {
    let mut found = Vec::new();
    let mut at: HashMap<RecordId, u64> = HashMap::new();
    let mut latest: HashMap<u32, u64> = HashMap::new();
    for (offset, record) in &place.last {
        match at.entry(*record) {
            Entry::Occupied(first) => {
                let what = format!("{name}: {record:?} at {} and {offset}", first.get());
                found.push((Rule::Duplicated, what));
                continue;
            }
            Entry::Vacant(vacant) => drop(vacant.insert(*offset)),
        }
        let latest = latest.entry(record.producer).or_insert(record.sequence);
        if record.sequence < *latest && !unordered.contains(&record.producer) {
            let what = format!("{name}: {record:?} at {offset}, behind number {latest}");
            found.push((Rule::Reordered, what));
        }
        *latest = record.sequence.max(*latest);
    }
    found
}
