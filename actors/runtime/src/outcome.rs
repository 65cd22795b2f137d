//! Terminal outcomes: every admitted record gets exactly one.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::envelope::Position;

/// How a record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum Outcome {
    /// It went all the way: a sink has it, or a stage consumed it.
    Ok = 0,
    /// It was given up: by its token, or because the pipeline was aborted.
    Cancelled = 1,
    /// Its deadline passed.
    Expired = 2,
    /// It was not let in.
    Rejected = 3,
    /// It failed, and the dead-letter sink has it.
    DeadLettered = 4,
}

impl Outcome {
    /// All outcomes; for a record that became several, the last of these that any of them met counts.
    pub const ALL: [Outcome; 5] = [Outcome::Ok, Outcome::Cancelled, Outcome::Expired, Outcome::Rejected, Outcome::DeadLettered];

    /// The word that metrics use.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Cancelled => "cancelled",
            Outcome::Expired => "expired",
            Outcome::Rejected => "rejected",
            Outcome::DeadLettered => "dead_lettered",
        }
    }
}

/// The end of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Terminal {
    /// The record.
    pub id: u64,
    /// Which of the pipeline's sources it came from, in the order in which they were connected.
    pub source: u32,
    /// Where in the source it came from.
    pub position: Position,
    /// How it ended.
    pub outcome: Outcome,
}

/// Is told how each record ends, once, on whatever thread that happens. Must be quick and must not panic.
pub trait Observer: Send + Sync {
    /// A record has ended.
    fn ended(&self, terminal: Terminal);
}

/// How many records ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Records let in, or rejected.
    pub admitted: u64,
    /// See [`Outcome::Ok`].
    pub ok: u64,
    /// See [`Outcome::Cancelled`].
    pub cancelled: u64,
    /// See [`Outcome::Expired`].
    pub expired: u64,
    /// See [`Outcome::Rejected`].
    pub rejected: u64,
    /// See [`Outcome::DeadLettered`].
    pub dead_lettered: u64,
}

impl Counts {
    /// Records that have ended.
    pub fn ended(&self) -> u64 {
        self.ok + self.cancelled + self.expired + self.rejected + self.dead_lettered
    }

    /// Records that are still on their way.
    pub fn in_flight(&self) -> u64 {
        self.admitted.saturating_sub(self.ended())
    }
}

#[derive(Default)]
pub(crate) struct OutcomeCounters {
    admitted: AtomicU64,
    ended: [AtomicU64; Outcome::ALL.len()],
}

impl OutcomeCounters {
    pub(crate) fn admit(&self, records: u64) {
        self.admitted.fetch_add(records, Ordering::Relaxed);
    }

    pub(crate) fn end(&self, outcome: Outcome, records: u64) {
        if records > 0 {
            self.ended[outcome as usize].fetch_add(records, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self) -> Counts {
        let ended = |outcome: Outcome| self.ended[outcome as usize].load(Ordering::Relaxed);
        Counts {
            ok: ended(Outcome::Ok),
            cancelled: ended(Outcome::Cancelled),
            expired: ended(Outcome::Expired),
            rejected: ended(Outcome::Rejected),
            dead_lettered: ended(Outcome::DeadLettered),
            // Read last: never less than what has ended.
            admitted: self.admitted.load(Ordering::Relaxed),
        }
    }
}
