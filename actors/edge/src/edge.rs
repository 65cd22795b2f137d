//! Edges: lanes of chunks and control items under one ledger.
//!
//! A shared edge has one lane that all consumers take from; a keyed edge has one lane per consumer, and the sender
//! chooses the lane, which is what keeps the order within a key. How many producers are still open is counted: when
//! the last one finishes, every consumer finds one end-of-stream item behind all data. Where consumers come and go, senders
//! choose among shards instead, which the consumers share.

use std::{fmt, time::Instant};

use crate::{
    alignment::Alignment,
    channel::{Channel, Queue},
    frontier::{Frontier, Mark},
    ledger::{Closed, Cost, Credit, Ledger, Limits},
    options::EdgeOptions,
    shards::{Shards, Standing},
    sync::{Arc, AtomicBool, AtomicUsize, Condvar, Mutex, Ordering, lock},
};

/// The most items that one chunk carries.
pub const MAX_CHUNK: usize = 32;

/// Barriers and watermarks that may be on their way at once, per edge.
const MAX_CONTROLS: u32 = 256;

/// Items that travel in the same order as the data and take no data credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// Nothing comes behind this.
    EndOfStream,
    /// The checkpoint of this number is aligned here.
    Barrier(u64),
    /// No record with an earlier event time (microseconds) comes behind this, from any producer that is not idle.
    Watermark(i64),
    /// No producer knows at present how far event time has come: nobody need wait for it.
    Idle,
}

/// A chunk of items, with the credits that they hold while they wait.
pub struct Chunk<T> {
    items: Vec<T>,
    credit: Credit,
}

impl<T> Chunk<T> {
    /// The items, and their credits apart. Dropping the credits says that the items go into execution.
    pub fn into_parts(self) -> (Vec<T>, Credit) {
        (self.items, self.credit)
    }

    /// How many items there are; at least one.
    #[expect(clippy::len_without_is_empty, reason = "a chunk is never empty")]
    pub fn len(&self) -> usize {
        self.items.len()
    }
}

/// What a consumer gets.
pub enum Received<T> {
    /// Data.
    Chunk(Chunk<T>),
    /// A control item.
    Control(Control),
    /// The deadline passed first, or [`Edge::wake`] was called.
    TimedOut,
    /// The edge was closed: stop at once.
    Closed,
}

/// The items that could not be sent because the edge was closed.
pub struct SendError<T>(pub Vec<T>);

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendError({} items)", self.0.len())
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} items were not sent: {}", self.0.len(), Closed)
    }
}

impl<T> std::error::Error for SendError<T> {}

enum Message<T> {
    Chunk(Chunk<T>),
    Control(Control, #[expect(dead_code, reason = "held for its drop")] Option<Credit>),
    /// How far event time has come at one producer.
    Mark(usize, Mark, #[expect(dead_code, reason = "held for its drop")] Option<Credit>),
    /// Makes a sleeping consumer look around.
    Wake,
}

struct Lane<T> {
    queue: Channel<Message<T>>,
    /// Records queued here: what an unkeyed item's sender balances by.
    depth: AtomicUsize,
    /// How far event time has come, at the receiving end.
    frontier: Mutex<Frontier>,
}

enum Queues<T> {
    Lanes(Vec<Lane<T>>),
    Shards(Shards<T>),
}

/// A bounded queue between two stages. It outlives the workers on both of its ends.
pub struct Edge<T> {
    queues: Queues<T>,
    consumers: usize,
    ledger: Arc<Ledger>,
    controls: Arc<Ledger>,
    /// Who has sent a barrier that others have not; locked once for each barrier of each producer.
    alignment: Mutex<Alignment>,
    aligned: Condvar,
    open_producers: AtomicUsize,
    closed: AtomicBool,
}

impl<T: Send> Edge<T> {
    /// An empty edge.
    pub fn new(options: EdgeOptions) -> Arc<Self> {
        let lane = |_| Lane { queue: Channel::new(), depth: AtomicUsize::new(0), frontier: Mutex::new(Frontier::new(options.producers)) };
        Arc::new(Edge {
            queues: match options.shards {
                Some((shards, members)) => Queues::Shards(Shards::new(shards, options.consumers, members)),
                None => Queues::Lanes((0..if options.keyed { options.consumers } else { 1 }).map(lane).collect()),
            },
            consumers: options.consumers,
            ledger: Arc::new(Ledger::new(options.limits)),
            controls: Arc::new(Ledger::new(Limits { records: MAX_CONTROLS, bytes: 1 })),
            alignment: Mutex::new(Alignment::new(options.producers)),
            aligned: Condvar::new(),
            open_producers: AtomicUsize::new(options.producers),
            closed: AtomicBool::new(false),
        })
    }

    /// An end to send on. A restarted producer takes a new one: only [`Sender::finish`] counts.
    pub fn sender(self: &Arc<Self>) -> Sender<T> {
        self.sender_of(0)
    }

    /// As [`Edge::sender`], for the producer of this number: it matters to watermarks and barriers.
    pub fn sender_of(self: &Arc<Self>, producer: usize) -> Sender<T> {
        // A restarted producer waits where the last one had to.
        let behind = AtomicBool::new(lock(&self.alignment).is_behind(producer));
        Sender { edge: self.clone(), producer, behind }
    }

    /// An end to receive on, for one consumer. A restarted consumer takes a new one and goes on where the last stopped.
    pub fn receiver(self: &Arc<Self>, consumer: usize) -> Receiver<T> {
        Receiver { edge: self.clone(), consumer }
    }

    /// How many lanes, or shards, there are.
    pub fn lanes(&self) -> usize {
        match &self.queues {
            Queues::Lanes(lanes) => lanes.len(),
            Queues::Shards(shards) => shards.depths.len(),
        }
    }

    /// Asks a consumer to give away its shards and to stop. Whether it was asked: the last one stays, and so do all where there
    /// are no shards.
    pub fn leave(&self, consumer: usize) -> bool {
        match &self.queues {
            Queues::Lanes(_) => false,
            Queues::Shards(shards) => shards.leave(consumer),
        }
    }

    /// Has somebody called, once, when something comes that waits in a shard, until the edge is at [rest](Edge::rest) again.
    pub fn watch(&self, watcher: impl Fn() + Send + Sync + 'static) {
        if let Queues::Shards(shards) = &self.queues {
            shards.watch(Box::new(watcher));
        }
    }

    /// Keeps the watcher from being called until the edge is at rest again. Whether it would have been called.
    pub fn hold(&self) -> bool {
        match &self.queues {
            Queues::Lanes(_) => false,
            Queues::Shards(shards) => shards.hold(),
        }
    }

    /// If nothing waits in the shards, the watcher will be called again when something comes. Whether that is so.
    pub fn rest(&self) -> bool {
        match &self.queues {
            Queues::Lanes(_) => true,
            Queues::Shards(shards) => shards.rest(),
        }
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.ledger.limits()
    }

    /// What waits on the edge, or was taken off it without being executed yet.
    pub fn outstanding(&self) -> Cost {
        self.ledger.outstanding()
    }

    /// Whether a sender waits for credits at the moment.
    pub fn starved(&self) -> bool {
        self.ledger.contended()
    }

    /// Stops everything at once: senders and receivers return `Closed`, including those who wait.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.ledger.close();
        self.controls.close();
        // The empty critical section orders us after the look of a producer that is about to wait.
        drop(lock(&self.alignment));
        self.aligned.notify_all();
        self.wake();
    }

    /// Lets every consumer's next wait end without an item.
    pub fn wake(&self) {
        match &self.queues {
            Queues::Lanes(lanes) => {
                for lane in lanes {
                    let sleepers = if lanes.len() == 1 { self.consumers } else { 1 };
                    for _ in 0..sleepers {
                        lane.queue.push(Message::Wake);
                    }
                }
            }
            Queues::Shards(shards) => shards.wake(),
        }
    }

    /// Lets the next wait of a consumer that has a lane or shards of its own end without an item.
    pub fn wake_one(&self, consumer: usize) {
        match &self.queues {
            Queues::Lanes(lanes) => lanes[consumer % lanes.len()].queue.push(Message::Wake),
            Queues::Shards(shards) => shards.wake_one(consumer),
        }
    }

    /// Drops what is queued, which gives its credits back, and says how many records that were. For after a close,
    /// when nobody consumes any more.
    pub fn purge(&self) -> usize {
        let mut dropped = 0;
        if let Queues::Shards(shards) = &self.queues {
            dropped += shards.drain().iter().map(Chunk::len).sum::<usize>();
        }
        for lane in self.each_lane() {
            while let Some(message) = lane.queue.try_pop() {
                if let Message::Chunk(chunk) = message {
                    dropped += chunk.len();
                }
            }
        }
        dropped
    }

    /// The lanes, where there are no shards.
    fn each_lane(&self) -> &[Lane<T>] {
        match &self.queues {
            Queues::Lanes(lanes) => lanes,
            Queues::Shards(_) => &[],
        }
    }

    /// Whether each consumer has a lane of its own.
    fn keeps_lanes(&self) -> bool {
        self.each_lane().len() == self.consumers
    }

    /// Puts an aligned barrier into every lane. The caller holds the lock on the alignment, so that nobody who waits for it
    /// is earlier.
    fn pass(&self, aligned: Option<u64>) {
        let Some(barrier) = aligned else { return };
        for lane in self.each_lane() {
            lane.queue.push(Message::Control(Control::Barrier(barrier), None));
        }
        self.aligned.notify_all();
    }

    fn end_of_stream(&self) {
        match &self.queues {
            Queues::Lanes(lanes) => {
                for consumer in 0..self.consumers {
                    lanes[consumer % lanes.len()].queue.push(Message::Control(Control::EndOfStream, None));
                }
            }
            Queues::Shards(shards) => shards.end(),
        }
    }
}

/// The sending end of an edge.
pub struct Sender<T> {
    edge: Arc<Edge<T>>,
    producer: usize,
    /// It has sent a barrier, and perhaps not all others have.
    behind: AtomicBool,
}

impl<T: Send> Sender<T> {
    /// Sends a chunk on a lane, waiting for its credits. `cost` is what all items weigh together.
    ///
    /// # Errors
    /// Gives the items back when the edge is closed.
    ///
    /// # Panics
    /// Never for `lane` below [`Edge::lanes`].
    pub fn send(&self, lane: usize, items: Vec<T>, cost: Cost) -> Result<(), SendError<T>> {
        debug_assert!(!items.is_empty() && items.len() <= MAX_CHUNK);
        if self.await_alignment().is_err() {
            return Err(SendError(items));
        }
        match self.edge.ledger.clone().acquire(cost) {
            Ok(credit) => {
                self.push(lane, items, credit);
                Ok(())
            }
            Err(Closed) => Err(SendError(items)),
        }
    }

    /// Sends a chunk if its credits are free, and no barrier that was sent before it waits for other producers.
    ///
    /// # Errors
    /// Gives the items back when they are not, or when the edge is closed.
    pub fn try_send(&self, lane: usize, items: Vec<T>, cost: Cost) -> Result<(), SendError<T>> {
        if self.is_behind() {
            return Err(SendError(items));
        }
        match self.edge.ledger.clone().try_acquire(cost) {
            Some(credit) => {
                self.push(lane, items, credit);
                Ok(())
            }
            None => Err(SendError(items)),
        }
    }

    /// Sends a barrier or a watermark to every consumer. (The end of the stream is announced by [`Sender::finish`].)
    /// Consumers learn the least of all producers' watermarks, and of a barrier when every open producer has sent it; what
    /// this one sends behind a barrier waits until then. Consumers need a lane each for that, since what comes before on a
    /// common lane may still be in another consumer's hands: without lanes, neither is sent.
    ///
    /// # Errors
    /// [`Closed`] when the edge is closed.
    pub fn control(&self, control: Control) -> Result<(), Closed> {
        self.await_alignment()?;
        self.announce(control, |controls| controls.acquire(Cost { records: 1, bytes: 0 }).map(Some)).map(drop)
    }

    /// As [`Sender::control`], but without waiting where too many controls are on their way; whether all were sent.
    pub fn try_control(&self, control: Control) -> bool {
        !self.is_behind() && self.announce(control, |controls| Ok(controls.try_acquire(Cost { records: 1, bytes: 0 }))).is_ok_and(|all| all)
    }

    fn announce(&self, control: Control, credit: impl Fn(Arc<Ledger>) -> Result<Option<Credit>, Closed>) -> Result<bool, Closed> {
        let mark = match control {
            Control::Watermark(time) => Some(Mark::At(time)),
            Control::Idle => Some(Mark::Idle),
            Control::EndOfStream => None,
            Control::Barrier(barrier) => {
                self.arrive(barrier);
                return Ok(true);
            }
        };
        if mark.is_some() && !self.edge.keeps_lanes() {
            return Ok(true);
        }
        let mut all = true;
        let lanes = self.edge.each_lane();
        for consumer in (0..self.edge.consumers).filter(|_| !lanes.is_empty()) {
            let Some(credit) = credit(self.edge.controls.clone())? else {
                all = false;
                continue;
            };
            let lane = &lanes[consumer % lanes.len()];
            lane.queue.push(match mark {
                Some(mark) => Message::Mark(self.producer, mark, Some(credit)),
                None => Message::Control(control, Some(credit)),
            });
        }
        Ok(all)
    }

    /// A barrier needs no credit: the next one cannot be sent before this one is on the edge, and whoever begins
    /// barriers begins one at a time.
    fn arrive(&self, barrier: u64) {
        if self.edge.keeps_lanes() {
            let mut alignment = lock(&self.edge.alignment);
            let aligned = alignment.arrive(self.producer, barrier);
            self.behind.store(aligned.is_none(), Ordering::Relaxed);
            self.edge.pass(aligned);
        }
    }

    /// Whether a barrier that was sent here waits for other producers.
    fn is_behind(&self) -> bool {
        // Only this sender sets it, and one thread at a time sends.
        if !self.behind.load(Ordering::Relaxed) {
            return false;
        }
        let behind = lock(&self.edge.alignment).is_behind(self.producer);
        self.behind.store(behind, Ordering::Relaxed);
        behind
    }

    /// Waits until every other producer has sent the barrier that this one has sent.
    fn await_alignment(&self) -> Result<(), Closed> {
        if !self.behind.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut alignment = lock(&self.edge.alignment);
        while alignment.is_behind(self.producer) {
            if self.edge.closed.load(Ordering::SeqCst) {
                return Err(Closed);
            }
            alignment = self.edge.aligned.wait(alignment).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        self.behind.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Says that this producer sends no more. Once every producer has, the consumers find the end of the stream.
    pub fn finish(self) {
        if self.edge.keeps_lanes() {
            for lane in self.edge.each_lane() {
                lane.queue.push(Message::Mark(self.producer, Mark::Done, None));
            }
        }
        {
            let mut alignment = lock(&self.edge.alignment);
            let aligned = alignment.finish(self.producer);
            self.edge.pass(aligned);
        }
        if self.edge.open_producers.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.edge.end_of_stream();
        }
    }

    /// The lane with the fewest records queued.
    pub fn shallowest_lane(&self) -> usize {
        let depth = |lane: &usize| match &self.edge.queues {
            Queues::Lanes(lanes) => lanes[*lane].depth.load(Ordering::Relaxed),
            Queues::Shards(shards) => shards.depths[*lane].load(Ordering::Relaxed),
        };
        (0..self.edge.lanes()).min_by_key(depth).unwrap_or(0)
    }

    /// The edge.
    pub fn edge(&self) -> &Edge<T> {
        &self.edge
    }

    fn push(&self, lane: usize, items: Vec<T>, credit: Credit) {
        let chunk = Chunk { items, credit };
        match &self.edge.queues {
            Queues::Lanes(lanes) => {
                lanes[lane].depth.fetch_add(chunk.len(), Ordering::Relaxed);
                lanes[lane].queue.push(Message::Chunk(chunk));
            }
            Queues::Shards(shards) => shards.push(lane, chunk),
        }
    }
}

/// The receiving end of an edge.
pub struct Receiver<T> {
    edge: Arc<Edge<T>>,
    consumer: usize,
}

impl<T: Send> Receiver<T> {
    /// Waits for the next item until the deadline, for ever without one.
    pub fn recv(&self, deadline: Option<Instant>) -> Received<T> {
        let lane = match &self.edge.queues {
            Queues::Lanes(lanes) => &lanes[self.consumer % lanes.len()],
            Queues::Shards(shards) => return shards.pop(self.consumer, deadline, || self.edge.closed.load(Ordering::SeqCst)),
        };
        loop {
            if self.edge.closed.load(Ordering::SeqCst) {
                return Received::Closed;
            }
            match lane.queue.pop(deadline) {
                Some(message) => match self.open(lane, message) {
                    Some(received) => return received,
                    None => continue,
                },
                None => return Received::TimedOut,
            }
        }
    }

    /// Takes the next item if there is one.
    pub fn try_recv(&self) -> Option<Received<T>> {
        loop {
            if self.edge.closed.load(Ordering::SeqCst) {
                return Some(Received::Closed);
            }
            let lane = match &self.edge.queues {
                Queues::Lanes(lanes) => &lanes[self.consumer % lanes.len()],
                Queues::Shards(shards) => return shards.try_pop(self.consumer),
            };
            if let Some(received) = self.open(lane, lane.queue.try_pop()?) {
                return Some(received);
            }
        }
    }

    /// Asks for a share of the shards, for a consumer that is ready to work; nothing where there are none.
    pub fn enter(&self) -> Standing {
        match &self.edge.queues {
            Queues::Lanes(_) => Standing::In,
            Queues::Shards(shards) => shards.enter(self.consumer),
        }
    }

    /// Whether this consumer should [settle](Receiver::settle) as soon as it has nothing in hand: others wait for that.
    pub fn owes(&self) -> bool {
        match &self.edge.queues {
            Queues::Lanes(_) => false,
            Queues::Shards(shards) => shards.owes(self.consumer),
        }
    }

    /// Gives away the shards that are no longer this consumer's. Whoever calls it has nothing in hand of what it took, and has
    /// sent on what it made of it.
    pub fn settle(&self) -> Standing {
        match &self.edge.queues {
            Queues::Lanes(_) => Standing::In,
            Queues::Shards(shards) => shards.settle(self.consumer),
        }
    }

    /// The edge.
    pub fn edge(&self) -> &Edge<T> {
        &self.edge
    }

    /// What the consumer is told of a message, if anything.
    fn open(&self, lane: &Lane<T>, message: Message<T>) -> Option<Received<T>> {
        if self.edge.closed.load(Ordering::SeqCst) {
            return Some(Received::Closed);
        }
        Some(match message {
            Message::Chunk(chunk) => {
                lane.depth.fetch_sub(chunk.len(), Ordering::Relaxed);
                Received::Chunk(chunk)
            }
            Message::Control(control, _) => Received::Control(control),
            Message::Mark(producer, mark, _) => Received::Control(lock(&lane.frontier).note(producer, mark)?),
            Message::Wake => Received::TimedOut,
        })
    }
}
