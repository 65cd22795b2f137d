//! What every pipeline test checks at its end, and seeds for those that roll dice.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use millstream_runtime::{Counts, Observer, Outcome, PipelineError, Report, Residue, Terminal};

/// Counts how often each record ended.
#[derive(Default)]
pub struct Ends(Mutex<HashMap<u64, Vec<Outcome>>>);

impl Observer for Ends {
    fn ended(&self, terminal: Terminal) {
        self.0.lock().unwrap().entry(terminal.id).or_default().push(terminal.outcome);
    }
}

impl Ends {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Every record ended once, the counts agree, and nothing is left behind.
    pub fn check(&self, report: &Report) {
        let ends = self.0.lock().unwrap();
        let mut counts = HashMap::new();
        for (id, outcomes) in ends.iter() {
            assert_eq!(outcomes.len(), 1, "record {id} ended {outcomes:?}");
            *counts.entry(outcomes[0]).or_insert(0u64) += 1;
        }
        let count = |outcome| counts.get(&outcome).copied().unwrap_or(0);
        let Counts { admitted, ok, cancelled, expired, rejected, dead_lettered, .. } = report.counts;
        assert_eq!(ok, count(Outcome::Ok));
        assert_eq!(cancelled, count(Outcome::Cancelled));
        assert_eq!(expired, count(Outcome::Expired));
        assert_eq!(dead_lettered, count(Outcome::DeadLettered));
        assert_eq!(admitted, ends.len() as u64 + rejected, "admitted records without an end");
        assert_eq!(report.counts.in_flight(), 0);
        assert_eq!(report.residue, Residue::default(), "something was not given back");
    }
}

/// The report of a pipeline that was meant to fail, and why it did.
pub fn failure(result: Result<Report, PipelineError>) -> (millstream_runtime::Cause, Report) {
    match result {
        Err(PipelineError::Failed { cause, report }) => (cause, *report),
        Err(other) => panic!("{other}"),
        Ok(report) => panic!("did not fail: {report}"),
    }
}

/// A small generator of numbers that only its seed decides.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % sides
    }
}
