//! How fast somebody is who follows a log: from what is seen now and then, over about a minute.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock;

/// Time between two samples that are kept.
const SPACING: Duration = Duration::from_secs(5);

/// Samples that are kept: about a minute.
const SAMPLES_MAX: usize = 12;

/// Rates over less than this say nothing.
const SPAN_MIN: Duration = Duration::from_secs(1);

/// How somebody gets on.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    samples: VecDeque<Sample>,
    moved: Option<Instant>,
}

/// How much was done, of how much.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    done: u64,
    end: u64,
}

/// How fast somebody is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct PaceRates {
    /// How much comes in and is done per second, if that is known.
    pub(crate) in_and_out: Option<(f64, f64)>,
    /// How long ago something was done, if that was since the start.
    pub(crate) since_moved: Option<Duration>,
}

impl Pace {
    /// Something was done.
    pub(crate) fn note(&mut self, done: u64, end: u64) {
        let sample = Sample { at: clock::instant(), done, end };
        self.moved = Some(sample.at);
        // Whoever goes back begins anew: there is no pace in that.
        if self.samples.back().is_some_and(|last| done < last.done) {
            self.samples.clear();
        }
        if self.samples.back().is_none_or(|last| last.at + SPACING <= sample.at) {
            self.samples.push_back(sample);
            if self.samples.len() > SAMPLES_MAX {
                self.samples.pop_front();
            }
        }
    }

    /// How fast that is, now that so much is done.
    pub(crate) fn rates(&self, done: u64, end: u64) -> PaceRates {
        let now = clock::instant();
        let window = SPACING * (SAMPLES_MAX as u32 + 1);
        let first = self.samples.iter().find(|sample| now - sample.at <= window);
        let rates = first.filter(|first| SPAN_MIN <= now - first.at).map(|first| {
            let seconds = (now - first.at).as_secs_f64();
            let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
            (rate(first.end, end), rate(first.done, done))
        });
        PaceRates { in_and_out: rates, since_moved: self.moved.map(|moved| now - moved) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rates_are_those_of_about_the_last_minute() {
        let mut pace = Pace::default();
        assert_eq!(pace.rates(0, 0), PaceRates::default());
        for second in 0..=200_u64 {
            // Nothing for long, then ten in and twenty out a second.
            let busy = second.saturating_sub(100);
            pace.note(20 * busy, 5_000 + 10 * busy);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let rates = pace.rates(20 * 101, 5_000 + 10 * 101);
        assert_eq!(rates.in_and_out, Some((10.0, 20.0)));
        assert_eq!(rates.since_moved, Some(Duration::from_secs(1)));
        pace.note(7, 6_010);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(pace.rates(9, 6_010).in_and_out, Some((0.0, 1.0)));
    }
}
