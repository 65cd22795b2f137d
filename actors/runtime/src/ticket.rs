//! Tickets: the account that a pipeline keeps of what it has let in.
//!
//! Every record carries a ticket from admission to its end. The ticket is the only way to end a record, it is consumed
//! by that, and it ends the record as cancelled when it is dropped; so each record has exactly one outcome. It also
//! holds the record's share of the entry budget, which returns when the record ends.
//!
//! A record that becomes several, or that has a deadline, has its account in a shared [`Family`]: the last member
//! settles it, unless the deadline timer was first. Its memory counts until the last member is gone, even then.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
};

use millstream_edge::{Closed, Cost, Ledger, Limits};

use crate::{
    deadline::Reaper,
    envelope::Position,
    outcome::{Observer, Outcome, OutcomeCounters, Terminal},
};

/// What all tickets of a pipeline share.
pub(crate) struct Accounts {
    entry: Ledger,
    pub(crate) counters: OutcomeCounters,
    observer: Option<Arc<dyn Observer>>,
    /// Bytes that grown records hold beyond the entry budget, and the most there ever were.
    overdraft: AtomicU64,
    peak: AtomicU64,
    pub(crate) reaper: Reaper,
}

impl Accounts {
    pub(crate) fn new(entry: Limits, observer: Option<Arc<dyn Observer>>) -> Arc<Self> {
        Arc::new(Accounts {
            entry: Ledger::new(entry),
            counters: OutcomeCounters::default(),
            observer,
            overdraft: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            reaper: Reaper::default(),
        })
    }

    /// Waits until the entry budget has room for this much.
    pub(crate) fn reserve(&self, cost: Cost) -> Result<(), Closed> {
        self.entry.take(cost)?;
        self.peak.fetch_max(self.entry.outstanding().bytes, Ordering::Relaxed);
        Ok(())
    }

    /// As [`Accounts::reserve`], without waiting.
    pub(crate) fn try_reserve(&self, cost: Cost) -> bool {
        let taken = self.entry.try_take(cost).is_some();
        if taken {
            self.peak.fetch_max(self.entry.outstanding().bytes, Ordering::Relaxed);
        }
        taken
    }

    /// What a reservation really takes of the budget.
    pub(crate) fn debit(&self, cost: Cost) -> Cost {
        self.entry.debit(cost)
    }

    /// What is reserved at the moment.
    pub(crate) fn reserved(&self) -> Cost {
        self.entry.outstanding()
    }

    /// The most bytes that were ever reserved at once.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Bytes that records hold beyond what they had reserved, because they grew more than their stages declared.
    pub(crate) fn overdraft(&self) -> u64 {
        self.overdraft.load(Ordering::Relaxed)
    }

    /// Lets nothing in any more and wakes who waits to.
    pub(crate) fn close(&self) {
        self.entry.close();
    }

    fn report(&self, id: u64, position: Position, outcome: Outcome) {
        if let Some(observer) = &self.observer {
            observer.ended(Terminal { id, position, outcome });
        }
    }
}

/// Collects ends, so that the shared counters and the entry ledger are touched once per chunk.
#[derive(Default)]
pub(crate) struct Tally {
    ended: [u64; Outcome::ALL.len()],
    permit: Cost,
    overdraft: u64,
}

impl Tally {
    pub(crate) fn flush(&mut self, accounts: &Accounts) {
        for outcome in Outcome::ALL {
            accounts.counters.end(outcome, std::mem::take(&mut self.ended[outcome as usize]));
        }
        if self.overdraft > 0 {
            accounts.overdraft.fetch_sub(std::mem::take(&mut self.overdraft), Ordering::Relaxed);
        }
        accounts.entry.give(std::mem::take(&mut self.permit));
    }
}

/// A share of the entry budget.
#[derive(Clone, Copy, Debug, Default)]
struct Permit {
    reserved: u64,
    overdraft: u64,
}

/// One record's account; see the module.
pub(crate) struct Ticket {
    accounts: Arc<Accounts>,
    id: u64,
    position: Position,
    permit: Permit,
    family: Option<Arc<Family>>,
    settled: bool,
}

impl Ticket {
    /// The ticket of a record whose cost has been reserved.
    pub(crate) fn new(accounts: &Arc<Accounts>, id: u64, position: Position, reserved: u64) -> Self {
        let permit = Permit { reserved, overdraft: 0 };
        Ticket { accounts: accounts.clone(), id, position, permit, family: None, settled: false }
    }

    /// Ends the record, or this member of it.
    pub(crate) fn settle(mut self, outcome: Outcome, tally: &mut Tally) {
        self.settled = true;
        match &self.family {
            Some(family) => family.leave(outcome),
            None => {
                tally.ended[outcome as usize] += 1;
                tally.permit = tally.permit.plus(Cost { records: 1, bytes: self.permit.reserved });
                tally.overdraft += self.permit.overdraft;
                self.accounts.report(self.id, self.position, outcome);
            }
        }
    }

    /// Notes that the record now weighs this much. What the reservation lacks is taken if it is free, and counted as an
    /// overdraft if not: a record that has already grown cannot wait.
    pub(crate) fn grow(&mut self, bytes: u64) {
        if self.family.is_some() {
            return;
        }
        let held = self.permit.reserved + self.permit.overdraft;
        let more = bytes.saturating_sub(held);
        if more == 0 {
            return;
        }
        let taken = self.accounts.entry.take_available(Cost { records: 0, bytes: more }).bytes;
        self.permit.reserved += taken;
        self.permit.overdraft += more - taken;
        self.accounts.overdraft.fetch_add(more - taken, Ordering::Relaxed);
        self.accounts.peak.fetch_max(self.accounts.entry.outstanding().bytes, Ordering::Relaxed);
    }

    /// Moves the account to a shared place, where a timer can settle it too.
    pub(crate) fn share(&mut self) -> Weak<Family> {
        let family = self.family.get_or_insert_with(|| {
            Arc::new(Family {
                accounts: self.accounts.clone(),
                id: self.id,
                position: self.position,
                permit: std::mem::take(&mut self.permit),
                left: AtomicU64::new(1),
                worst: AtomicU8::new(Outcome::Ok as u8),
                claimed: AtomicBool::new(false),
            })
        });
        Arc::downgrade(family)
    }

    /// Another member of the same record.
    pub(crate) fn fork(&mut self) -> Ticket {
        self.share();
        if let Some(family) = &self.family {
            family.left.fetch_add(1, Ordering::Relaxed);
        }
        Ticket { accounts: self.accounts.clone(), id: self.id, position: self.position, permit: Permit::default(), family: self.family.clone(), settled: false }
    }

    /// Whether the record was ended behind our back, by the deadline timer.
    pub(crate) fn is_claimed(&self) -> bool {
        self.family.as_ref().is_some_and(|family| family.claimed.load(Ordering::Acquire))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        match &self.family {
            Some(family) => family.leave(Outcome::Cancelled),
            None => {
                self.accounts.counters.end(Outcome::Cancelled, 1);
                self.accounts.overdraft.fetch_sub(self.permit.overdraft, Ordering::Relaxed);
                self.accounts.entry.give(Cost { records: 1, bytes: self.permit.reserved });
                self.accounts.report(self.id, self.position, Outcome::Cancelled);
            }
        }
    }
}

/// The account of a record that is in several places.
pub(crate) struct Family {
    accounts: Arc<Accounts>,
    id: u64,
    position: Position,
    permit: Permit,
    left: AtomicU64,
    worst: AtomicU8,
    claimed: AtomicBool,
}

impl Family {
    /// Ends the whole record, if nobody has yet.
    pub(crate) fn claim(&self, outcome: Outcome) {
        if !self.claimed.swap(true, Ordering::AcqRel) {
            self.accounts.counters.end(outcome, 1);
            self.accounts.report(self.id, self.position, outcome);
        }
    }

    fn leave(&self, outcome: Outcome) {
        self.worst.fetch_max(outcome as u8, Ordering::AcqRel);
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let worst = self.worst.load(Ordering::Acquire);
            self.claim(Outcome::ALL.into_iter().find(|o| *o as u8 == worst).unwrap_or(Outcome::Cancelled));
        }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.accounts.overdraft.fetch_sub(self.permit.overdraft, Ordering::Relaxed);
        self.accounts.entry.give(Cost { records: 1, bytes: self.permit.reserved });
    }
}
