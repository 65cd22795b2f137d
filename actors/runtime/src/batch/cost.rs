//! How long a batch takes: a line through what was measured, in which old measurements fade.
//!
//! Least squares of `seconds = fixed + each · items` over sums that are multiplied by [`FADE`] before each addition: a
//! constant amount of work per batch. While batches have one size, the slope is what it was when they last differed, and
//! the line is flat if they never did.

use std::time::Duration;

/// Sizes differ if their variance is at least this part of their mean's square.
const SPREAD: f64 = 0.01;

/// What a measurement weighs after one more: half of it is gone after 34.
const FADE: f64 = 0.98;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
    slope: f64,
}

/// Seconds of a batch: a fixed part and a part per item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) fixed: f64,
    pub(super) each: f64,
}

impl Cost {
    pub(crate) fn record(&mut self, items: usize, took: Duration) {
        let (x, y) = (items as f64, took.as_secs_f64());
        for (sum, value) in [(&mut self.weight, 1.0), (&mut self.x, x), (&mut self.y, y), (&mut self.xx, x * x), (&mut self.xy, x * y)] {
            *sum = *sum * FADE + value;
        }
        let (mean_x, mean_y) = (self.x / self.weight, self.y / self.weight);
        let spread = self.xx / self.weight - mean_x * mean_x;
        if spread > SPREAD * mean_x * mean_x {
            self.slope = ((self.xy / self.weight - mean_x * mean_y) / spread).max(0.0);
        }
    }

    /// The line, with neither part below zero.
    pub(super) fn line(&self) -> Line {
        if self.weight == 0.0 {
            return Line { fixed: 0.0, each: 0.0 };
        }
        let (mean_x, mean_y) = (self.x / self.weight, self.y / self.weight);
        let fixed = mean_y - self.slope * mean_x;
        if fixed >= 0.0 { Line { fixed, each: self.slope } } else { Line { fixed: 0.0, each: mean_y / mean_x } }
    }

    /// How long a batch of so many items takes; 0 before anything was measured.
    pub(crate) fn predict(&self, items: usize) -> Duration {
        let Line { fixed, each } = self.line();
        Duration::try_from_secs_f64(fixed + each * items as f64).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_line_and_follows_a_change() {
        let mut cost = Cost::default();
        assert_eq!(cost.predict(8), Duration::ZERO);
        cost.record(4, Duration::from_millis(6));
        assert_eq!(cost.predict(100).as_millis(), 6);
        let near = |cost: &Cost, items, millis: f64| {
            let found = cost.predict(items).as_secs_f64() * 1e3;
            assert!((found - millis).abs() < 0.02 * millis, "{found} for {millis}");
        };
        for n in 0..50 {
            let items = 1 + n % 7;
            cost.record(items, Duration::from_micros(2_000 + 100 * items as u64));
        }
        (0..400).for_each(|n| cost.record(1 + n % 7, Duration::from_micros(2_000 + 100 * (1 + n as u64 % 7))));
        near(&cost, 32, 5.2);
        (0..400).for_each(|n| cost.record(1 + n % 7, Duration::from_micros(500 * (1 + n as u64 % 7))));
        near(&cost, 32, 16.0);
        // One size for a long time, and slower by a constant.
        (0..400).for_each(|_| cost.record(4, Duration::from_millis(3)));
        near(&cost, 8, 5.0);
    }
}
