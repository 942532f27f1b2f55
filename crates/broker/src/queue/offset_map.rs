//! What stands at some offsets, in a map whose copies share what has not changed since.
//!
//! A copy of a million entries costs as much as some thousand pointers, so that a snapshot can be written
//! while the queues go on. Invariants: the entries stand in blocks, each a sorted list that is not empty, and
//! all of one lie before the next. Whoever changes an entry of a block that a copy shares copies that block.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

/// Entries of a block, at the most.
const BLOCK_ENTRIES: usize = 64;

/// What stands at some offsets.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "BTreeMap<u64, T>", bound(deserialize = "T: Clone + Deserialize<'de>"))]
pub(crate) struct OffsetMap<T> {
    /// By an offset that is behind the last entry of the block before, and not behind the first one of its own.
    blocks: BTreeMap<u64, Arc<Block<T>>>,
    len: usize,
}

type Block<T> = Vec<(u64, T)>;

impl<T> OffsetMap<T> {
    pub(super) const fn new() -> Self {
        Self { blocks: BTreeMap::new(), len: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// All, ascending.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &T)> {
        self.blocks.values().flat_map(|block| block.iter()).map(|(at, value)| (*at, value))
    }

    pub(super) fn first(&self) -> Option<(u64, &T)> {
        let (_, block) = self.blocks.first_key_value()?;
        block.first().map(|(at, value)| (*at, value))
    }

    pub(super) fn get(&self, offset: u64) -> Option<&T> {
        let (_, block) = self.blocks.range(..=offset).next_back()?;
        let index = find(block, offset).ok()?;
        block.get(index).map(|(_, value)| value)
    }

    /// The last one before an offset.
    pub(super) fn last_before(&self, offset: u64) -> Option<(u64, &T)> {
        // The first entry of the last block may be behind it.
        self.blocks.range(..offset).rev().find_map(|(_, block)| {
            let before = block.partition_point(|(at, _)| *at < offset).checked_sub(1)?;
            block.get(before).map(|(at, value)| (*at, value))
        })
    }

    /// Those from an offset on, ascending.
    pub(super) fn from(&self, offset: u64) -> impl Iterator<Item = (u64, &T)> {
        let first = self.blocks.range(..=offset).next_back().map_or(offset, |(from, _)| *from);
        let blocks = self.blocks.range(first..).map(|(_, block)| block);
        let entries = blocks.flat_map(move |block| {
            let skipped = block.partition_point(|(at, _)| *at < offset);
            block.iter().skip(skipped)
        });
        entries.map(|(at, value)| (*at, value))
    }
}

impl<T: Clone> OffsetMap<T> {
    /// What stands there from now on.
    pub(super) fn insert(&mut self, offset: u64, value: T) {
        let Some((_, block)) = self.blocks.range_mut(..=offset).next_back() else {
            return self.insert_first(offset, value);
        };
        match find(block, offset) {
            Ok(index) => {
                if let Some(entry) = Arc::make_mut(block).get_mut(index) {
                    entry.1 = value;
                }
                return;
            }
            Err(index) if block.len() < BLOCK_ENTRIES => {
                Arc::make_mut(block).insert(index, (offset, value));
            }
            // What comes in order fills blocks.
            Err(BLOCK_ENTRIES) => self.add_block(vec![(offset, value)]),
            Err(_) => {
                let right = Arc::make_mut(block).split_off(BLOCK_ENTRIES / 2);
                self.add_block(right);
                return self.insert(offset, value);
            }
        }
        self.len += 1;
    }

    /// Before all others.
    fn insert_first(&mut self, offset: u64, value: T) {
        let mut block = vec![(offset, value)];
        if let Some(first) = self.blocks.first_entry()
            && first.get().len() < BLOCK_ENTRIES
        {
            block.extend(Arc::unwrap_or_clone(first.remove()));
        }
        self.add_block(block);
        self.len += 1;
    }

    fn add_block(&mut self, block: Block<T>) {
        if let Some((from, _)) = block.first() {
            self.blocks.insert(*from, Arc::new(block));
        }
    }

    pub(super) fn remove(&mut self, offset: u64) {
        let Some((from, block)) = self.blocks.range_mut(..=offset).next_back() else { return };
        let Ok(index) = find(block, offset) else { return };
        self.len -= 1;
        if block.len() > 1 {
            let block = Arc::make_mut(block);
            block.remove(index);
            if block.len() < block.capacity() / 4 {
                block.shrink_to(2 * block.len());
            }
        } else {
            let from = *from;
            self.blocks.remove(&from);
        }
    }
}

/// Where an offset is in a block, or would be.
fn find<T>(block: &Block<T>, offset: u64) -> Result<usize, usize> {
    block.binary_search_by_key(&offset, |(at, _)| *at)
}

impl<T: PartialEq> PartialEq for OffsetMap<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<T: Eq> Eq for OffsetMap<T> {}

impl<T: Clone> From<BTreeMap<u64, T>> for OffsetMap<T> {
    fn from(entries: BTreeMap<u64, T>) -> Self {
        let mut map = Self::new();
        for (offset, value) in entries {
            map.insert(offset, value);
        }
        map
    }
}

impl<T: Serialize> Serialize for OffsetMap<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(map: &OffsetMap<u32>, expected: &BTreeMap<u64, u32>) {
        let owned = |(at, value): (u64, &u32)| (at, *value);
        let all: Vec<_> = expected.iter().map(|(at, value)| (*at, *value)).collect();
        assert_eq!(map.iter().map(owned).collect::<Vec<_>>(), all);
        assert_eq!((map.len(), map.first().map(owned)), (all.len(), all.first().copied()));
        for offset in 0..1_001 {
            assert_eq!(map.get(offset), expected.get(&offset));
            let before = expected.range(..offset).next_back().map(|(at, value)| (*at, *value));
            assert_eq!(map.last_before(offset).map(owned), before);
            let next = expected.range(offset..).next().map(|(at, value)| (*at, *value));
            assert_eq!(map.from(offset).next().map(owned), next);
            assert_eq!(map.from(offset).count(), expected.range(offset..).count());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Stretches are put in or taken out, in order or against it, and a copy is made now and then.
        #[test]
        fn it_is_what_a_sorted_map_would_be_and_copies_stay_as_they_were(
            steps in prop::collection::vec(
                (0_u64..1_000, 0_u64..300, any::<bool>(), any::<bool>(), 0_u8..4), 1..20
            )
        ) {
            let (mut map, mut expected) = (OffsetMap::new(), BTreeMap::new());
            let mut copies = Vec::new();
            for (value, (at, count, is_removal, is_backwards, chance)) in (0_u32..).zip(steps) {
                let mut offsets: Vec<_> = (at..(at + count).min(1_000)).collect();
                if is_backwards {
                    offsets.reverse();
                }
                for offset in offsets {
                    if is_removal {
                        map.remove(offset);
                        expected.remove(&offset);
                    } else {
                        map.insert(offset, value);
                        expected.insert(offset, value);
                    }
                }
                if chance == 0 {
                    copies.push((map.clone(), expected.clone()));
                }
            }
            copies.push((map, expected));
            for (map, expected) in &copies {
                check(map, expected);
                let json = serde_json::to_string(map).expect("it can be written");
                prop_assert_eq!(&json, &serde_json::to_string(expected).expect("so can this"));
                let read: OffsetMap<u32> = serde_json::from_str(&json).expect("it can be read");
                prop_assert_eq!(&read, map);
            }
        }
    }
}
