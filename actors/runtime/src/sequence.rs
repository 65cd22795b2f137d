//! Total order: records leave in the order in which they were let in, past whatever some of them go through.
//!
//! Every record has a number. For each number it is counted how many members of the record are still on their way: a member
//! arrives when it comes to the door before a sink, and leaves when it ends elsewhere, which is its tombstone. The lowest
//! number with members on their way is the *front*: what waits at a door and is before the front may pass. Numbers from the
//! front on are given out against credits, so that a record that takes long holds up a bounded window and not the memory.
//!
//! A barrier of a checkpoint waits at the door too. All records before it have lower numbers than all behind it, and those of
//! them that will come here stand here when it comes: the highest number among them is its fence. It passes behind the last
//! of these, and nobody behind the fence passes before it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use millstream_edge::{Closed, Cost, Ledger, Limits};

use crate::{envelope::Envelope, supervise::AnyEdge};

/// The numbers that are on their way.
pub(crate) struct Sequence {
    window: Ledger,
    state: Mutex<State>,
    front: AtomicU64,
    doors: OnceLock<Vec<Bell>>,
}

#[derive(Default)]
struct State {
    front: u64,
    /// Members on their way, for each number from the front on.
    members: VecDeque<u32>,
    /// Numbers beyond the window, of sources that deliver more at once than the window holds: they took no credits.
    surplus: u32,
}

/// Wakes who waits at a door.
struct Bell {
    edge: Arc<dyn AnyEdge>,
    rung: Arc<AtomicBool>,
}

impl Sequence {
    /// For so many numbers at once.
    pub(crate) fn new(window: u32) -> Arc<Self> {
        Arc::new(Sequence {
            window: Ledger::new(Limits { records: window, bytes: 1 }),
            state: Mutex::new(State::default()),
            front: AtomicU64::new(0),
            doors: OnceLock::new(),
        })
    }

    /// Says which edges lead to doors, each with the flag that its door clears before it looks.
    pub(crate) fn watch(&self, doors: Vec<(Arc<dyn AnyEdge>, Arc<AtomicBool>)>) {
        // Called once, before the first number.
        let _ = self.doors.set(doors.into_iter().map(|(edge, rung)| Bell { edge, rung }).collect());
    }

    /// Takes credits for so many numbers, if there are as many.
    pub(crate) fn try_enter(&self, records: u32) -> bool {
        self.window.try_take(Cost { records, bytes: 0 }).map(|taken| self.lock().surplus += records - taken.records).is_some()
    }

    /// As [`Sequence::try_enter`], waiting for them.
    pub(crate) fn enter(&self, records: u32) -> Result<(), Closed> {
        let taken = self.window.take(Cost { records, bytes: 0 })?;
        self.lock().surplus += records - taken.records;
        Ok(())
    }

    /// Gives out the numbers whose credits were taken: the first of them.
    pub(crate) fn number(&self, records: u64) -> u64 {
        let mut state = self.lock();
        let first = state.front + state.members.len() as u64;
        state.members.extend((0..records).map(|_| 1));
        first
    }

    /// One more member of the record is on its way.
    pub(crate) fn fork(&self, number: u64) {
        self.change(number, |members| *members += 1);
    }

    /// A member is on its way no more: it has ended, or stands at a door.
    pub(crate) fn leave(&self, number: u64) {
        self.change(number, |members| *members = members.saturating_sub(1));
    }

    /// Everything before this number may pass.
    pub(crate) fn front(&self) -> u64 {
        self.front.load(Ordering::Acquire)
    }

    /// Lets nobody in any more.
    pub(crate) fn close(&self) {
        self.window.close();
    }

    /// Numbers before the front are given back for new ones.
    fn change(&self, number: u64, change: impl FnOnce(&mut u32)) {
        let mut state = self.lock();
        let Some(members) = number.checked_sub(state.front).and_then(|at| state.members.get_mut(at as usize)) else { return };
        change(members);
        let mut passed = 0;
        while state.members.front() == Some(&0) {
            state.members.pop_front();
            passed += 1;
        }
        if passed == 0 {
            return;
        }
        state.front += u64::from(passed);
        self.front.store(state.front, Ordering::Release);
        let free = state.surplus.min(passed);
        state.surplus -= free;
        drop(state);
        self.window.give(Cost { records: passed - free, bytes: 0 });
        for bell in self.doors.get().into_iter().flatten() {
            if !bell.rung.swap(true, Ordering::AcqRel) {
                bell.edge.wake();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where records wait before a sink until all before them have passed.
pub(crate) struct Door<T> {
    sequence: Arc<Sequence>,
    rung: Arc<AtomicBool>,
    /// By number, and within one by arrival.
    waiting: BTreeMap<(u64, u64), Envelope<T>>,
    arrivals: u64,
    barrier: Option<Held>,
}

/// A barrier that waits.
struct Held {
    barrier: u64,
    /// The highest number that is before it, if any is.
    fence: Option<u64>,
}

impl<T> Door<T> {
    pub(crate) fn new(sequence: Arc<Sequence>) -> Self {
        Door { sequence, rung: Arc::default(), waiting: BTreeMap::new(), arrivals: 0, barrier: None }
    }

    /// The flag that [`Sequence::watch`] asks for.
    pub(crate) fn rung(&self) -> Arc<AtomicBool> {
        self.rung.clone()
    }

    pub(crate) fn arrive(&mut self, mut envelope: Envelope<T>) {
        let at = (envelope.head.id, self.arrivals);
        self.arrivals += 1;
        envelope.ticket.arrive();
        self.waiting.insert(at, envelope);
    }

    /// Those who may pass now, in their order.
    pub(crate) fn open(&mut self, pass: &mut VecDeque<Envelope<T>>) {
        // Cleared before the look: what comes behind the look rings again.
        self.rung.store(false, Ordering::Release);
        let mut front = self.sequence.front();
        if let Some(held) = &self.barrier {
            front = front.min(held.fence.map_or(0, |fence| fence + 1));
        }
        while let Some(first) = self.waiting.first_entry().filter(|first| first.key().0 < front) {
            pass.push_back(first.remove());
        }
    }

    /// A barrier has come: it passes behind all who wait now.
    pub(crate) fn hold(&mut self, barrier: u64) {
        self.barrier = Some(Held { barrier, fence: self.waiting.last_key_value().map(|((number, _), _)| *number) });
    }

    /// The barrier, if all who are before it have passed.
    pub(crate) fn barrier(&mut self) -> Option<u64> {
        let first = self.waiting.first_key_value().map(|((number, _), _)| *number);
        let waits = |held: &Held| first.zip(held.fence).is_some_and(|(first, fence)| first <= fence);
        self.barrier.take_if(|held| !waits(held)).map(|held| held.barrier)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// All who wait, in their order.
    pub(crate) fn into_waiting(self) -> impl Iterator<Item = Envelope<T>> {
        self.waiting.into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        envelope::{Header, Position},
        ticket::{Accounts, Origin, Ticket},
    };

    fn envelope(accounts: &Arc<Accounts>, id: u64) -> Envelope<()> {
        let origin = Origin { id, source: 0, position: Position { partition: 0, offset: id }, slot: 0 };
        Envelope { head: Header::born(origin, None, None, 0), ticket: Ticket::born(accounts, origin, 0), payload: () }
    }

    #[test]
    fn a_barrier_passes_between_those_before_and_those_behind_it() {
        let sequence = Sequence::new(8);
        let room = Limits { records: 8, bytes: 8 };
        let accounts = Accounts::new(room, room, None, None);
        let envelope = |number| envelope(&accounts, number);
        assert!(sequence.try_enter(4));
        sequence.number(4);
        let (mut door, mut pass) = (Door::new(sequence.clone()), VecDeque::new());
        [0, 1].into_iter().for_each(|number| door.arrive(envelope(number)));
        door.hold(7);
        door.arrive(envelope(3));
        door.open(&mut pass);
        assert!(pass.is_empty() && door.barrier().is_none(), "0 and 1 wait until they have left the count");
        (0..4).for_each(|number| sequence.leave(number));
        door.open(&mut pass);
        assert_eq!(pass.drain(..).map(|envelope| envelope.head.id).collect::<Vec<_>>(), [0, 1]);
        assert_eq!((door.barrier(), door.barrier()), (Some(7), None));
        door.open(&mut pass);
        assert_eq!(pass.drain(..).map(|envelope| envelope.head.id).collect::<Vec<_>>(), [3]);
        door.hold(8);
        assert_eq!(door.barrier(), Some(8), "nobody is before it");
    }

    #[test]
    fn the_front_passes_what_has_ended_and_gives_its_credits_back() {
        let sequence = Sequence::new(4);
        assert!(sequence.try_enter(4) && !sequence.try_enter(1));
        assert_eq!(sequence.number(4), 0);
        sequence.leave(1);
        sequence.fork(0);
        sequence.leave(0);
        assert_eq!(sequence.front(), 0, "a member of 0 is on its way");
        assert!(!sequence.try_enter(1));
        sequence.leave(0);
        assert_eq!(sequence.front(), 2);
        assert!(sequence.try_enter(2) && !sequence.try_enter(1));
        assert_eq!(sequence.number(2), 4);
        // More at once than the window holds takes all of it, and gives back no more.
        (4..6).for_each(|number| sequence.leave(number));
        sequence.leave(2);
        sequence.leave(3);
        assert!(sequence.try_enter(9) && !sequence.try_enter(1));
        assert_eq!(sequence.number(9), 6);
        (6..15).for_each(|number| sequence.leave(number));
        assert!(sequence.try_enter(4) && !sequence.try_enter(1));
        // What has passed is not counted again.
        sequence.leave(0);
        assert_eq!(sequence.front(), 15);
    }
}
