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
    let (name, fault) = match dice.below(8) {
        0 => ("failing syncs", Fault::SyncFails),
        1 => ("failing syncs that drop pages", Fault::SyncDrops),
        2 | 3 => ("a full disk", Fault::DiskFull { bytes_left: dice.below(60_000) as usize }),
        4 => ("failing reads", Fault::ReadFails),
        _ => {
            ("a machine that stands still", Fault::Stops { changes_left: dice.below(60) as usize })
        }
    };
    world.is_faulty.set(true);
    world.reach(name);
    world.history.note(name);
    if matches!(fault, Fault::SyncFails | Fault::SyncDrops) {
        // Whatever was written before and not synced may never be.
        world.has_lost.set(true);
    }
    let stands_still = matches!(fault, Fault::Stops { .. });
    disk.set_fault(Some(fault));
    if stands_still || dice.once_in(2) {
        return;
    }
    sleep(Duration::from_millis(1 + dice.below(40))).await;
    disk.set_fault(None);
}
