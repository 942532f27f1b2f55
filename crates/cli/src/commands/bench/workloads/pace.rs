//! Says when records are to be sent: at a rate, or as fast as they go.
//!
//! The moments are fixed beforehand (open loop): who falls behind does not slow them down. They are
//! announced by a thread of its own, because the runtime's timers are too coarse for them.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// The thread sleeps no shorter than this.
const NAP: Duration = Duration::from_micros(50);

/// The moments of one producer's records.
pub(super) struct Pace {
    begun: Instant,
    records: u64,
    end: Option<Instant>,
    next: u64,
    timed: Option<Timed>,
}

struct Timed {
    rate: f64,
    /// How many more are due, announced.
    announced: UnboundedReceiver<u64>,
    due: u64,
}

impl Pace {
    /// `records` from now on, no more after `duration`, and `rate` of them a second.
    pub(super) fn new(records: u64, duration: Option<Duration>, rate: Option<f64>) -> Self {
        let begun = Instant::now();
        let timed = rate.map(|rate| {
            let (sender, announced) = unbounded_channel();
            std::thread::spawn(move || {
                let mut told = 0;
                while told < records {
                    let due = ((begun.elapsed().as_secs_f64() * rate) as u64 + 1).min(records);
                    // Nobody listens any more: the run was cut short.
                    if due > told && sender.send(due - told).is_err() {
                        return;
                    }
                    told = due;
                    let next = begun + Duration::from_secs_f64(told as f64 / rate);
                    std::thread::sleep(next.saturating_duration_since(Instant::now()).max(NAP));
                }
            });
            Timed { rate, announced, due: 0 }
        });
        let end = duration.map(|duration| begun + duration);
        Self { begun, records, end, next: 0, timed }
    }

    /// Waits for the next record's moment and returns it with the record's number; `None` at the
    /// end. Without a rate the moment is only told for one record in `stride`.
    pub(super) async fn next(&mut self, stride: u64) -> Option<(u64, Option<Instant>)> {
        let number = self.next;
        if number >= self.records {
            return None;
        }
        self.next += 1;
        if let Some(timed) = &mut self.timed {
            if timed.due == 0 {
                timed.due = timed.announced.recv().await?;
            }
            timed.due -= 1;
            let moment = self.begun + Duration::from_secs_f64(number as f64 / timed.rate);
            let is_over = self.end.is_some_and(|end| end <= moment);
            return (!is_over).then_some((number, Some(moment)));
        }
        if !number.is_multiple_of(stride) {
            return Some((number, None));
        }
        let now = Instant::now();
        let is_over = self.end.is_some_and(|end| end < now);
        (!is_over).then_some((number, Some(now)))
    }
}
