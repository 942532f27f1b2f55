//! What goes wrong with the disk, and when.

use std::rc::Rc;
use std::time::Duration;

use taffrail_log::vfs::{Fault, Memory};
use tokio::time::sleep;

use crate::world::World;

/// A disk that fails in one way, for a while or for good.
pub(crate) async fn fail(world: Rc<World>, disk: Memory) {
    let dice = &world.dice;
    sleep(Duration::from_millis(dice.below(40))).await;
    let soon = || dice.below(40) as usize;
    let (name, fault) = match dice.below(13) {
        0 => ("failing syncs", Fault::SyncFails),
        1 => ("failing syncs that drop pages", Fault::SyncDrops),
        2 => {
            let (before, drops) = (soon(), dice.once_in(2));
            ("one failing sync", Fault::OneSyncFails { before, drops })
        }
        3 | 4 => ("a full disk", Fault::DiskFull { bytes_left: dice.below(60_000) as usize }),
        5 => ("no room for names", Fault::NoRoom { changes_left: soon() }),
        6 => ("short writes", Fault::WritesShort { bytes_max: 1 + dice.below(900) as usize }),
        7 => ("interrupted calls", Fault::Interrupts),
        8 => ("one failing write", Fault::OneWriteFails { before: soon() }),
        9 => ("failing reads", Fault::ReadFails),
        _ => ("a machine that stands still", Fault::Stops { changes_left: soon() }),
    };
    // Of these nobody may notice anything.
    let is_felt = !matches!(fault, Fault::WritesShort { .. } | Fault::Interrupts);
    world.is_faulty.set(is_felt);
    world.was_faulty.set(world.was_faulty.get() || is_felt);
    world.reach(name);
    world.history.note(name);
    if matches!(fault, Fault::SyncFails | Fault::SyncDrops | Fault::OneSyncFails { .. }) {
        // Whatever was written before and not synced may never be.
        world.has_lost.set(true);
    }
    let stands_still = matches!(fault, Fault::Stops { .. });
    world.stands_still.set(stands_still);
    disk.set_fault(Some(fault));
    if stands_still || dice.once_in(2) {
        return;
    }
    sleep(Duration::from_millis(1 + dice.below(40))).await;
    disk.set_fault(None);
}
