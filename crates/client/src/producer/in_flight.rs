//! What is sent and not answered on one stream, within the limits that the broker stated.
//!
//! Pure. Invariant: numbers ascend from 1 on every stream and are never given twice on one.

use std::collections::VecDeque;

/// Requests in flight, by number.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// Absent while there is no stream.
    limits: Option<Limits>,
    bytes: u64,
    /// The lane of each request from `first` on; `None` once it was answered.
    lanes: VecDeque<Option<usize>>,
    first: u64,
    requests: u32,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    bytes_max: u64,
    requests_max: u32,
}

impl InFlight {
    /// A new stream with these limits.
    pub(super) fn open(&mut self, bytes_max: u64, requests_max: u32) {
        let limits = Some(Limits { bytes_max, requests_max: requests_max.max(1) });
        *self = Self { limits, first: 1, ..Self::default() };
    }

    /// No stream any more.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    /// Whether a request of `bytes` may be sent. One alone always may.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.limits.is_some_and(|limits| {
            let alone = self.requests == 0;
            alone || (self.requests < limits.requests_max && self.bytes + bytes <= limits.bytes_max)
        })
    }

    /// Counts a request of `bytes` and returns its number.
    pub(super) fn add(&mut self, lane: usize, bytes: u64) -> u64 {
        self.bytes += bytes;
        self.requests += 1;
        self.lanes.push_back(Some(lane));
        self.first + self.lanes.len() as u64 - 1
    }

    /// Takes request `number` out and returns its lane; `None` if it is not in flight.
    pub(super) fn remove(&mut self, number: u64) -> Option<usize> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let lane = self.lanes.get_mut(index)?.take()?;
        self.requests -= 1;
        while self.lanes.front().is_some_and(Option::is_none) {
            self.lanes.pop_front();
            self.first += 1;
        }
        Some(lane)
    }

    /// Gives back the bytes of a request that was taken out.
    pub(super) fn release(&mut self, bytes: u64) {
        assert!(bytes <= self.bytes, "released {bytes} > in flight {}", self.bytes);
        self.bytes -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_answers_make_room_in_any_order() {
        let mut flight = InFlight::default();
        assert!(!flight.has_room(0), "there is no stream");
        flight.open(100, 3);
        assert!(flight.has_room(1_000), "one alone always goes");
        assert_eq!((flight.add(7, 60), flight.add(8, 40)), (1, 2));
        assert!(!flight.has_room(1), "no bytes are left");
        assert_eq!(flight.remove(2), Some(8));
        flight.release(40);
        assert_eq!((flight.remove(2), flight.remove(99), flight.remove(0)), (None, None, None));
        assert!(flight.has_room(40) && !flight.has_room(41));
        assert_eq!((flight.add(8, 1), flight.add(8, 1)), (3, 4));
        assert!(!flight.has_room(0), "no requests are left");
        assert_eq!(
            (flight.remove(1), flight.remove(3), flight.remove(4)),
            (Some(7), Some(8), Some(8))
        );
        flight.open(100, 3);
        assert_eq!(flight.add(0, 1), 1, "numbers begin again");
    }
}
