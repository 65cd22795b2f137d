//! The batcher: what an idle replica should do with what waits.
//!
//! A batch holds items of one bucket only, within the limits of items, bytes, tokens and padding. Within a key, items
//! leave in the order in which they came. No item is passed over for more than a few batches.

use std::time::{Duration, Instant};

use super::{
    BatchOptions, Pending, ReleaseReason,
    bins::{Bin, Room, fill},
    queue::Queue,
};

/// Batches that may be released before one of the first item's bucket, while others are full.
const PATIENCE: usize = 8;
/// Full batches that wait for company of their kind, where the options do not say.
const POOL_BATCHES: usize = 8;

/// What to do now.
pub(crate) enum Decision<P> {
    /// Run this batch.
    Release(ReleaseReason, Vec<Pending<P>>),
    /// Wait for more, until then at most.
    Wait(Option<Instant>),
}

pub(crate) struct Batcher<P> {
    options: BatchOptions,
    queue: Queue<P>,
    held: bool,
    /// Batches that went since one held the first item.
    passed: usize,
}

impl<P> Batcher<P> {
    pub(crate) fn new(options: BatchOptions) -> Self {
        let held = options.hold_until > 0;
        let queue = Queue::new(options.aging);
        Batcher { options, queue, held, passed: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Everything that waits, in order of arrival.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pending<P>> {
        self.queue.iter()
    }

    /// As [`Batcher::iter`], from the latest back.
    pub(crate) fn iter_mut_back(&mut self) -> impl Iterator<Item = &mut Pending<P>> {
        self.queue.iter_mut().rev()
    }

    pub(crate) fn insert(&mut self, pending: Pending<P>) {
        self.queue.insert(pending);
    }

    /// How many items are worth having here, with batches of at most `limit`: a full batch; several, where items differ;
    /// or what the test hook asks for.
    pub(crate) fn fill_to(&self, limit: usize) -> usize {
        let most = (*self.options.items.end()).min(limit).max(1);
        let pool = match self.options.pool {
            _ if self.is_even() => most,
            0 => most.saturating_mul(POOL_BATCHES),
            pool => pool.max(most),
        };
        pool.max(if self.held { self.options.hold_until } else { 0 })
    }

    /// Whether any of what waits could go into the next batch.
    fn is_even(&self) -> bool {
        self.queue.is_even() && !self.options.one_per_key
    }

    /// Everything that waits, in the order of service.
    pub(crate) fn take_all(&mut self) -> Vec<Pending<P>> {
        self.queue.take_all()
    }

    /// Takes out what need not be run any more: of the items that have a deadline or can be cancelled, those for which the
    /// closure holds.
    pub(crate) fn take_gone(&mut self, mut gone: impl FnMut(&P) -> bool) -> Vec<Pending<P>> {
        if self.queue.mortal() == 0 { Vec::new() } else { self.queue.take_if(|pending| pending.mortal && gone(&pending.item)) }
    }

    /// What an idle replica should do. `limit` is the most items at present, `predict` says how long a batch takes,
    /// `ended` that nothing will come any more.
    pub(crate) fn decide(&mut self, now: Instant, limit: usize, predict: impl Fn(usize) -> Duration, ended: bool) -> Decision<P> {
        if self.queue.len() == 0 {
            return Decision::Wait(None);
        }
        if self.held && !ended {
            if self.queue.len() < self.options.hold_until {
                return Decision::Wait(self.first_deadline());
            }
            self.held = false;
        }
        let most = (*self.options.items.end()).min(limit).max(1);
        let fewest = (*self.options.items.start()).min(most);
        let impatient = self.passed >= PATIENCE;
        let bins = fill(&self.queue, &Room { options: &self.options, most }, impatient);
        if impatient {
            return self.release(bins[0].full.unwrap_or(ReleaseReason::Delay), &bins, 0);
        }
        if let Some((bin, reason)) = bins.iter().enumerate().find_map(|(at, bin)| Some((at, bin.full?))) {
            return self.release(reason, &bins, bin);
        }
        if ended {
            return self.release(ReleaseReason::Drain, &bins, 0);
        }
        if !self.is_even() && self.queue.len() >= self.fill_to(limit) {
            let largest = (0..bins.len()).rev().max_by_key(|bin| bins[*bin].places.len()).unwrap_or(0);
            return self.release(ReleaseReason::Pool, &bins, largest);
        }
        if self.options.idle_dispatch
            && let Some(bin) = bins.iter().position(|bin| bin.places.len() >= fewest)
        {
            return self.release(ReleaseReason::Idle, &bins, bin);
        }
        let (oldest, arrived) = self.oldest();
        let due = arrived + self.options.max_delay;
        if let Some((urgent, deadline)) = self.most_urgent() {
            let bin = bin_of(&bins, urgent);
            let start_by = deadline.checked_sub(predict(bins[bin].places.len())).unwrap_or(now);
            if start_by <= now {
                return self.release(ReleaseReason::Slack, &bins, bin);
            }
            if due > start_by {
                return Decision::Wait(Some(start_by));
            }
        }
        if due <= now {
            let bin = bin_of(&bins, oldest);
            return self.release(ReleaseReason::Delay, &bins, bin);
        }
        Decision::Wait(Some(due))
    }

    /// The item that came first, and when. (Those of higher priority may stand before it.)
    fn oldest(&self) -> (usize, Instant) {
        let arrivals = self.queue.iter().enumerate().map(|(place, pending)| (pending.arrived, place));
        arrivals.min().map_or_else(|| (0, Instant::now()), |(arrived, place)| (place, arrived))
    }

    fn most_urgent(&self) -> Option<(usize, Instant)> {
        if self.queue.mortal() == 0 {
            return None;
        }
        let deadlines = self.queue.iter().enumerate().filter_map(|(place, pending)| Some((pending.deadline?, place)));
        deadlines.min().map(|(deadline, place)| (place, deadline))
    }

    fn first_deadline(&self) -> Option<Instant> {
        self.most_urgent().map(|(_, deadline)| deadline)
    }

    fn release(&mut self, reason: ReleaseReason, bins: &[Bin], bin: usize) -> Decision<P> {
        self.passed = if bin == 0 { 0 } else { self.passed + 1 };
        Decision::Release(reason, self.queue.take(&bins[bin].places))
    }
}

/// The bin that an item lies in; the first, if an earlier item of its key keeps it out of all of them.
fn bin_of(bins: &[Bin], place: usize) -> usize {
    bins.iter().position(|bin| bin.places.binary_search(&place).is_ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Key;

    fn options() -> BatchOptions {
        BatchOptions { items: 1..=4, ..BatchOptions::default() }
    }

    fn pending(item: u32, bucket: u64, key: Option<u64>, arrived: Instant) -> Pending<u32> {
        Pending { item, bucket, key: key.map(Key), bytes: 10, length: 1, priority: 0, arrived, deadline: None, mortal: false }
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
        assert!(matches!(batcher.decide(now, 4, |_| Duration::ZERO, false), Decision::Wait(None)));
        for item in 0..6 {
            batcher.insert(pending(item, 0, None, now));
        }
        assert_eq!(released(batcher.decide(now, 4, |_| Duration::ZERO, false)), (ReleaseReason::Full, vec![0, 1, 2, 3]));
        assert_eq!(released(batcher.decide(now, 4, |_| Duration::ZERO, false)), (ReleaseReason::Idle, vec![4, 5]));
        assert_eq!(batcher.len(), 0);
    }

    #[test]
    fn without_idle_dispatch_the_delay_counts() {
        let now = Instant::now();
        let mut batcher = Batcher::new(BatchOptions { idle_dispatch: false, ..options() });
        batcher.insert(pending(0, 0, None, now));
        let due = now + Duration::from_millis(5);
        assert!(matches!(batcher.decide(now, 4, |_| Duration::ZERO, false), Decision::Wait(Some(at)) if at == due));
        assert_eq!(released(batcher.decide(due, 4, |_| Duration::ZERO, false)), (ReleaseReason::Delay, vec![0]));
        batcher.insert(pending(1, 0, None, now));
        assert_eq!(released(batcher.decide(now, 4, |_| Duration::ZERO, true)), (ReleaseReason::Drain, vec![1]));
    }

    #[test]
    fn a_close_deadline_releases_early() {
        let now = Instant::now();
        let mut batcher = Batcher::new(BatchOptions { idle_dispatch: false, ..options() });
        let deadline = Some(now + Duration::from_millis(3));
        batcher.insert(Pending { deadline, mortal: true, ..pending(0, 0, None, now) });
        let run = Duration::from_millis(2);
        let start_by = now + Duration::from_millis(1);
        assert!(matches!(batcher.decide(now, 4, |_| run, false), Decision::Wait(Some(at)) if at == start_by));
        assert_eq!(released(batcher.decide(start_by, 4, |_| run, false)), (ReleaseReason::Slack, vec![0]));
    }

    #[test]
    fn fewest_items_wait_for_company() {
        let now = Instant::now();
        let mut batcher = Batcher::new(BatchOptions { items: 2..=4, ..options() });
        batcher.insert(pending(0, 0, None, now));
        assert!(matches!(batcher.decide(now, 4, |_| Duration::ZERO, false), Decision::Wait(Some(_))));
        batcher.insert(pending(1, 0, None, now));
        assert_eq!(released(batcher.decide(now, 4, |_| Duration::ZERO, false)), (ReleaseReason::Idle, vec![0, 1]));
    }

    #[test]
    fn bytes_close_a_batch_and_an_oversized_item_goes_alone() {
        let now = Instant::now();
        let mut batcher = Batcher::new(BatchOptions { max_bytes: 25, ..options() });
        batcher.insert(Pending { bytes: 99, ..pending(0, 0, None, now) });
        for item in 1..4 {
            batcher.insert(pending(item, 0, None, now));
        }
        assert_eq!(released(batcher.decide(now, 4, |_| Duration::ZERO, false)), (ReleaseReason::Bytes, vec![0]));
        assert_eq!(released(batcher.decide(now, 4, |_| Duration::ZERO, false)), (ReleaseReason::Bytes, vec![1, 2]));
        assert_eq!(released(batcher.decide(now, 4, |_| Duration::ZERO, false)), (ReleaseReason::Idle, vec![3]));
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
            order.push(released(batcher.decide(now, 4, |_| Duration::ZERO, false)).1);
        }
        assert_eq!(order, [vec![0, 3], vec![1, 4, 5], vec![2]]);
    }

    #[test]
    fn held_until_enough_have_come() {
        let now = Instant::now();
        let mut batcher = Batcher::new(BatchOptions { hold_until: 3, ..options() });
        for item in 0..3 {
            assert!(matches!(batcher.decide(now, 4, |_| Duration::ZERO, false), Decision::Wait(None)));
            batcher.insert(pending(item, 0, None, now));
        }
        assert_eq!(released(batcher.decide(now, 4, |_| Duration::ZERO, false)).1, [0, 1, 2]);
    }

    #[test]
    fn a_held_batcher_wakes_for_a_deadline() {
        let now = Instant::now();
        let mut batcher = Batcher::new(BatchOptions { hold_until: 3, ..options() });
        let deadline = Some(now + Duration::from_millis(3));
        batcher.insert(Pending { deadline, mortal: true, ..pending(0, 0, None, now) });
        batcher.insert(pending(1, 0, None, now));
        assert!(matches!(batcher.decide(now, 4, |_| Duration::ZERO, false), Decision::Wait(until) if until == deadline));
        let gone: Vec<_> = batcher.take_gone(|item| *item < 2).into_iter().map(|p| p.item).collect();
        assert_eq!((gone, batcher.len()), (vec![0], 1));
    }

    #[test]
    fn tokens_are_counted_with_padding() {
        let now = Instant::now();
        let items = 1..=100;
        let mut batcher = Batcher::new(BatchOptions { items, max_tokens: 64, pad_to: 8, max_padding: 1.0, ..options() });
        for (item, length) in [9, 12, 16, 15, 16].into_iter().enumerate() {
            batcher.insert(Pending { length, ..pending(item as u32, 0, None, now) });
        }
        // Four of sixteen are 64.
        assert_eq!(released(batcher.decide(now, 100, |_| Duration::ZERO, false)), (ReleaseReason::Tokens, vec![0, 1, 2, 3]));
        batcher.insert(Pending { length: 999, ..pending(5, 0, None, now) });
        assert_eq!(released(batcher.decide(now, 100, |_| Duration::ZERO, false)), (ReleaseReason::Tokens, vec![5]));
        assert_eq!(released(batcher.decide(now, 100, |_| Duration::ZERO, false)), (ReleaseReason::Idle, vec![4]));
    }

    #[test]
    fn lengths_that_are_far_apart_do_not_meet() {
        let now = Instant::now();
        let mut batcher = Batcher::new(options());
        for (item, length) in [10, 100, 11, 95, 10, 104].into_iter().enumerate() {
            batcher.insert(Pending { length, ..pending(item as u32, 0, None, now) });
        }
        assert_eq!(released(batcher.decide(now, 3, |_| Duration::ZERO, false)), (ReleaseReason::Full, vec![0, 2, 4]));
        assert_eq!(released(batcher.decide(now, 3, |_| Duration::ZERO, false)), (ReleaseReason::Full, vec![1, 3, 5]));
    }

    #[test]
    fn a_rare_kind_is_not_starved_by_full_batches_of_another() {
        let now = Instant::now();
        let mut batcher = Batcher::new(options());
        batcher.insert(pending(0, 9, None, now));
        let mut batches = 0;
        loop {
            (1..=4).for_each(|item| batcher.insert(pending(item, 0, None, now)));
            batches += 1;
            if released(batcher.decide(now, 4, |_| Duration::ZERO, false)) == (ReleaseReason::Delay, vec![0]) {
                break;
            }
            assert!(batches <= PATIENCE, "passed over {batches} times");
        }
        assert_eq!(batches, PATIENCE + 1);
    }

    #[test]
    fn a_full_pool_does_not_wait() {
        let now = Instant::now();
        let mut batcher = Batcher::new(BatchOptions { idle_dispatch: false, pool: 5, ..options() });
        for (item, bucket) in [0, 1, 2, 1].into_iter().enumerate() {
            batcher.insert(pending(item as u32, bucket, None, now));
            assert!(matches!(batcher.decide(now, 4, |_| Duration::ZERO, false), Decision::Wait(Some(_))));
        }
        batcher.insert(pending(4, 3, None, now));
        assert_eq!(released(batcher.decide(now, 4, |_| Duration::ZERO, false)), (ReleaseReason::Pool, vec![1, 3]));
    }

    #[test]
    fn items_that_differ_are_gathered_in_a_larger_pool() {
        let now = Instant::now();
        let mut batcher = Batcher::new(options());
        batcher.insert(pending(0, 0, None, now));
        assert_eq!(batcher.fill_to(4), 4);
        batcher.insert(pending(1, 1, None, now));
        assert_eq!(batcher.fill_to(4), 32);
        assert_eq!(batcher.fill_to(2), 16);
    }
}
