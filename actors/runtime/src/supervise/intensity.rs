//! How often a stage may be restarted, and how long it waits before.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

/// How crashes are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Supervision {
    /// How many restarts a stage gets ...
    pub restarts: u32,
    /// ... within this time. The next crash within it fails the pipeline.
    pub within: Duration,
    /// The pause before the first restart; it doubles with each, and varies by a fifth.
    pub backoff: Duration,
    /// The longest pause.
    pub max_backoff: Duration,
    /// After so long without a crash, pauses begin at the first again.
    pub healthy: Duration,
}

impl Default for Supervision {
    fn default() -> Self {
        Supervision {
            restarts: 3,
            within: Duration::from_secs(5),
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(30),
            healthy: Duration::from_secs(60),
        }
    }
}

/// One stage's record of restarts.
pub(super) struct Intensity {
    rules: Supervision,
    restarts: VecDeque<Instant>,
    streak: u32,
}

impl Intensity {
    pub(super) fn new(rules: Supervision) -> Self {
        Intensity { rules, restarts: VecDeque::new(), streak: 0 }
    }

    /// A worker crashed: the pause before its restart, or `None` if that was once too often.
    pub(super) fn crash(&mut self, now: Instant) -> Option<Duration> {
        if self.restarts.back().is_none_or(|last| now.duration_since(*last) > self.rules.healthy) {
            self.streak = 0;
        }
        while self.restarts.front().is_some_and(|first| now.duration_since(*first) > self.rules.within) {
            self.restarts.pop_front();
        }
        if self.restarts.len() >= self.rules.restarts as usize {
            return None;
        }
        self.restarts.push_back(now);
        let pause = self.rules.backoff.saturating_mul(1 << self.streak.min(20)).min(self.rules.max_backoff);
        self.streak += 1;
        // 0.9 to 1.1: replicas that crashed together do not come back together.
        let jitter = 0.9 + (RandomState::new().hash_one(0) % 1024) as f64 / 1024.0 * 0.2;
        Some(pause.mul_f64(jitter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fourth_crash_within_the_window_is_one_too_many() {
        let mut intensity = Intensity::new(Supervision::default());
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let pauses: Vec<_> = [0, 500, 1_000].map(|t| intensity.crash(at(t)).unwrap().as_millis()).into();
        for (pause, nominal) in pauses.iter().zip([100, 200, 400]) {
            assert!((nominal * 9 / 10 - 1..=nominal * 11 / 10).contains(pause), "{pause} for {nominal}");
        }
        assert_eq!(intensity.crash(at(2_000)), None);
        // Outside the window the count starts anew, the pauses only after a healthy minute.
        assert!(intensity.crash(at(10_000)).unwrap().as_millis() >= 700);
        assert!(intensity.crash(at(200_000)).unwrap().as_millis() <= 110);
    }
}
