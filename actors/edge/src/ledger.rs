//! The credit ledger: how much more an edge, or a whole pipeline, may hold, in records and in bytes.
//!
//! Both balances live in one atomic word (23 bits of records, 40 bits of bytes), so that a request takes both or
//! neither with one compare-and-swap, and a release is one addition. Who finds too little takes a turn in a queue:
//! turns are served in order, so a large request is never starved by small ones, and while anyone waits nobody
//! overtakes through the fast path.
//!
//! The wake protocol. The word's top bit says that somebody waits. Waiting side, under the lock: set the bit, and look
//! at the balance that this very operation returned; if it is too small, note what is wanted and sleep. Releasing side:
//! add to the balance; if this very operation returned the bit, take the lock, and notify if the balance is what the
//! first in line wants. Both are read-modify-writes of one word, so one of them comes first and the other sees it; and
//! the lock closes the gap between the waiter's look and its sleep. Whoever comes to stand first is woken to look, so
//! that what is wanted is always the first one's; records that come back one by one wake nobody in vain.

use std::{error::Error, fmt};

use crate::sync::{Arc, AtomicBool, AtomicU64, Condvar, Mutex, Ordering, lock};

const BYTE_BITS: u32 = 40;
const MAX_BYTES: u64 = (1 << BYTE_BITS) - 1;
const MAX_RECORDS: u32 = (1 << (63 - BYTE_BITS)) - 1;
/// Somebody waits.
const WAITERS: u64 = 1 << 63;

/// What an item, a chunk or a batch weighs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cost {
    /// How many records.
    pub records: u32,
    /// How many bytes they take together.
    pub bytes: u64,
}

impl Cost {
    /// The sum of two costs.
    #[must_use]
    pub fn plus(self, other: Cost) -> Cost {
        Cost { records: self.records.saturating_add(other.records), bytes: self.bytes.saturating_add(other.bytes) }
    }

    fn word(self) -> u64 {
        (u64::from(self.records) << BYTE_BITS) | self.bytes
    }

    fn from_word(word: u64) -> Cost {
        Cost { records: ((word & !WAITERS) >> BYTE_BITS) as u32, bytes: word & MAX_BYTES }
    }
}

/// The most that a ledger lets out at any time. Clamped to 2²³ − 1 records and 2⁴⁰ − 1 bytes, and to at least one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Records at once.
    pub records: u32,
    /// Bytes at once.
    pub bytes: u64,
}

impl Limits {
    fn clamped(self) -> Cost {
        Cost { records: self.records.clamp(1, MAX_RECORDS), bytes: self.bytes.clamp(1, MAX_BYTES) }
    }
}

/// The ledger was closed: nobody gets a credit any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the edge is closed")
    }
}

impl Error for Closed {}

/// A balance of credits and the line of those who wait for it. Shared through an `Arc`.
pub struct Ledger {
    limits: Cost,
    free: AtomicU64,
    closed: AtomicBool,
    turns: Mutex<Turns>,
    changed: Condvar,
}

struct Turns {
    next: u64,
    serving: u64,
    waiting: usize,
    /// What the first in line found too little for, if it has looked.
    wanted: Cost,
}

impl Ledger {
    /// A ledger with everything free.
    pub fn new(limits: Limits) -> Self {
        let limits = limits.clamped();
        Ledger {
            limits,
            free: AtomicU64::new(limits.word()),
            closed: AtomicBool::new(false),
            turns: Mutex::new(Turns { next: 0, serving: 0, waiting: 0, wanted: Cost::default() }),
            changed: Condvar::new(),
        }
    }

    /// What was asked for at most: the clamped limits.
    pub fn limits(&self) -> Limits {
        Limits { records: self.limits.records, bytes: self.limits.bytes }
    }

    /// What a request really takes: no more than the whole, so that an oversized item passes, alone.
    pub fn debit(&self, cost: Cost) -> Cost {
        Cost { records: cost.records.min(self.limits.records), bytes: cost.bytes.min(self.limits.bytes) }
    }

    /// Takes the credits at once, or nothing: `None` when there are too few, when somebody waits, or after a close.
    pub fn try_take(&self, cost: Cost) -> Option<Cost> {
        if self.closed.load(Ordering::Relaxed) {
            return None;
        }
        let debit = self.debit(cost);
        let word = self.free.load(Ordering::Acquire);
        self.subtract(word, debit, false).then_some(debit)
    }

    /// Takes the credits, waiting in line for them.
    ///
    /// # Errors
    /// [`Closed`] when the ledger is closed, before or while waiting; then nothing was taken.
    pub fn take(&self, cost: Cost) -> Result<Cost, Closed> {
        if let Some(debit) = self.try_take(cost) {
            return Ok(debit);
        }
        let debit = self.debit(cost);
        let mut turns = lock(&self.turns);
        turns.waiting += 1;
        let turn = turns.next;
        turns.next += 1;
        let mut word = self.free.fetch_or(WAITERS, Ordering::AcqRel);
        let taken = loop {
            if self.closed.load(Ordering::Relaxed) {
                break Err(Closed);
            }
            if turns.serving == turn {
                if self.subtract(word, debit, true) {
                    break Ok(debit);
                }
                turns.wanted = debit;
            }
            turns = self.changed.wait(turns).unwrap_or_else(|poisoned| poisoned.into_inner());
            word = self.free.load(Ordering::Acquire);
        };
        // In a closed ledger everybody leaves, in any order: turns no longer matter there.
        turns.serving += 1;
        turns.waiting -= 1;
        // The next in line has not looked yet.
        turns.wanted = Cost::default();
        if turns.waiting == 0 {
            self.free.fetch_and(!WAITERS, Ordering::AcqRel);
        }
        drop(turns);
        self.changed.notify_all();
        taken
    }

    /// Takes credits for something that has already grown, without waiting and without regard to who waits: as much of
    /// the cost as is free. The result says what was taken.
    pub fn take_available(&self, cost: Cost) -> Cost {
        let mut word = self.free.load(Ordering::Acquire);
        loop {
            let free = Cost::from_word(word);
            let part = Cost { records: cost.records.min(free.records), bytes: cost.bytes.min(free.bytes) };
            match self.free.compare_exchange(word, word - part.word(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return part,
                Err(now) => word = now,
            }
        }
    }

    /// Gives back exactly what was taken.
    pub fn give(&self, debit: Cost) {
        if debit == Cost::default() {
            return;
        }
        let before = self.free.fetch_add(debit.word(), Ordering::AcqRel);
        if before & WAITERS != 0 {
            // The critical section orders us after the look of a waiter that is about to sleep.
            let wanted = lock(&self.turns).wanted;
            let free = Cost::from_word(self.free.load(Ordering::Acquire));
            if free.records >= wanted.records && free.bytes >= wanted.bytes {
                self.changed.notify_all();
            }
        }
    }

    /// Takes the credits as a guard that gives them back when it is dropped.
    ///
    /// # Errors
    /// As [`Ledger::take`].
    pub fn acquire(self: Arc<Self>, cost: Cost) -> Result<Credit, Closed> {
        let debit = self.take(cost)?;
        Ok(Credit { ledger: self, debit })
    }

    /// As [`Ledger::acquire`], without waiting.
    pub fn try_acquire(self: Arc<Self>, cost: Cost) -> Option<Credit> {
        let debit = self.try_take(cost)?;
        Some(Credit { ledger: self, debit })
    }

    /// Refuses everything from now on and wakes all who wait. Credits that are out can still be given back.
    pub fn close(&self) {
        let turns = lock(&self.turns);
        self.closed.store(true, Ordering::Relaxed);
        drop(turns);
        self.changed.notify_all();
    }

    /// What is out at the moment.
    pub fn outstanding(&self) -> Cost {
        let free = Cost::from_word(self.free.load(Ordering::Acquire));
        Cost { records: self.limits.records - free.records, bytes: self.limits.bytes - free.bytes }
    }

    /// Whether somebody waits for credits at the moment.
    pub fn contended(&self) -> bool {
        self.free.load(Ordering::Acquire) & WAITERS != 0
    }

    /// Takes from the balance if it suffices, starting from what was last read of it.
    fn subtract(&self, mut word: u64, debit: Cost, in_turn: bool) -> bool {
        loop {
            let free = Cost::from_word(word);
            if free.records < debit.records || free.bytes < debit.bytes || (word & WAITERS != 0 && !in_turn) {
                return false;
            }
            match self.free.compare_exchange(word, word - debit.word(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }
}

/// Credits that somebody holds; dropping it gives them back.
pub struct Credit {
    ledger: Arc<Ledger>,
    debit: Cost,
}

impl Credit {
    /// What is still held.
    pub fn held(&self) -> Cost {
        self.debit
    }

    /// Takes over the credits of another guard of the same ledger.
    pub fn absorb(&mut self, mut other: Credit) {
        debug_assert!(Arc::ptr_eq(&self.ledger, &other.ledger), "credits of two ledgers do not mix");
        self.debit = self.debit.plus(std::mem::take(&mut other.debit));
    }

    /// Gives back a part: what items of this cost took, and never more than is held.
    pub fn release(&mut self, cost: Cost) {
        let part = Cost { records: cost.records.min(self.debit.records), bytes: cost.bytes.min(self.debit.bytes) };
        self.debit = Cost { records: self.debit.records - part.records, bytes: self.debit.bytes - part.bytes };
        self.ledger.give(part);
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.ledger.give(self.debit);
    }
}
