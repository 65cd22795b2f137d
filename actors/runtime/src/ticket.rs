//! Tickets: the account that a pipeline keeps of what it has let in.
//!
//! Every record carries a ticket from admission to its end. The ticket is the only way to end a record, it is consumed
//! by that, and it ends the record as cancelled when it is dropped; so each record has exactly one outcome. It also
//! holds the record's share of the entry budget, which returns when the record ends.
//!
//! A record that becomes several, or that has a deadline, has its account in a shared [`Family`]: the last member
//! settles it, unless the deadline timer was first. Its memory counts until the last member is gone, even then.
//!
//! Copies whose end does not matter have tickets of another [`Standing`]: they are no members that anybody waits for.
//! Records that were joined travel on one ticket that carries the others' along, and end as it ends.

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
};

use crossbeam::utils::CachePadded;
use millstream_edge::{Closed, Cost, Ledger, Limits};

use crate::{
    deadline::Reaper,
    delivery::Acks,
    envelope::Position,
    outcome::{Observer, Outcome, OutcomeCounters, Terminal},
    sequence::Sequence,
};

/// What all tickets of a pipeline share.
///
/// What all threads write keeps away from what they only read.
pub(crate) struct Accounts {
    entry: CachePadded<Ledger>,
    /// What shadow copies hold, apart from the entry budget, so that they never keep a record out.
    shadow: CachePadded<Ledger>,
    /// The next record's number, where there is no sequence that gives them out.
    next: CachePadded<AtomicU64>,
    pub(crate) sequence: Option<Arc<Sequence>>,
    /// For each source, in the order of their numbers.
    acks: OnceLock<Vec<Option<Arc<Acks>>>>,
    pub(crate) counters: CachePadded<OutcomeCounters>,
    observer: Option<Arc<dyn Observer>>,
    /// Bytes that grown records hold beyond the entry budget, and the most there ever were.
    overdraft: CachePadded<AtomicU64>,
    peak: CachePadded<AtomicU64>,
    pub(crate) reaper: Reaper,
}

impl Accounts {
    pub(crate) fn new(entry: Limits, shadow: Limits, sequence: Option<Arc<Sequence>>, observer: Option<Arc<dyn Observer>>) -> Arc<Self> {
        Arc::new(Accounts {
            entry: Ledger::new(entry).into(),
            shadow: Ledger::new(shadow).into(),
            next: AtomicU64::new(0).into(),
            sequence,
            acks: OnceLock::new(),
            counters: CachePadded::default(),
            observer,
            overdraft: AtomicU64::new(0).into(),
            peak: AtomicU64::new(0).into(),
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

    /// Numbers for so many records: the first of them.
    pub(crate) fn number(&self, records: u64) -> u64 {
        match &self.sequence {
            Some(sequence) => sequence.number(records),
            None => self.next.fetch_add(records, Ordering::Relaxed),
        }
    }

    /// What a reservation really takes of the budget.
    pub(crate) fn debit(&self, cost: Cost) -> Cost {
        self.entry.debit(cost)
    }

    /// What is reserved at the moment, by records and by shadow copies.
    pub(crate) fn reserved(&self) -> Cost {
        self.entry.outstanding().plus(self.shadow.outstanding())
    }

    /// The most bytes that may be reserved at once, by records and by shadow copies, if there is a limit.
    pub(crate) fn budget(&self) -> Option<u64> {
        let (entry, shadow) = (self.entry.limits().bytes, self.shadow.limits().bytes);
        (entry < u64::MAX).then(|| entry.saturating_add(shadow))
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
        if let Some(sequence) = &self.sequence {
            sequence.close();
        }
        for acks in self.acks.get().into_iter().flatten().flatten() {
            acks.close();
        }
    }

    /// Says which sources want to know when their records are done. Called once, before the first record.
    pub(crate) fn acknowledge(&self, sources: Vec<Option<Arc<Acks>>>) {
        let _ = self.acks.set(sources);
    }

    /// Whether some source wants to know when its records are done.
    pub(crate) fn acknowledges(&self) -> bool {
        self.acks.get().is_some_and(|sources| sources.iter().any(Option::is_some))
    }

    /// What is known of a source's records, if it wants to know.
    pub(crate) fn acks_of(&self, source: u32) -> Option<&Arc<Acks>> {
        self.acks.get()?.get(source as usize)?.as_ref()
    }

    /// A record has ended. One that was `lost` was thrown away by an abort: its source must deliver it again.
    fn report(&self, origin: Origin, outcome: Outcome, lost: bool) {
        if !lost && let Some(acks) = self.acks_of(origin.source) {
            acks.done(origin.slot);
        }
        if let Some(observer) = &self.observer {
            observer.ended(Terminal { id: origin.id, source: origin.source, position: origin.position, outcome });
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
    records: u32,
    reserved: u64,
    overdraft: u64,
}

impl Permit {
    fn cost(&self) -> Cost {
        Cost { records: self.records, bytes: self.reserved }
    }
}

/// Which record it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) id: u64,
    pub(crate) source: u32,
    pub(crate) position: Position,
    /// Where its source looks for its end, if it does.
    pub(crate) slot: u64,
}

/// What a ticket's end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is the record, or a part of it.
    Counts,
    /// A copy of a record whose end nobody waits for. The record's permit is held for it too.
    Silent,
    /// As silent, with a permit of its own from the shadows' ledger.
    Shadow,
}

/// One record's account; see the module.
pub(crate) struct Ticket {
    accounts: Arc<Accounts>,
    origin: Origin,
    permit: Permit,
    family: Option<Arc<Family>>,
    /// The tickets of records that were joined with this one.
    joined: Option<Box<Ticket>>,
    standing: Standing,
    settled: bool,
    /// It stands at the door before a sink, or is past it.
    arrived: bool,
}

impl Ticket {
    /// The ticket of a record whose cost has been reserved.
    pub(crate) fn new(accounts: &Arc<Accounts>, origin: Origin, reserved: u64) -> Self {
        let permit = Permit { records: 1, reserved, overdraft: 0 };
        Ticket { accounts: accounts.clone(), origin, permit, family: None, joined: None, standing: Standing::Counts, settled: false, arrived: false }
    }

    /// The ticket of a record that began within the pipeline. It cannot wait for room: what is not free is overdraft.
    pub(crate) fn born(accounts: &Arc<Accounts>, origin: Origin, bytes: u64) -> Self {
        let taken = accounts.entry.take_available(Cost { records: 1, bytes });
        let mut ticket = Ticket::new(accounts, origin, taken.bytes);
        ticket.permit = Permit { records: taken.records, reserved: taken.bytes, overdraft: bytes - taken.bytes };
        accounts.overdraft.fetch_add(bytes - taken.bytes, Ordering::Relaxed);
        accounts.peak.fetch_max(accounts.entry.outstanding().bytes, Ordering::Relaxed);
        ticket
    }

    /// Ends the record, or this member of it.
    pub(crate) fn settle(mut self, outcome: Outcome, tally: &mut Tally) {
        self.settled = true;
        self.depart();
        if let Some(joined) = self.joined.take() {
            joined.settle(outcome, tally);
        }
        match (&self.family, self.standing) {
            (_, Standing::Silent) => {}
            (Some(family), _) => family.leave(outcome),
            (None, Standing::Shadow) => self.accounts.shadow.give(self.permit.cost()),
            (None, Standing::Counts) => {
                tally.ended[outcome as usize] += 1;
                tally.permit = tally.permit.plus(self.permit.cost());
                tally.overdraft += self.permit.overdraft;
                self.accounts.report(self.origin, outcome, false);
            }
        }
    }

    /// Says that it stands at a door: those behind it may pass once all before them stand there too.
    pub(crate) fn arrive(&mut self) {
        self.depart();
        if let Some(joined) = &mut self.joined {
            joined.arrive();
        }
    }

    /// It is on its way no more.
    fn depart(&mut self) {
        if self.standing == Standing::Counts
            && !std::mem::replace(&mut self.arrived, true)
            && let Some(sequence) = &self.accounts.sequence
        {
            sequence.leave(self.origin.id);
        }
    }

    /// Notes that the record now weighs this much. What the reservation lacks is taken if it is free, and counted as an
    /// overdraft if not: a record that has already grown cannot wait.
    pub(crate) fn grow(&mut self, bytes: u64) {
        if self.family.is_some() || self.standing != Standing::Counts {
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
        Arc::downgrade(self.family())
    }

    fn family(&mut self) -> &Arc<Family> {
        self.family.get_or_insert_with(|| {
            Arc::new(Family {
                accounts: self.accounts.clone(),
                origin: self.origin,
                permit: std::mem::take(&mut self.permit),
                shadow: self.standing == Standing::Shadow,
                left: AtomicU64::new(1),
                worst: AtomicU8::new(Outcome::Ok as u8),
                claimed: AtomicBool::new(false),
                lost: AtomicBool::new(false),
            })
        })
    }

    /// Another member of the same record.
    pub(crate) fn fork(&mut self) -> Ticket {
        let family = self.family().clone();
        if self.standing != Standing::Silent {
            family.left.fetch_add(1, Ordering::Relaxed);
        }
        if self.standing == Standing::Counts
            && !self.arrived
            && let Some(sequence) = &self.accounts.sequence
        {
            sequence.fork(self.origin.id);
        }
        let joined = self.joined.as_mut().map(|joined| Box::new(joined.fork()));
        self.with_family(family, joined, self.standing)
    }

    /// For a copy of the record that holds its memory and whose end does not matter.
    pub(crate) fn fork_silently(&mut self) -> Ticket {
        let family = self.family().clone();
        let joined = self.joined.as_mut().map(|joined| Box::new(joined.fork_silently()));
        let standing = if self.standing == Standing::Shadow { Standing::Shadow } else { Standing::Silent };
        if standing == Standing::Shadow {
            family.left.fetch_add(1, Ordering::Relaxed);
        }
        self.with_family(family, joined, standing)
    }

    fn with_family(&self, family: Arc<Family>, joined: Option<Box<Ticket>>, standing: Standing) -> Ticket {
        Ticket {
            accounts: self.accounts.clone(),
            origin: self.origin,
            permit: Permit::default(),
            family: Some(family),
            joined,
            standing,
            settled: false,
            arrived: self.arrived,
        }
    }

    /// For a copy of the record that costs it nothing, if there is memory for one.
    pub(crate) fn shadow(&self, bytes: u64) -> Option<Ticket> {
        let debit = self.accounts.shadow.try_take(Cost { records: 1, bytes })?;
        let mut ticket = Ticket::new(&self.accounts, self.origin, debit.bytes);
        ticket.standing = Standing::Shadow;
        Some(ticket)
    }

    /// Takes another record along: from here on, both end together. Members of one record become one.
    pub(crate) fn join(&mut self, other: Ticket, tally: &mut Tally) {
        let same = |a: &Ticket| matches!((&a.family, &other.family), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
        if same(self) && other.joined.is_none() && (other.standing == Standing::Silent || self.standing != Standing::Silent) {
            other.settle(Outcome::Ok, tally);
            return;
        }
        let mut last = &mut self.joined;
        while let Some(ticket) = last {
            last = &mut ticket.joined;
        }
        *last = Some(Box::new(other));
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
        self.depart();
        match (&self.family, self.standing) {
            (_, Standing::Silent) => {}
            (Some(family), _) => {
                family.lost.store(true, Ordering::Release);
                family.leave(Outcome::Cancelled);
            }
            (None, Standing::Shadow) => self.accounts.shadow.give(self.permit.cost()),
            (None, Standing::Counts) => {
                self.accounts.counters.end(Outcome::Cancelled, 1);
                self.accounts.overdraft.fetch_sub(self.permit.overdraft, Ordering::Relaxed);
                self.accounts.entry.give(self.permit.cost());
                self.accounts.report(self.origin, Outcome::Cancelled, true);
            }
        }
    }
}

/// The account of a record that is in several places.
pub(crate) struct Family {
    accounts: Arc<Accounts>,
    origin: Origin,
    permit: Permit,
    /// Of a shadow copy: its end is nobody's business.
    shadow: bool,
    left: AtomicU64,
    worst: AtomicU8,
    claimed: AtomicBool,
    /// A member was thrown away by an abort.
    lost: AtomicBool,
}

impl Family {
    /// Ends the whole record, if nobody has yet.
    pub(crate) fn claim(&self, outcome: Outcome) {
        if !self.claimed.swap(true, Ordering::AcqRel) && !self.shadow {
            self.accounts.counters.end(outcome, 1);
            self.accounts.report(self.origin, outcome, self.lost.load(Ordering::Acquire));
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
        let permit = self.permit.cost();
        if self.shadow {
            self.accounts.shadow.give(permit);
        } else {
            self.accounts.overdraft.fetch_sub(self.permit.overdraft, Ordering::Relaxed);
            self.accounts.entry.give(permit);
        }
    }
}
