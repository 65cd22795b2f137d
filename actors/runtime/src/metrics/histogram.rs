//! Histograms with a bucket per power of two: one atomic addition per value.

use std::sync::atomic::{AtomicU64, Ordering};

const BUCKETS: usize = 48;

/// Bucket `b` counts values in `2^(b-1) < v <= 2^b`; bucket 0 counts 0 and 1.
pub(crate) struct Log2Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Default for Log2Histogram {
    fn default() -> Self {
        Log2Histogram { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum: AtomicU64::new(0) }
    }
}

impl Log2Histogram {
    pub(crate) fn record(&self, value: u64) {
        let bucket = (u64::BITS - value.saturating_sub(1).leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot { buckets: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(), sum: self.sum.load(Ordering::Relaxed) }
    }
}

/// A histogram at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistogramSnapshot {
    /// How many values were at most 2ⁿ, and more than 2ⁿ⁻¹, for each n from 0.
    pub buckets: Vec<u64>,
    /// The sum of all values.
    pub sum: u64,
}

impl HistogramSnapshot {
    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The mean, 0 without values.
    pub fn mean(&self) -> f64 {
        let count = self.count();
        if count == 0 { 0.0 } else { self.sum as f64 / count as f64 }
    }

    /// An upper bound of the `q` quantile (0 to 1), at most twice too large; 0 without values.
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = (self.count() as f64 * q.clamp(0.0, 1.0)).ceil() as u64;
        let mut below = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= rank && *count > 0 {
                return 1 << bucket;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_their_power_of_two() {
        let histogram = Log2Histogram::default();
        for value in [0, 1, 2, 3, 4, 5, u64::MAX] {
            histogram.record(value);
        }
        let seen = histogram.snapshot();
        assert_eq!(&seen.buckets[..4], [2, 1, 2, 1]);
        assert_eq!(seen.buckets[BUCKETS - 1], 1);
        assert_eq!(seen.count(), 7);
        assert_eq!(seen.quantile(0.5), 4);
    }
}
