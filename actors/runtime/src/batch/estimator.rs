//! Batch sizes by cost: the estimator of Apache Beam's `BatchElements`.
//!
//! ```text
//! keep up to 100 measurements (size, seconds); the first after a start is left out and its size tried again
//! next size:
//!   none yet → min;  one → 2·min, and more than min
//!   drop the largest fifth (20 stay);  fit seconds = a + b·size
//!   from ten on: drop what has a Cook's distance above 1/2, fit again with weights 1/size
//!   target: the size at which a is `overhead` of the whole, and the whole takes `duration`
//!   jitter of one by turns, and of a quarter past ten points, so that the fit always sees different sizes
//!   at most twice the last size, within min and max
//! ```

use std::time::Duration;

/// Measurements that are kept.
const KEPT: usize = 100;
/// How much larger the next batch may be than the last.
const RAMP: usize = 2;
/// How far sizes stray from the target, to either side.
const STRAY: f64 = 0.25;
/// Measurements beyond which sizes stray, and above which the fit is refined.
const ENOUGH: usize = 10;
/// Of the measurements, this many stay when the largest are dropped.
const TRIMMED: usize = 20;
/// A measurement with a larger Cook's distance counts as an outlier.
const OUTLIER: f64 = 0.5;

#[derive(Clone, Debug)]
pub(super) struct Estimator {
    min: usize,
    max: usize,
    overhead: f64,
    duration: f64,
    data: Vec<(f64, f64)>,
    /// The size that may be doubled.
    last: usize,
    chosen: usize,
    skip: bool,
    replay: Option<usize>,
    dice: u64,
}

impl Estimator {
    pub(super) fn new(min: usize, max: usize, overhead: f64, duration: Duration) -> Self {
        let min = min.max(1);
        Estimator {
            min,
            max: max.max(min),
            overhead: overhead.clamp(1e-6, 1.0),
            duration: duration.as_secs_f64(),
            data: Vec::new(),
            last: 0,
            chosen: 0,
            skip: true,
            replay: None,
            dice: 0x9E37_79B9_7F4A_7C15,
        }
    }

    pub(super) fn record(&mut self, size: usize, took: Duration) {
        if std::mem::take(&mut self.skip) {
            self.replay = Some(size.clamp(self.min, self.max));
            return;
        }
        self.replay = None;
        // A batch that was small because there was no more does not start the doubling anew.
        self.last = if size < self.chosen { self.last.max(size) } else { size };
        self.data.push((size as f64, took.as_secs_f64()));
        if self.data.len() > KEPT {
            // Two at a time, so that the jitter goes on by turns; from the older half.
            for part in [4, 2] {
                let at = self.roll() as usize % (self.data.len() / part);
                self.data.remove(at);
            }
        }
    }

    /// The size of the next batch.
    pub(super) fn next(&mut self) -> usize {
        self.chosen = self.choose();
        self.chosen
    }

    fn choose(&mut self) -> usize {
        if let Some(size) = self.replay {
            return size;
        }
        let (min, max) = (self.min, self.max);
        if min == max || self.data.is_empty() {
            return min;
        }
        if self.data.len() == 1 {
            return (min * RAMP).min(max).max(min + 1);
        }
        let (a, b) = self.fit();
        let cap = (self.last.saturating_mul(RAMP)).min(max);
        let mut target = ((self.duration - a) / b).min(a / b * (1.0 / self.overhead - 1.0)).min(max as f64);
        if self.data.len() > ENOUGH {
            let unit = self.roll() as f64 / (1u64 << 32) as f64;
            target += (target * STRAY * 2.0 * (unit - 0.5)).trunc();
        }
        let jitter = self.data.len() % 2;
        (target.max(0.0) as usize).min(cap).max(min + jitter).min(max)
    }

    fn fit(&self) -> (f64, f64) {
        let mut points = self.data.clone();
        points.sort_by(|p, q| p.0.total_cmp(&q.0).then(p.1.total_cmp(&q.1)));
        points.truncate(TRIMMED.max(points.len() * 4 / 5));
        let (a, b) = refined(&points);
        (a.max(1e-10), b.max(1e-20))
    }

    /// 32 random bits.
    fn roll(&mut self) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice >> 32
    }
}

/// Least squares without outliers.
fn refined(points: &[(f64, f64)]) -> (f64, f64) {
    let (a, b) = line(points, |_| 1.0);
    if points.len() < ENOUGH {
        return (a, b);
    }
    let n = points.len() as f64;
    let sum_x: f64 = points.iter().map(|p| p.0).sum();
    let sum_xx: f64 = points.iter().map(|p| p.0 * p.0).sum();
    let residual = |p: &(f64, f64)| a + b * p.0 - p.1;
    let variance = points.iter().map(|p| residual(p).powi(2)).sum::<f64>() / (n - 2.0);
    let spread = n * sum_xx - sum_x * sum_x;
    if variance == 0.0 || spread <= 0.0 {
        return (a, b);
    }
    let distance = |p: &(f64, f64)| {
        let leverage = (sum_xx - 2.0 * sum_x * p.0 + n * p.0 * p.0) / spread;
        0.5 / variance * residual(p).powi(2) * leverage / (1.0 - leverage).powi(2)
    };
    let kept: Vec<_> = points.iter().copied().filter(|p| distance(p) <= OUTLIER).collect();
    if kept.len() < 2 { (a, b) } else { line(&kept, |x| 1.0 / x) }
}

/// The line that makes the sum of the squares of weight × residual least. Flat through the mean if all x are one.
fn line(points: &[(f64, f64)], weight: impl Fn(f64) -> f64) -> (f64, f64) {
    let weights: Vec<f64> = points.iter().map(|p| weight(p.0).powi(2)).collect();
    let sum = |f: fn(&(f64, f64)) -> f64| points.iter().zip(&weights).map(|(p, w)| w * f(p)).sum::<f64>();
    let total: f64 = weights.iter().sum();
    let (mean_x, mean_y) = (sum(|p| p.0) / total, sum(|p| p.1) / total);
    let spread: f64 = points.iter().zip(&weights).map(|(p, w)| w * (p.0 - mean_x).powi(2)).sum();
    let together: f64 = points.iter().zip(&weights).map(|(p, w)| w * (p.0 - mean_x) * (p.1 - mean_y)).sum();
    let b = if spread > 0.0 { together / spread } else { 0.0 };
    (mean_y - b * mean_x, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the loop against a model that takes `fixed` + `each` · size seconds; the last sizes.
    fn settle(mut estimator: Estimator, fixed: f64, each: f64, noise: impl Fn(usize) -> f64) -> Vec<usize> {
        let sizes: Vec<usize> = (0..300)
            .map(|n| {
                let size = estimator.next();
                estimator.record(size, Duration::from_secs_f64((fixed + each * size as f64) * noise(n)));
                size
            })
            .collect();
        sizes[200..].to_vec()
    }

    #[test]
    fn begins_small_repeats_the_first_and_doubles() {
        let mut estimator = Estimator::new(4, 1_000, 0.05, Duration::from_secs(10));
        let mut sizes = Vec::new();
        for _ in 0..6 {
            let size = estimator.next();
            sizes.push(size);
            estimator.record(size, Duration::from_micros(50_000 + 10 * size as u64));
        }
        assert_eq!(sizes, [4, 4, 8, 16, 32, 64]);
    }

    #[test]
    fn finds_the_size_at_which_the_fixed_cost_is_small() {
        // a/b · (1/0.05 − 1) = 20 · 19 = 380, give or take a quarter.
        let sizes = settle(Estimator::new(1, 10_000, 0.05, Duration::from_secs(10)), 0.02, 0.001, |_| 1.0);
        assert!(sizes.iter().all(|size| (280..=480).contains(size)), "{sizes:?}");
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        assert!((360..=400).contains(&mean), "{mean}");
    }

    #[test]
    fn outliers_do_not_lead_it_astray() {
        let sizes = settle(Estimator::new(1, 10_000, 0.05, Duration::from_secs(10)), 0.02, 0.001, |n| if n % 25 == 3 { 4.0 } else { 1.0 });
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        assert!((300..=460).contains(&mean), "{mean}");
    }

    #[test]
    fn a_batch_takes_no_longer_than_it_may() {
        let sizes = settle(Estimator::new(1, 10_000, 0.0001, Duration::from_millis(100)), 0.02, 0.001, |_| 1.0);
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        assert!((70..=90).contains(&mean), "{mean}");
    }

    #[test]
    fn one_size_is_one_size() {
        let mut estimator = Estimator::new(8, 8, 0.05, Duration::from_secs(10));
        for _ in 0..20 {
            assert_eq!(estimator.next(), 8);
            estimator.record(8, Duration::ZERO);
        }
    }
}
