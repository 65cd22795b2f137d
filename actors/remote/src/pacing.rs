//! How often an endpoint is asked: a limit that is known beforehand, and one that is learnt from its refusals.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A token bucket: so many requests a second on average, so many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    rate: f64,
    burst: f64,
}

impl RateLimit {
    /// So many requests a second, and up to `burst` at once.
    pub fn per_second(rate: f64, burst: f64) -> Self {
        RateLimit { rate: rate.max(1e-6), burst: burst.max(1.0) }
    }
}

/// The state of a [`RateLimit`].
pub(crate) struct Bucket {
    limit: RateLimit,
    /// When the bucket would be empty if it had been filled for ever: as in the generic cell rate algorithm, one number.
    empty_at: Mutex<Option<Instant>>,
}

impl Bucket {
    pub(crate) fn new(limit: RateLimit) -> Self {
        Bucket { limit, empty_at: Mutex::new(None) }
    }

    /// Takes a turn: how long to wait for it.
    pub(crate) fn take(&self, now: Instant) -> Duration {
        let each = Duration::from_secs_f64(1.0 / self.limit.rate);
        let depth = each.mul_f64(self.limit.burst - 1.0);
        let mut empty_at = lock(&self.empty_at);
        let turn = empty_at.map_or(now, |at| at.max(now));
        *empty_at = Some(turn + each);
        turn.saturating_duration_since(now).saturating_sub(depth)
    }
}

/// Asks less often the more an endpoint refuses: each request is held back with the probability
/// `max(0, (all − overload · ok) / (all + 1))` over the last window, which settles where `overload` requests are sent for
/// each that succeeds. (As in Google's SRE book, and in Beam's remote handlers.)
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throttle {
    /// Requests for each success; 2 by default.
    pub overload: f64,
    /// What is looked back on; a minute by default.
    pub window: Duration,
    /// How long a request that is held back waits before it asks again; a second by default.
    pub pause: Duration,
}

impl Default for Throttle {
    fn default() -> Self {
        Throttle { overload: 2.0, window: Duration::from_secs(60), pause: Duration::from_secs(1) }
    }
}

/// Parts of a window that fall out of it together.
const PARTS: u32 = 60;

/// The state of a [`Throttle`].
pub(crate) struct Throttling {
    rules: Throttle,
    counts: Mutex<Counts>,
}

struct Counts {
    /// Beginning of the part, requests, successes.
    parts: VecDeque<(Instant, u64, u64)>,
    dice: u64,
}

impl Throttling {
    pub(crate) fn new(rules: Throttle) -> Self {
        Throttling { rules, counts: Mutex::new(Counts { parts: VecDeque::new(), dice: 0x9E37_79B9_7F4A_7C15 }) }
    }

    pub(crate) fn pause(&self) -> Duration {
        self.rules.pause
    }

    /// Whether a request is held back now; one that is not counts as sent.
    pub(crate) fn holds_back(&self, now: Instant) -> bool {
        let mut counts = self.counts(now);
        let (all, ok) = counts.parts.iter().fold((0, 0), |(all, ok), part| (all + part.1, ok + part.2));
        let probability = ((all as f64 - self.rules.overload * ok as f64) / (all as f64 + 1.0)).max(0.0);
        counts.dice ^= counts.dice << 13;
        counts.dice ^= counts.dice >> 7;
        counts.dice ^= counts.dice << 17;
        // What is held back counts as asked, too: the endpoint would have got it.
        if let Some(part) = counts.parts.back_mut() {
            part.1 += 1;
        }
        ((counts.dice >> 11) as f64 / (1u64 << 53) as f64) < probability
    }

    pub(crate) fn succeeded(&self, now: Instant) {
        if let Some(part) = self.counts(now).parts.back_mut() {
            part.2 += 1;
        }
    }

    /// The counts, with what is too old gone and a part for now.
    fn counts(&self, now: Instant) -> MutexGuard<'_, Counts> {
        let mut counts = lock(&self.counts);
        while counts.parts.front().is_some_and(|part| now.saturating_duration_since(part.0) > self.rules.window) {
            counts.parts.pop_front();
        }
        if counts.parts.back().is_none_or(|part| now.saturating_duration_since(part.0) > self.rules.window / PARTS) {
            counts.parts.push_back((now, 0, 0));
        }
        counts
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_rate_holds_after_it() {
        let bucket = Bucket::new(RateLimit::per_second(10.0, 3.0));
        let now = Instant::now();
        let waits: Vec<u128> = (0..6).map(|_| bucket.take(now).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100, 200, 300]);
        // Six turns were taken: after one second, the bucket is full again.
        let later = now + Duration::from_secs(1);
        assert_eq!((0..4).map(|_| bucket.take(later).as_millis()).collect::<Vec<_>>(), [0, 0, 0, 100]);
    }

    #[test]
    fn a_healthy_endpoint_is_never_held_back() {
        let throttling = Throttling::new(Throttle::default());
        let now = Instant::now();
        for _ in 0..1_000 {
            assert!(!throttling.holds_back(now));
            throttling.succeeded(now);
        }
    }

    #[test]
    fn refusals_bring_the_rate_down_and_time_brings_it_up_again() {
        let throttling = Throttling::new(Throttle::default());
        let start = Instant::now();
        let (mut sent, mut taken) = (0, 0);
        for n in 0..6_000u64 {
            // A hundred a second, of which the endpoint takes the first ten that reach it.
            let now = start + Duration::from_millis(10 * n);
            if n % 100 == 0 {
                taken = 0;
            }
            if !throttling.holds_back(now) {
                sent += 1;
                if taken < 10 {
                    taken += 1;
                    throttling.succeeded(now);
                }
            }
        }
        // Two for each that is taken, of a hundred; the beginning apart, when nothing was known.
        assert!((900..2_000).contains(&sent), "{sent}");
        let later = start + Duration::from_secs(200);
        assert!(!throttling.holds_back(later));
    }
}
