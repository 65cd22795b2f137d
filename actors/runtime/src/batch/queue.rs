//! What waits, in the order of service.
//!
//! An item's rank is the time of its arrival, moved back by its priority: an item of a level more overtakes those that
//! came up to one aging time before it. Ranks never change, so the order needs no sorting anew as items age. An item never
//! overtakes an earlier item of its own key: it takes its place behind it, and its rank.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use crate::envelope::Key;

/// An item that waits for its batch.
pub(crate) struct Pending<P> {
    pub(crate) item: P,
    pub(crate) bucket: u64,
    pub(crate) key: Option<Key>,
    pub(crate) bytes: u64,
    /// In whatever the model counts; equal for all items of a model that knows no lengths.
    pub(crate) length: u64,
    pub(crate) priority: u8,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Option<Instant>,
    /// It has a deadline or can be cancelled.
    pub(crate) mortal: bool,
}

struct Ranked<P> {
    rank: i64,
    pending: Pending<P>,
}

pub(super) struct Queue<P> {
    items: VecDeque<Ranked<P>>,
    /// What ranks count from.
    epoch: Instant,
    aging: i64,
    /// How many wait in each bucket.
    buckets: BTreeMap<u64, usize>,
    /// The shortest and the longest since the queue was last empty.
    lengths: (u64, u64),
    mortal: usize,
}

impl<P> Queue<P> {
    pub(super) fn new(aging: Duration) -> Self {
        Queue {
            items: VecDeque::new(),
            epoch: Instant::now(),
            aging: i64::try_from(aging.as_nanos()).unwrap_or(i64::MAX),
            buckets: BTreeMap::new(),
            lengths: (u64::MAX, 0),
            mortal: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether all that waits could share a batch, limits apart.
    pub(super) fn is_even(&self) -> bool {
        self.buckets.len() <= 1 && self.lengths.0 >= self.lengths.1
    }

    /// How many have a deadline or can be cancelled.
    pub(super) fn mortal(&self) -> usize {
        self.mortal
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Pending<P>> {
        self.items.iter().map(|ranked| &ranked.pending)
    }

    pub(super) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Pending<P>> {
        self.items.iter_mut().map(|ranked| &mut ranked.pending)
    }

    pub(super) fn insert(&mut self, pending: Pending<P>) {
        *self.buckets.entry(pending.bucket).or_default() += 1;
        self.lengths = (self.lengths.0.min(pending.length), self.lengths.1.max(pending.length));
        self.mortal += usize::from(pending.mortal);
        let mut rank = self.rank(&pending);
        let mut at = self.items.len();
        while let Some(before) = at.checked_sub(1).and_then(|i| self.items.get(i)) {
            if before.rank <= rank {
                break;
            }
            if pending.key.is_some() && before.pending.key == pending.key {
                rank = before.rank;
                break;
            }
            at -= 1;
        }
        self.items.insert(at, Ranked { rank, pending });
    }

    /// Takes the items at these places, which are in rising order.
    pub(super) fn take(&mut self, places: &[usize]) -> Vec<Pending<P>> {
        let prefix = places.iter().enumerate().all(|(i, place)| i == *place);
        let taken: Vec<Pending<P>> = if prefix {
            self.items.drain(..places.len()).map(|ranked| ranked.pending).collect()
        } else {
            let mut places = places.iter().copied().peekable();
            let mut left = VecDeque::with_capacity(self.items.len());
            let mut taken = Vec::with_capacity(places.len());
            for (place, ranked) in self.items.drain(..).enumerate() {
                if places.next_if_eq(&place).is_some() {
                    taken.push(ranked.pending);
                } else {
                    left.push_back(ranked);
                }
            }
            self.items = left;
            taken
        };
        taken.iter().for_each(|pending| self.forget(pending));
        taken
    }

    /// Takes the items for which the closure holds.
    pub(super) fn take_if(&mut self, mut gone: impl FnMut(&Pending<P>) -> bool) -> Vec<Pending<P>> {
        let places: Vec<usize> = self.iter().enumerate().filter(|(_, pending)| gone(pending)).map(|(place, _)| place).collect();
        if places.is_empty() { Vec::new() } else { self.take(&places) }
    }

    /// Everything, in the order of service.
    pub(super) fn take_all(&mut self) -> Vec<Pending<P>> {
        self.take_if(|_| true)
    }

    fn rank(&self, pending: &Pending<P>) -> i64 {
        let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let arrived = match pending.arrived.checked_duration_since(self.epoch) {
            Some(after) => nanos(after),
            None => -nanos(self.epoch.duration_since(pending.arrived)),
        };
        arrived.saturating_sub(self.aging.saturating_mul(i64::from(pending.priority)))
    }

    fn forget(&mut self, pending: &Pending<P>) {
        self.mortal -= usize::from(pending.mortal);
        if let Some(count) = self.buckets.get_mut(&pending.bucket) {
            *count -= 1;
            if *count == 0 {
                self.buckets.remove(&pending.bucket);
            }
        }
        if self.buckets.is_empty() {
            self.lengths = (u64::MAX, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(items: &[(u32, u64, u8, Option<u64>)]) -> Vec<u32> {
        let mut queue = Queue::new(Duration::from_millis(10));
        let start = Instant::now();
        for &(item, millis, priority, key) in items {
            let arrived = start + Duration::from_millis(millis);
            queue.insert(Pending { item, bucket: 0, key: key.map(Key), bytes: 0, length: 1, priority, arrived, deadline: None, mortal: false });
        }
        queue.take_all().into_iter().map(|p| p.item).collect()
    }

    #[test]
    fn a_level_of_priority_is_worth_one_aging_time() {
        assert_eq!(queue(&[(0, 0, 0, None), (1, 1, 0, None), (2, 2, 1, None)]), [2, 0, 1]);
        // The first has waited for longer than the level is worth.
        assert_eq!(queue(&[(0, 0, 0, None), (1, 5, 0, None), (2, 12, 1, None)]), [0, 2, 1]);
    }

    #[test]
    fn priority_does_not_break_the_order_of_a_key() {
        let items = [(0, 0, 0, Some(7)), (1, 1, 5, Some(7)), (2, 2, 1, None), (3, 3, 9, Some(8))];
        assert_eq!(queue(&items), [3, 2, 0, 1]);
    }
}
