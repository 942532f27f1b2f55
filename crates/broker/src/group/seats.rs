//! Who reads which partition for a group just now: in memory.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use taffrail_model::{LogId, Offset};

use super::event::Slot;
use super::state::{Group, Owner};
use super::{GroupError, GroupRefusal, Groups, check_name};
use crate::consume::{Delivery, Seat};

/// Whoever reads a partition for a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReader {
    /// The group.
    pub group: String,
    /// The member that the partition is assigned to; empty: nobody, whoever reads is not looked at.
    pub member: String,
    /// The epoch of the assignment.
    pub epoch: u32,
    /// Whether it begins at the committed offset, if there is one.
    pub from_committed: bool,
}

/// All that read for groups.
#[derive(Debug, Default)]
pub(super) struct Seats {
    seats: Mutex<ByGroup>,
}

type ByGroup = HashMap<Arc<str>, HashMap<Slot, Vec<Taken>>>;

/// A seat that somebody has.
#[derive(Debug)]
struct Taken {
    member: String,
    since: u32,
    seat: Seat,
}

impl Groups {
    /// Gives a subscription its place, as long as the partition is the member's; says what the group
    /// has committed of it.
    pub(crate) async fn take_seat(
        &self,
        reader: &GroupReader,
        log: LogId,
        seat: &Seat,
    ) -> Result<Option<Offset>, GroupError> {
        check_name(&reader.group)?;
        let slot = Slot(log);
        // First: what changes from here on is told to it.
        if !reader.member.is_empty() {
            self.seats.take(reader, slot, seat.clone());
        }
        let looked = self.look(|registry| {
            let group = registry.get(&reader.group);
            let committed = group.and_then(|group| group.committed().get(&slot));
            (check_reader(group, reader, slot), committed.map(|it| Offset::new(it.offset)))
        });
        let checked = looked.await.and_then(|(checked, committed)| {
            checked?;
            Ok(committed)
        });
        if checked.is_err() {
            self.seats.leave(&reader.group, slot, seat);
        }
        let committed = checked?;
        Ok(committed.filter(|_| reader.from_committed))
    }
}

/// Refuses whoever names a member that the partition is not assigned to.
fn check_reader(
    group: Option<&Group>,
    reader: &GroupReader,
    slot: Slot,
) -> Result<(), GroupRefusal> {
    let GroupReader { group: name, member, epoch, .. } = reader.clone();
    if member.is_empty() {
        return Ok(());
    }
    let Some(group) = group else {
        return Err(GroupRefusal::UnknownMember { group: name, member });
    };
    group.check_member(&name, &member, "")?;
    let owner = group.assignment(slot);
    if owner.is_some_and(|owner| owner.member == member && owner.since == epoch) {
        return Ok(());
    }
    let owner = owner.map(|owner| (owner.member.clone(), owner.since));
    Err(GroupRefusal::StaleMember { group: name, member, epoch, owner })
}

impl Seats {
    fn take(&self, reader: &GroupReader, slot: Slot, seat: Seat) {
        let taken = Taken { member: reader.member.clone(), since: reader.epoch, seat };
        let mut seats = self.seats();
        if !seats.contains_key(reader.group.as_str()) {
            seats.insert(reader.group.as_str().into(), HashMap::new());
        }
        let Some(slots) = seats.get_mut(reader.group.as_str()) else { return };
        let all = slots.entry(slot).or_default();
        all.retain(|taken| !taken.seat.is_left());
        all.push(taken);
    }

    /// Gives a seat back.
    fn leave(&self, group: &str, slot: Slot, seat: &Seat) {
        let mut seats = self.seats();
        let Some(slots) = seats.get_mut(group) else { return };
        if let Some(all) = slots.get_mut(&slot) {
            all.retain(|taken| !taken.seat.is(seat) && !taken.seat.is_left());
        }
        slots.retain(|_, all| !all.is_empty());
        if slots.is_empty() {
            seats.remove(group);
        }
    }

    /// Takes a partition away from all but its owner, as of an epoch: who has it since a later one has
    /// been looked at by somebody else.
    pub(super) fn keep(&self, group: &str, slot: Slot, owner: Option<&Owner>, epoch: u32) {
        let mut seats = self.seats();
        let Some(all) = seats.get_mut(group).and_then(|slots| slots.get_mut(&slot)) else { return };
        all.retain(|Taken { member, since, seat }| {
            let is_owner = owner.is_some_and(|it| it.member == *member && it.since == *since);
            let keeps = is_owner || epoch < *since;
            if !keeps {
                seat.lose();
            }
            keeps && !seat.is_left()
        });
    }

    /// What is being delivered to the owner of a partition; `None` if it does not read under the
    /// group's name.
    pub(super) fn delivery(&self, group: &str, slot: Slot, owner: &Owner) -> Option<Delivery> {
        let seats = self.seats();
        let all = seats.get(group)?.get(&slot)?.iter().rev();
        let mut theirs = all.filter(|taken| {
            taken.member == owner.member && taken.since == owner.since && !taken.seat.is_left()
        });
        theirs.next().map(|taken| taken.seat.delivery())
    }

    /// Forgets all groups but these.
    pub(super) fn keep_groups(&self, groups: &BTreeSet<String>) {
        self.seats().retain(|group, slots| {
            // One that was made just now may have some already.
            let has_seats = || slots.values().flatten().any(|taken| !taken.seat.is_left());
            groups.contains(&**group) || has_seats()
        });
    }

    /// Forgets a group.
    pub(super) fn remove(&self, group: &str) {
        self.seats().remove(group);
    }

    fn seats(&self) -> MutexGuard<'_, ByGroup> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
