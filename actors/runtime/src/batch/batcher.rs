//! The batcher: items in order of arrival, in buckets that may share a batch.
//!
//! A batch holds items of one bucket only. Within a key, items leave in the order in which they came: an item is passed
//! over while an earlier item of its key waits in another bucket.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::{BatchOptions, ReleaseReason};
use crate::envelope::Key;

/// An item that waits for its batch.
pub(crate) struct Pending<P> {
    pub(crate) item: P,
    pub(crate) bucket: u64,
    pub(crate) key: Option<Key>,
    pub(crate) bytes: u64,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Option<Instant>,
}

/// What to do now.
pub(crate) enum Decision<P> {
    /// Run this batch.
    Release(ReleaseReason, Vec<Pending<P>>),
    /// Wait for more, until then at most.
    Wait(Option<Instant>),
}

pub(crate) struct Batcher<P> {
    options: BatchOptions,
    waiting: VecDeque<Pending<P>>,
    /// How many wait in each bucket.
    buckets: BTreeMap<u64, usize>,
    held: bool,
}

/// What of a bucket could go into a batch now.
#[derive(Default)]
struct Candidate {
    items: usize,
    bytes: u64,
    full: Option<ReleaseReason>,
}

impl<P> Batcher<P> {
    pub(crate) fn new(options: BatchOptions) -> Self {
        let held = options.hold_until > 0;
        Batcher { options, waiting: VecDeque::new(), buckets: BTreeMap::new(), held }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn insert(&mut self, pending: Pending<P>) {
        *self.buckets.entry(pending.bucket).or_default() += 1;
        self.waiting.push_back(pending);
    }

    /// Everything that waits, in order of arrival.
    pub(crate) fn take_all(&mut self) -> Vec<Pending<P>> {
        self.buckets.clear();
        self.waiting.drain(..).collect()
    }

    /// What an idle replica should do. `limit` is the most items at present, `predicted` how long a batch takes,
    /// `ended` that nothing will come any more.
    pub(crate) fn decide(&mut self, now: Instant, limit: usize, predicted: Duration, ended: bool) -> Decision<P> {
        let Some(oldest) = self.waiting.front() else { return Decision::Wait(None) };
        if self.held && !ended {
            if self.waiting.len() < self.options.hold_until {
                return Decision::Wait(None);
            }
            self.held = false;
        }
        let most = (*self.options.items.end()).min(limit).max(1);
        let fewest = (*self.options.items.start()).min(most);
        let (bucket, full) = self.choose(most, fewest);
        if let Some(reason) = full {
            return self.release(reason, bucket, most);
        }
        if ended {
            return self.release(ReleaseReason::Drain, bucket, most);
        }
        let due = oldest.arrived + self.options.max_delay;
        if self.options.idle_dispatch && fewest <= 1 {
            return self.release(ReleaseReason::Idle, bucket, most);
        }
        let urgent = self.waiting.iter().filter_map(|p| Some((p.deadline?, p.bucket))).min();
        if let Some((deadline, bucket)) = urgent {
            let start_by = deadline.checked_sub(predicted).unwrap_or(now);
            if start_by <= now {
                return self.release(ReleaseReason::Slack, bucket, most);
            }
            if due > start_by {
                return Decision::Wait(Some(start_by));
            }
        }
        if due <= now {
            return self.release(ReleaseReason::Delay, bucket, most);
        }
        Decision::Wait(Some(due))
    }

    /// The bucket to take from, and the reason if it can go at once: the first that is full, or has the fewest items
    /// that an idle replica asks for; otherwise that of the oldest item.
    fn choose(&self, most: usize, fewest: usize) -> (u64, Option<ReleaseReason>) {
        let oldest = self.waiting.front().map_or(0, |pending| pending.bucket);
        let mut candidates: BTreeMap<u64, Candidate> = BTreeMap::new();
        let mut idle = None;
        for pending in self.eligible() {
            let candidate = candidates.entry(pending.bucket).or_default();
            if candidate.items > 0 && candidate.bytes.saturating_add(pending.bytes) > self.options.max_bytes {
                candidate.full = Some(ReleaseReason::Bytes);
            } else {
                candidate.items += 1;
                candidate.bytes = candidate.bytes.saturating_add(pending.bytes);
                if candidate.items >= most {
                    candidate.full = Some(ReleaseReason::Full);
                }
            }
            if candidate.full.is_some() {
                return (pending.bucket, candidate.full);
            }
            if idle.is_none() && fewest > 1 && candidate.items >= fewest {
                idle = Some(pending.bucket);
            }
        }
        match idle {
            Some(bucket) if self.options.idle_dispatch => (bucket, Some(ReleaseReason::Idle)),
            _ => (oldest, None),
        }
    }

    /// The items that no earlier item of their key in another bucket holds back.
    fn eligible(&self) -> impl Iterator<Item = &Pending<P>> {
        let mut order = KeyOrder::new(self.buckets.len());
        self.waiting.iter().filter(move |pending| order.admits(pending))
    }

    fn release(&mut self, reason: ReleaseReason, bucket: u64, most: usize) -> Decision<P> {
        let mut batch = Vec::with_capacity(most.min(self.waiting.len()));
        let mut bytes = 0u64;
        let mut order = KeyOrder::new(self.buckets.len());
        let mut left = VecDeque::with_capacity(self.waiting.len());
        let mut open = true;
        while let Some(pending) = self.waiting.pop_front() {
            let fits = batch.is_empty() || bytes.saturating_add(pending.bytes) <= self.options.max_bytes;
            let admitted = order.admits(&pending);
            if open && admitted && pending.bucket == bucket {
                if fits && batch.len() < most {
                    bytes = bytes.saturating_add(pending.bytes);
                    batch.push(pending);
                    continue;
                }
                // The first that does not fit ends the batch: those behind it must not overtake it.
                open = false;
            }
            left.push_back(pending);
            if !open && order.is_free() {
                break;
            }
        }
        left.append(&mut self.waiting);
        self.waiting = left;
        if let Some(count) = self.buckets.get_mut(&bucket) {
            *count -= batch.len();
            if *count == 0 {
                self.buckets.remove(&bucket);
            }
        }
        Decision::Release(reason, batch)
    }
}

/// Which keys are held back, in a walk over the items in order of arrival.
struct KeyOrder {
    /// `None` while there is one bucket, where nothing can be held back.
    first_bucket: Option<HashMap<Key, Option<u64>>>,
}

impl KeyOrder {
    fn new(buckets: usize) -> Self {
        KeyOrder { first_bucket: (buckets > 1).then(HashMap::new) }
    }

    fn is_free(&self) -> bool {
        self.first_bucket.is_none()
    }

    fn admits<P>(&mut self, pending: &Pending<P>) -> bool {
        let (Some(first_bucket), Some(key)) = (&mut self.first_bucket, pending.key) else { return true };
        let first = first_bucket.entry(key).or_insert(Some(pending.bucket));
        if *first != Some(pending.bucket) {
            // Whatever comes behind this item waits for it, in its own bucket too.
            *first = None;
        }
        first.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> BatchOptions {
        BatchOptions { items: 1..=4, ..BatchOptions::default() }
    }

    fn pending(item: u32, bucket: u64, key: Option<u64>, arrived: Instant) -> Pending<u32> {
        Pending { item, bucket, key: key.map(Key), bytes: 10, arrived, deadline: None }
    }

    fn released(decision: Decision<u32>) -> (ReleaseReason, Vec<u32>) {
        match decision {
            Decision::Release(reason, batch) => (reason, batch.into_iter().map(|p| p.item).collect()),
            Decision::Wait(until) => panic!("waits until {until:?}"),
        }
    }

    #[test]
    fn an_idle_replica_takes_what_there_is_and_a_full_batch_is_full() {
        let now = Instant::now();
        let mut batcher = Batcher::new(options());
        assert!(matches!(batcher.decide(now, 4, Duration::ZERO, false), Decision::Wait(None)));
        for item in 0..6 {
            batcher.insert(pending(item, 0, None, now));
        }
        assert_eq!(released(batcher.decide(now, 4, Duration::ZERO, false)), (ReleaseReason::Full, vec![0, 1, 2, 3]));
        assert_eq!(released(batcher.decide(now, 4, Duration::ZERO, false)), (ReleaseReason::Idle, vec![4, 5]));
        assert_eq!(batcher.len(), 0);
    }

    #[test]
    fn without_idle_dispatch_the_delay_counts() {
        let now = Instant::now();
        let mut batcher = Batcher::new(BatchOptions { idle_dispatch: false, ..options() });
        batcher.insert(pending(0, 0, None, now));
        let due = now + Duration::from_millis(5);
        assert!(matches!(batcher.decide(now, 4, Duration::ZERO, false), Decision::Wait(Some(at)) if at == due));
        assert_eq!(released(batcher.decide(due, 4, Duration::ZERO, false)), (ReleaseReason::Delay, vec![0]));
        batcher.insert(pending(1, 0, None, now));
        assert_eq!(released(batcher.decide(now, 4, Duration::ZERO, true)), (ReleaseReason::Drain, vec![1]));
    }

    #[test]
    fn a_close_deadline_releases_early() {
        let now = Instant::now();
        let mut batcher = Batcher::new(BatchOptions { idle_dispatch: false, ..options() });
        let deadline = Some(now + Duration::from_millis(3));
        batcher.insert(Pending { deadline, ..pending(0, 0, None, now) });
        let run = Duration::from_millis(2);
        let start_by = now + Duration::from_millis(1);
        assert!(matches!(batcher.decide(now, 4, run, false), Decision::Wait(Some(at)) if at == start_by));
        assert_eq!(released(batcher.decide(start_by, 4, run, false)), (ReleaseReason::Slack, vec![0]));
    }

    #[test]
    fn fewest_items_wait_for_company() {
        let now = Instant::now();
        let mut batcher = Batcher::new(BatchOptions { items: 2..=4, ..options() });
        batcher.insert(pending(0, 0, None, now));
        assert!(matches!(batcher.decide(now, 4, Duration::ZERO, false), Decision::Wait(Some(_))));
        batcher.insert(pending(1, 0, None, now));
        assert_eq!(released(batcher.decide(now, 4, Duration::ZERO, false)), (ReleaseReason::Idle, vec![0, 1]));
    }

    #[test]
    fn bytes_close_a_batch_and_an_oversized_item_goes_alone() {
        let now = Instant::now();
        let mut batcher = Batcher::new(BatchOptions { max_bytes: 25, ..options() });
        batcher.insert(Pending { bytes: 99, ..pending(0, 0, None, now) });
        for item in 1..4 {
            batcher.insert(pending(item, 0, None, now));
        }
        assert_eq!(released(batcher.decide(now, 4, Duration::ZERO, false)), (ReleaseReason::Bytes, vec![0]));
        assert_eq!(released(batcher.decide(now, 4, Duration::ZERO, false)), (ReleaseReason::Bytes, vec![1, 2]));
        assert_eq!(released(batcher.decide(now, 4, Duration::ZERO, false)), (ReleaseReason::Idle, vec![3]));
    }

    #[test]
    fn buckets_do_not_mix_and_keys_stay_in_order() {
        let now = Instant::now();
        let mut batcher = Batcher::new(options());
        // Key 7 alternates between two buckets; the unkeyed items of bucket 1 may overtake, key 7 may not.
        let plan = [(0, 0, Some(7)), (1, 1, Some(7)), (2, 0, Some(7)), (3, 0, Some(8)), (4, 1, None), (5, 1, None)];
        for (item, bucket, key) in plan {
            batcher.insert(pending(item, bucket, key, now));
        }
        let mut order = Vec::new();
        while batcher.len() > 0 {
            order.push(released(batcher.decide(now, 4, Duration::ZERO, false)).1);
        }
        assert_eq!(order, [vec![0, 3], vec![1, 4, 5], vec![2]]);
    }

    #[test]
    fn held_until_enough_have_come() {
        let now = Instant::now();
        let mut batcher = Batcher::new(BatchOptions { hold_until: 3, ..options() });
        for item in 0..3 {
            assert!(matches!(batcher.decide(now, 4, Duration::ZERO, false), Decision::Wait(None)));
            batcher.insert(pending(item, 0, None, now));
        }
        assert_eq!(released(batcher.decide(now, 4, Duration::ZERO, false)).1, [0, 1, 2]);
    }
}
