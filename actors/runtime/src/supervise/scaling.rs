//! How many replicas a stage has: as many as its queue's delay asks for.

use std::time::{Duration, Instant};

/// When a stage with a range of replicas gets another, and when it loses one.
///
/// The delay is that of what waits, at the rate at which the stage works when it works: records for each second that a replica
/// was busy. It is looked at only while something waits or more than the fewest replicas run: a pipeline that is idle has
/// nobody who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scaling {
    /// Where records would wait longer than this, replicas are added. 50 ms by default.
    pub delay: Duration,
    /// How often that is looked at. 100 ms by default.
    pub every: Duration,
    /// How long a change is left to show what it does. A second by default.
    pub cooldown: Duration,
    /// Whether any of this happens, or replicas change by hand only.
    pub automatic: bool,
}

impl Default for Scaling {
    fn default() -> Self {
        Scaling { delay: Duration::from_millis(50), every: Duration::from_millis(100), cooldown: Duration::from_secs(1), automatic: true }
    }
}

impl Scaling {
    /// Replicas change by [`crate::Handle::scale`] only.
    pub fn by_hand() -> Self {
        Scaling { automatic: false, ..Scaling::default() }
    }
}

/// So many looks must agree before replicas are added ...
const LOOKS_UP: u32 = 2;
/// ... and before one is taken away.
const LOOKS_DOWN: u32 = 10;
/// One is taken away if the others would then be busy for less than this part of their time.
const SPARE: f64 = 0.6;

/// What is seen at one look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Records that wait.
    pub(super) queued: u64,
    /// Records that were ever taken.
    pub(super) taken: u64,
    /// The time that all replicas together were ever busy.
    pub(super) busy: Duration,
}

pub(super) struct Scaler {
    rules: Scaling,
    last: Option<(Instant, Load)>,
    /// Records for each busy second of a replica.
    pace: Option<f64>,
    /// When a record was last taken, or none waited.
    moved: Option<Instant>,
    /// The part of their time for which replicas are busy.
    share: f64,
    above: u32,
    below: u32,
    changed: Option<Instant>,
}

impl Scaler {
    pub(super) fn new(rules: Scaling) -> Self {
        Scaler { rules, last: None, pace: None, moved: None, share: 1.0, above: 0, below: 0, changed: None }
    }

    /// Nobody looks for a while: what was seen last says nothing about what is seen next.
    pub(super) fn pause(&mut self) {
        (self.last, self.moved, self.above, self.below) = (None, None, 0, 0);
    }

    /// Replicas were changed, by whomever.
    pub(super) fn changed(&mut self, now: Instant) {
        (self.changed, self.above, self.below) = (Some(now), 0, 0);
    }

    /// How many replicas there should be instead of those that run, if so.
    pub(super) fn look(&mut self, now: Instant, load: Load, running: usize, (fewest, most): (usize, usize)) -> Option<usize> {
        let Some((before, last)) = self.last.replace((now, load)) else {
            self.moved = Some(now);
            return None;
        };
        let taken = load.taken - last.taken;
        let busy = load.busy.saturating_sub(last.busy).as_secs_f64();
        if taken > 0 && busy > 0.0 {
            let pace = taken as f64 / busy;
            self.pace = Some(self.pace.map_or(pace, |old| old + (pace - old) * 0.3));
        }
        if taken > 0 || load.queued == 0 {
            self.moved = Some(now);
        }
        let room = now.duration_since(before).as_secs_f64() * running.max(1) as f64;
        self.share += ((busy / room.max(1e-9)).min(1.0) - self.share) * 0.3;
        let stuck = self.moved.map_or(Duration::ZERO, |moved| now.duration_since(moved));
        let at_pace = self.pace.map_or(0.0, |pace| load.queued as f64 / (pace * running.max(1) as f64));
        let delay = if load.queued == 0 { 0.0 } else { at_pace.max(stuck.as_secs_f64()) };

        let target = self.rules.delay.as_secs_f64();
        let spare = running > 1 && self.share * running as f64 / ((running - 1) as f64) < SPARE;
        self.above = if delay > target { self.above + 1 } else { 0 };
        self.below = if delay < target / 4.0 && spare { self.below + 1 } else { 0 };
        if self.changed.is_some_and(|changed| now.duration_since(changed) < self.rules.cooldown) {
            return None;
        }
        if self.above >= LOOKS_UP && running < most {
            return Some((running * 2).min(most));
        }
        (self.below >= LOOKS_DOWN && running > fewest).then(|| running - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stage whose replicas take a millisecond for a record.
    struct Stage {
        scaler: Scaler,
        now: Instant,
        load: Load,
        running: usize,
        changes: Vec<usize>,
    }

    impl Stage {
        fn new() -> Self {
            let load = Load { queued: 0, taken: 0, busy: Duration::ZERO };
            Stage { scaler: Scaler::new(Scaling::default()), now: Instant::now(), load, running: 1, changes: Vec::new() }
        }

        /// Lets so many tenths of a second pass, with so many records in each.
        fn pass(&mut self, looks: u32, arrivals: u64) -> &[usize] {
            for _ in 0..looks {
                self.now += Duration::from_millis(100);
                self.load.queued += arrivals;
                let done = self.load.queued.min(100 * self.running as u64);
                self.load.queued -= done;
                self.load.taken += done;
                self.load.busy += Duration::from_millis(done);
                if let Some(wanted) = self.scaler.look(self.now, self.load, self.running, (1, 4)) {
                    self.running = wanted;
                    self.changes.push(wanted);
                    self.scaler.changed(self.now);
                }
            }
            &self.changes
        }
    }

    #[test]
    fn replicas_follow_the_load_and_do_not_flap() {
        let mut stage = Stage::new();
        assert!(stage.pass(50, 90).is_empty(), "one is enough");
        assert_eq!(stage.pass(30, 350), [2, 4]);
        assert_eq!(stage.pass(100, 350), [2, 4], "four have just enough to do");
        assert_eq!(stage.pass(100, 150), [2, 4, 3], "three have, at half of it; two would be at three quarters");
        assert_eq!(stage.pass(100, 0), [2, 4, 3, 2, 1]);
        assert_eq!(stage.pass(100, 30), [2, 4, 3, 2, 1]);
    }

    #[test]
    fn a_stage_that_is_stuck_in_one_record_gets_help() {
        let mut stage = Stage::new();
        stage.pass(1, 0);
        // Nothing moves, and it is not known how long a record takes.
        let changed = (0..10).find_map(|_| {
            stage.now += Duration::from_millis(100);
            stage.load.queued += 1;
            stage.scaler.look(stage.now, stage.load, 1, (1, 4))
        });
        assert_eq!(changed, Some(2));
    }
}
