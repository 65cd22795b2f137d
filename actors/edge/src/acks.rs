//! Which of the records that a source has let in are done: a ring of bits.
//!
//! Any thread sets the bit of a record that is done; the source's side takes bits away, in the order of its partitions,
//! and gives a slot to the next record only when its bit has been taken. A word with a count says that something has
//! changed.
//!
//! The wake protocol is the ledger's. Setting side: set the bit, then add to the count; if this very operation found that
//! somebody waits, take the lock and notify. Waiting side, under the lock: mark the count, then look at the bits, then
//! sleep. Both change one word, so one comes first: either the look sees the bit, or the setter sees the mark.

use crate::sync::{AtomicU64, Condvar, Mutex, Ordering, lock};

const WORD: u64 = u64::BITS as u64;
/// Somebody waits.
const WAITER: u64 = 1;

/// A ring of bits, one for each record on its way.
pub struct AckRing {
    words: Vec<AtomicU64>,
    changes: AtomicU64,
    waiting: Mutex<usize>,
    changed: Condvar,
}

impl AckRing {
    /// For at least so many records at once.
    pub fn new(records: u64) -> Self {
        let words = records.div_ceil(WORD).max(1);
        AckRing { words: (0..words).map(|_| AtomicU64::new(0)).collect(), changes: AtomicU64::new(0), waiting: Mutex::new(0), changed: Condvar::new() }
    }

    /// How many records may be on their way: a slot may be used when the one so many before it has been taken.
    pub fn capacity(&self) -> u64 {
        self.words.len() as u64 * WORD
    }

    /// The record in this slot is done.
    pub fn done(&self, slot: u64) {
        let (word, bit) = self.place(slot);
        word.fetch_or(bit, Ordering::Release);
        self.poke();
    }

    /// Takes a slot's bit away; whether it was set.
    pub fn take(&self, slot: u64) -> bool {
        let (word, bit) = self.place(slot);
        word.load(Ordering::Acquire) & bit != 0 && word.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    /// Lets those who wait look again.
    pub fn poke(&self) {
        if self.changes.fetch_add(2, Ordering::AcqRel) & WAITER != 0 {
            // The empty critical section orders us after the look of a waiter that is about to sleep.
            drop(lock(&self.waiting));
            self.changed.notify_all();
        }
    }

    /// Waits until the condition holds. It is looked at whenever a record is done, and after a poke.
    pub fn wait(&self, mut condition: impl FnMut() -> bool) {
        let mut waiting = lock(&self.waiting);
        *waiting += 1;
        loop {
            self.changes.fetch_or(WAITER, Ordering::AcqRel);
            if condition() {
                break;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        *waiting -= 1;
        if *waiting == 0 {
            self.changes.fetch_and(!WAITER, Ordering::AcqRel);
        }
    }

    fn place(&self, slot: u64) -> (&AtomicU64, u64) {
        let at = slot % self.capacity();
        (&self.words[(at / WORD) as usize], 1 << (at % WORD))
    }
}
