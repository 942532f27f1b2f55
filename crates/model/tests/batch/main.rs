//! Batches from outside: no bytes make a reader stumble.

mod arbitrary;
mod compression;
mod thin;

use proptest::prelude::*;

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_or_read_alike(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        arbitrary::batch_scan(&bytes);
    }

    #[test]
    fn a_valid_batch_with_changes_is_refused_or_read_alike(
        count in 1..5u8,
        changes in prop::collection::vec(any::<(u16, u8)>(), 0..6),
    ) {
        arbitrary::batch_scan(&arbitrary::changed(count, &changes));
    }
}
