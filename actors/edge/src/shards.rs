//! Shards: lanes that consumers share among themselves, and may come to and go from.
//!
//! A shard belongs to one consumer at a time, and changes hands only when its owner says that it has nothing in hand: so what
//! waits in a shard moves with it, and its order holds whoever comes or goes. Senders know shards only.
//!
//! ```text
//! enter, leave:  the shares are counted out anew; who has more than its share is woken
//! settle:        its owner gives away what is no longer its own, to those whose it is
//! at the end:    nothing changes hands any more
//! ```
//!
//! One lock guards all of it, held for a few moments per chunk.

use std::{collections::VecDeque, time::Instant};

use crate::{
    edge::{Chunk, Control, Received},
    sync::{Arc, AtomicBool, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, lock, wait},
};

/// How a consumer stands to the shards of an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has a share, or had one and has not given it away yet.
    In,
    /// It has none, and will get none until it enters.
    Out,
}

/// Called when something waits that did not before.
pub(crate) type Watcher = Box<dyn Fn() + Send + Sync>;

pub(crate) struct Shards<T> {
    state: Mutex<State<T>>,
    /// For each consumer.
    bells: Vec<Condvar>,
    /// For each consumer, whether it has what it should give away, or is to leave.
    owes: Vec<AtomicBool>,
    /// For each shard, the records queued: what an unkeyed item's sender balances by.
    pub(crate) depths: Vec<AtomicUsize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stand {
    Out,
    In,
    Leaving,
}

struct State<T> {
    queues: Vec<VecDeque<Chunk<T>>>,
    owners: Vec<usize>,
    stands: Vec<Stand>,
    /// For each consumer, whether its next wait is to end without an item.
    woken: Vec<bool>,
    /// For each consumer, the shard that it looks at first.
    turns: Vec<usize>,
    ended: bool,
    watcher: Option<Arc<Watcher>>,
    /// The watcher was called, and has not said that it is at rest again.
    watched: bool,
}

impl<T> State<T> {
    /// Whose shard this should be. There is always somebody.
    fn heir(&self, shard: usize) -> usize {
        let mut members = (0..self.stands.len()).filter(|consumer| self.stands[*consumer] == Stand::In);
        let count = members.clone().count().max(1);
        members.nth(shard % count).unwrap_or(self.owners[shard])
    }

    /// The next chunk of a consumer's shards, with its shard.
    fn take(&mut self, consumer: usize) -> Option<(usize, Chunk<T>)> {
        let shards = self.queues.len();
        for step in 0..shards {
            let shard = (self.turns[consumer] + step) % shards;
            if self.owners[shard] == consumer
                && let Some(chunk) = self.queues[shard].pop_front()
            {
                self.turns[consumer] = (shard + 1) % shards;
                return Some((shard, chunk));
            }
        }
        None
    }
}

impl<T: Send> Shards<T> {
    /// So many shards for so many consumers, the first of whom are in.
    pub(crate) fn new(shards: usize, consumers: usize, members: usize) -> Self {
        let members = members.clamp(1, consumers);
        let stands = (0..consumers).map(|consumer| if consumer < members { Stand::In } else { Stand::Out }).collect();
        let state = State {
            queues: (0..shards).map(|_| VecDeque::new()).collect(),
            owners: (0..shards).map(|shard| shard % members).collect(),
            stands,
            woken: vec![false; consumers],
            turns: vec![0; consumers],
            ended: false,
            watcher: None,
            watched: false,
        };
        Shards {
            state: Mutex::new(state),
            bells: (0..consumers).map(|_| Condvar::new()).collect(),
            owes: (0..consumers).map(|_| AtomicBool::new(false)).collect(),
            depths: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    pub(crate) fn push(&self, shard: usize, chunk: Chunk<T>) {
        self.depths[shard].fetch_add(chunk.len(), Ordering::Relaxed);
        let mut state = lock(&self.state);
        state.queues[shard].push_back(chunk);
        let owner = state.owners[shard];
        let watcher = if state.watched { None } else { state.watcher.clone() };
        state.watched |= watcher.is_some();
        drop(state);
        self.bells[owner].notify_one();
        if let Some(watcher) = watcher {
            watcher();
        }
    }

    /// The next of a consumer's chunks, if there is one, or what it should know instead.
    pub(crate) fn try_pop(&self, consumer: usize) -> Option<Received<T>> {
        self.look(&mut lock(&self.state), consumer)
    }

    /// As [`Shards::try_pop`], waiting until the deadline; `closed` is looked at under the lock.
    pub(crate) fn pop(&self, consumer: usize, deadline: Option<Instant>, closed: impl Fn() -> bool) -> Received<T> {
        let mut state = lock(&self.state);
        loop {
            if closed() {
                return Received::Closed;
            }
            if std::mem::take(&mut state.woken[consumer]) {
                return Received::TimedOut;
            }
            if let Some(received) = self.look(&mut state, consumer) {
                return received;
            }
            match wait(&self.bells[consumer], state, deadline) {
                Some(guard) => state = guard,
                None => return Received::TimedOut,
            }
        }
    }

    fn look(&self, state: &mut State<T>, consumer: usize) -> Option<Received<T>> {
        match state.take(consumer) {
            Some((shard, chunk)) => {
                self.depths[shard].fetch_sub(chunk.len(), Ordering::Relaxed);
                Some(Received::Chunk(chunk))
            }
            None => state.ended.then_some(Received::Control(Control::EndOfStream)),
        }
    }

    /// Nothing more will be pushed.
    pub(crate) fn end(&self) {
        lock(&self.state).ended = true;
        self.bells.iter().for_each(Condvar::notify_all);
    }

    /// Lets every consumer's next wait end without an item.
    pub(crate) fn wake(&self) {
        lock(&self.state).woken.fill(true);
        self.bells.iter().for_each(Condvar::notify_all);
    }

    /// Lets a consumer's next wait end without an item.
    pub(crate) fn wake_one(&self, consumer: usize) {
        lock(&self.state).woken[consumer] = true;
        self.bells[consumer].notify_all();
    }

    /// Gives a consumer its share, unless it is to leave. The others are asked to give it away.
    pub(crate) fn enter(&self, consumer: usize) -> Standing {
        let mut state = lock(&self.state);
        match state.stands[consumer] {
            Stand::Leaving => return Standing::Out,
            Stand::In => return Standing::In,
            Stand::Out => {}
        }
        state.stands[consumer] = Stand::In;
        self.count_out(state);
        Standing::In
    }

    /// Asks a consumer to give its share away and to enter no more. Whether it was asked: the last one stays.
    pub(crate) fn leave(&self, consumer: usize) -> bool {
        let mut state = lock(&self.state);
        let others = (0..state.stands.len()).any(|other| other != consumer && state.stands[other] == Stand::In);
        if !others {
            return false;
        }
        state.stands[consumer] = Stand::Leaving;
        self.owes[consumer].store(true, Ordering::Release);
        self.count_out(state);
        true
    }

    /// Whether the consumer should settle as soon as it has nothing in hand.
    pub(crate) fn owes(&self, consumer: usize) -> bool {
        self.owes[consumer].load(Ordering::Acquire)
    }

    /// Gives away what is no longer the consumer's. It has nothing in hand.
    pub(crate) fn settle(&self, consumer: usize) -> Standing {
        let mut state = lock(&self.state);
        self.owes[consumer].store(false, Ordering::Release);
        if !state.ended {
            for shard in 0..state.owners.len() {
                let heir = state.heir(shard);
                if state.owners[shard] == consumer && heir != consumer {
                    state.owners[shard] = heir;
                    self.bells[heir].notify_one();
                }
            }
        }
        if state.stands[consumer] != Stand::Leaving || state.owners.contains(&consumer) {
            return Standing::In;
        }
        state.stands[consumer] = Stand::Out;
        Standing::Out
    }

    /// Who has more than its share is told so.
    fn count_out(&self, mut state: MutexGuard<'_, State<T>>) {
        for shard in 0..state.owners.len() {
            let owner = state.owners[shard];
            if state.heir(shard) != owner {
                self.owes[owner].store(true, Ordering::Release);
            }
        }
        for (consumer, owes) in self.owes.iter().enumerate() {
            if owes.load(Ordering::Acquire) {
                state.woken[consumer] = true;
                self.bells[consumer].notify_all();
            }
        }
    }

    /// Has somebody called when something is pushed, once, until it is at rest again.
    pub(crate) fn watch(&self, watcher: Watcher) {
        lock(&self.state).watcher = Some(Arc::new(watcher));
    }

    /// The watcher wants to be called again, if nothing waits. Whether that is so.
    pub(crate) fn rest(&self) -> bool {
        let mut state = lock(&self.state);
        state.watched = state.queues.iter().any(|queue| !queue.is_empty());
        !state.watched
    }

    /// Somebody looks now, and the watcher is not called until it is at rest again. Whether nobody looked before.
    pub(crate) fn hold(&self) -> bool {
        !std::mem::replace(&mut lock(&self.state).watched, true)
    }

    pub(crate) fn drain(&self) -> Vec<Chunk<T>> {
        lock(&self.state).queues.iter_mut().flat_map(|queue| queue.drain(..)).collect()
    }
}
