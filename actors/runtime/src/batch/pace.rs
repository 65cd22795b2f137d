//! How large the next batch may be, by what batches took: the stage's [`Sizing`].

use std::time::Duration;

use super::{
    BatchOptions, Sizing,
    cost::{Cost, Line},
    estimator::Estimator,
};

/// Batches whose latencies are looked at together.
const WINDOW: usize = 128;
/// Of so many, this many may be late.
const LATE: usize = WINDOW / 100;
/// The share of the target is changed by these, when latencies were too high, or low.
const SLOWER: f64 = 0.8;
const FASTER: f64 = 1.1;
/// Latencies below this part of the target count as low.
const LOW: f64 = 0.7;
/// The share never gets smaller.
const LEAST_SHARE: f64 = 0.1;

/// Learns what batches take, and says how large the next may be.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    cost: Cost,
    min: usize,
    max: usize,
    rule: Rule,
    next: usize,
}

#[derive(Clone, Debug)]
enum Rule {
    Fixed,
    Throughput(Box<Estimator>),
    Latency(Target),
}

/// A target for latencies, and the share of it that batches are planned for.
#[derive(Clone, Debug)]
struct Target {
    p99: Duration,
    share: f64,
    seen: Vec<Duration>,
    largest: usize,
}

impl Pace {
    pub(crate) fn new(options: &BatchOptions, most: usize) -> Self {
        let max = (*options.items.end()).min(most).max(1);
        let min = (*options.items.start()).clamp(1, max);
        let mut pace = match options.sizing {
            Sizing::Fixed => Pace { cost: Cost::default(), min, max, rule: Rule::Fixed, next: max },
            Sizing::Throughput { overhead, duration } => {
                let rule = Rule::Throughput(Box::new(Estimator::new(min, max, overhead, duration)));
                Pace { cost: Cost::default(), min, max, rule, next: min }
            }
            Sizing::Latency { p99 } => {
                let rule = Rule::Latency(Target { p99, share: 1.0, seen: Vec::new(), largest: min });
                Pace { cost: Cost::default(), min, max, rule, next: min }
            }
        };
        pace.next = pace.next.clamp(min, max);
        pace
    }

    /// The most items of the next batch.
    pub(crate) fn next(&self) -> usize {
        self.next
    }

    /// How long a batch of so many items will take.
    pub(crate) fn predict(&self, items: usize) -> Duration {
        self.cost.predict(items)
    }

    /// A batch of so many items was run; its oldest item had been here for `latency` at its end.
    pub(crate) fn record(&mut self, items: usize, took: Duration, latency: Duration) {
        self.cost.record(items, took);
        match &mut self.rule {
            Rule::Fixed => {}
            Rule::Throughput(estimator) => {
                estimator.record(items, took);
                self.next = estimator.next();
            }
            Rule::Latency(target) => {
                target.record(items, latency);
                self.next = target.size(self.cost.line()).clamp(self.min, self.max);
            }
        }
    }
}

impl Target {
    fn record(&mut self, items: usize, latency: Duration) {
        self.largest = self.largest.max(items);
        self.seen.push(latency);
        if self.seen.len() == WINDOW {
            self.seen.sort();
            let high = self.seen[WINDOW - 1 - LATE];
            if high > self.p99 {
                self.share = (self.share * SLOWER).max(LEAST_SHARE);
            } else if high < self.p99.mul_f64(LOW) {
                self.share = (self.share * FASTER).min(1.0);
            }
            self.seen.clear();
        }
    }

    /// The largest size of which two batches, the one that is being run and the next, end within the target.
    fn size(&self, Line { fixed, each }: Line) -> usize {
        let time = self.p99.as_secs_f64() * self.share / 2.0;
        // Where nothing tells the cost of an item, sizes grow step by step.
        let fit = if each > 0.0 { ((time - fixed) / each).max(0.0) as usize } else { usize::MAX };
        fit.min(self.largest.saturating_mul(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(sizing: Sizing) -> Pace {
        Pace::new(&BatchOptions { items: 1..=64, sizing, ..BatchOptions::default() }, usize::MAX)
    }

    fn took(items: usize) -> Duration {
        Duration::from_micros(2_000 + 100 * items as u64)
    }

    #[test]
    fn a_fixed_size_is_the_largest() {
        let mut pace = pace(Sizing::Fixed);
        assert_eq!(pace.next(), 64);
        pace.record(64, took(64), took(64));
        assert_eq!(pace.next(), 64);
        let few = Pace::new(&BatchOptions { items: 4..=64, ..BatchOptions::default() }, 2);
        assert_eq!(few.next(), 2);
    }

    #[test]
    fn two_batches_end_within_the_target() {
        let mut pace = pace(Sizing::latency(Duration::from_millis(10)));
        for _ in 0..200 {
            let items = pace.next();
            pace.record(items, took(items), took(items) * 2);
        }
        // 2 · (2 ms + 0.1 ms · n) = 10 ms.
        assert!((29..=31).contains(&pace.next()), "{}", pace.next());
    }

    #[test]
    fn latencies_above_the_target_make_batches_smaller_until_they_are_not() {
        let mut pace = pace(Sizing::latency(Duration::from_millis(10)));
        for n in 0..3_000 {
            let items = pace.next();
            // Half as much again waits elsewhere.
            let latency = took(items) * 3;
            if n > 2_000 {
                assert!(latency <= Duration::from_micros(10_500), "batches of {items} take {latency:?}");
            }
            pace.record(items, took(items), latency);
        }
        assert!(pace.next() >= 4, "{}", pace.next());
    }

    #[test]
    fn a_target_that_cannot_be_met_gives_the_smallest() {
        let mut pace = pace(Sizing::latency(Duration::from_micros(10)));
        for _ in 0..100 {
            let items = pace.next();
            pace.record(items, took(items), took(items));
        }
        assert_eq!(pace.next(), 1);
    }
}
