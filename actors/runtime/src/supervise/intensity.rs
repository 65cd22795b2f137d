//! How often stages may be restarted, and how long they wait before.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

/// Which stages of a group begin afresh when one of them has crashed. Those that did not crash end at the end of the chunk
/// or batch that they have in hand; what waits for them waits for their fresh instances. Nothing is lost or reordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// The worker that crashed. The default: right where instances know nothing of each other.
    OneForOne,
    /// The stage that crashed, and those of its group that its records come to: right where these rely on what that one has
    /// told them before.
    RestForOne,
    /// All stages of the group.
    OneForAll,
}

/// What happens when a stage crashes more often than its supervision allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exceeded {
    /// The pipeline fails, with the cause. The default.
    Escalate,
    /// The stage goes into quarantine: its records go to the dead letters, and the rest of the graph goes on. Not together
    /// with checkpoints, which could not tell what is in the letters.
    Quarantine,
}

/// How crashes are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Supervision {
    /// Which stages begin afresh when one has crashed.
    pub strategy: Strategy,
    /// How many restarts a stage gets, or a group of stages together, ...
    pub restarts: u32,
    /// ... within this time. What the next crash within it means, `exceeded` says.
    pub within: Duration,
    /// What happens when that was once too often.
    pub exceeded: Exceeded,
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
            strategy: Strategy::OneForOne,
            exceeded: Exceeded::Escalate,
            restarts: 3,
            within: Duration::from_secs(5),
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(30),
            healthy: Duration::from_secs(60),
        }
    }
}

/// A group's record of restarts.
pub(super) struct Intensity {
    rules: Supervision,
    restarts: VecDeque<Instant>,
    streak: u32,
}

impl Intensity {
    pub(super) fn new(rules: Supervision) -> Self {
        Intensity { rules, restarts: VecDeque::new(), streak: 0 }
    }

    pub(super) fn rules(&self) -> Supervision {
        self.rules
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
