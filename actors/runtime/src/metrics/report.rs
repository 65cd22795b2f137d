//! What a pipeline leaves behind: counts, times, dead letters, and the proof that it gave everything back.

use std::{fmt, time::Duration};

use millstream_edge::Cost;

use super::Snapshot;
use crate::{dead_letter::DeadLetter, outcome::Counts};

/// What was not given back at the end. All zero, unless threads had to be left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Residue {
    /// Credits of edges that are still out.
    pub credits: Cost,
    /// Permits of the entry budget that are still out.
    pub permits: Cost,
    /// Bytes of overdraft that are still out.
    pub overdraft: u64,
    /// Worker threads that did not end in time; they run in user code.
    pub threads: usize,
}

/// The end of a pipeline.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// How many records ended how.
    pub counts: Counts,
    /// From start to end.
    pub elapsed: Duration,
    /// The counters of every stage and edge at the end.
    pub snapshot: Snapshot,
    /// The latest dead letters, oldest first (up to 256).
    pub dead_letters: Vec<DeadLetter>,
    /// What was not given back.
    pub residue: Residue,
}

impl Report {
    /// Records that ended, per second.
    pub fn records_per_second(&self) -> f64 {
        self.counts.ended() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// A table of the stages under a line of counts.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { ok, cancelled, expired, rejected, dead_lettered, .. } = self.counts;
        write!(f, "{} records in {:.2?}, {:.0}/s: {ok} ok", self.counts.ended(), self.elapsed, self.records_per_second())?;
        let others = [(cancelled, "cancelled"), (expired, "expired"), (rejected, "rejected"), (dead_lettered, "dead letters")];
        for (count, what) in others {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        writeln!(f)?;
        let width = self.snapshot.stages.iter().map(|stage| stage.name.chars().count()).max().unwrap_or(0).max(5);
        writeln!(f, "{:width$}  {:>8}  {:>10}  {:>10}  {:>10}  {:>10}", "stage", "replicas", "in", "out", "busy", "waiting")?;
        for stage in &self.snapshot.stages {
            writeln!(
                f,
                "{:width$}  {:>8}  {:>10}  {:>10}  {:>10}  {:>10}",
                stage.name,
                stage.replicas,
                stage.records_in,
                stage.records_out,
                format!("{:.1?}", stage.busy),
                format!("{:.1?}", stage.credit_wait)
            )?;
        }
        Ok(())
    }
}
