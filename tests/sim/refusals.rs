//! Nobody is refused without a reason: what may be said to a client, and when.

use taffrail_broker::{FetchError, ProduceError};

use crate::world::World;

/// Checks why a batch was refused.
pub(crate) fn check_produce(world: &World, place: &(String, u32), error: &ProduceError) {
    match error {
        ProduceError::PrecedingFailed { .. }
        | ProduceError::Recovering
        | ProduceError::Overloaded { .. }
        | ProduceError::Stopping => {}
        ProduceError::OffsetMismatch { .. } => world.reach("conditional appends refused"),
        ProduceError::UnknownTopic { .. } | ProduceError::UnknownPartition { .. } => {
            assert!(!world.is_there(&place.0), "{place:?} is there, and is not found");
        }
        ProduceError::StorageFull { .. } => {
            assert!(world.is_faulty.get(), "{place:?}: {error}");
            world.reach("refused for a full disk");
        }
        ProduceError::ResultUnknown { .. } => world.reach("unknown results"),
        ProduceError::ReadOnly { .. } | ProduceError::Io { .. } | ProduceError::Offline { .. } => {
            assert!(world.is_faulty.get(), "{place:?}: {error}");
            world.reach("refused by a sick partition");
        }
        _ => panic!("{place:?}: {error}"),
    }
}

/// Checks why a read was refused.
pub(crate) fn check_fetch(world: &World, place: &(String, u32), error: &FetchError) {
    let is_excused = match error {
        FetchError::Recovering | FetchError::Stopping => true,
        FetchError::UnknownTopic { .. } | FetchError::UnknownPartition { .. } => {
            !world.is_there(&place.0)
        }
        FetchError::ReadOnly { .. } | FetchError::Io { .. } | FetchError::Offline { .. } => {
            world.is_faulty.get()
        }
        // Pages that were acknowledged and are gone since a sync failed.
        FetchError::DataLoss { .. } => world.is_faulty.get() && world.is_cached(&place.0),
        FetchError::Name(_)
        | FetchError::OffsetOutOfRange { .. }
        | FetchError::MessageTooSmall { .. } => false,
    };
    assert!(is_excused, "{place:?}: {error}");
}
