//! At-least-once delivery: a source learns how far everything that it delivered is done, and may forget it.
//!
//! For each record that such a source lets in, its position waits in the line of its partition. A record that has ended
//! (durably: a sink's records end when the sink was flushed, a failed one when its dead letter is stored) sets its bit; the
//! line's front moves past those that are set, and what it has passed is committed: every so often, when the pipeline
//! drains, and as far as it goes when it is aborted. A record that an abort threw away never sets its bit.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use millstream_edge::AckRing;

use crate::{
    envelope::Position,
    error::{Fault, StageError},
    panics::guard,
    signal::{Signal, Switch},
    source::Committer,
};

/// How many records of a source may be on their way, or done and waiting for one before them.
const ON_THEIR_WAY: u64 = 1 << 17;

/// What is known of one source's records.
pub(crate) struct Acks {
    ring: AckRing,
    lines: Mutex<Lines>,
    closed: AtomicBool,
}

#[derive(Default)]
struct Lines {
    next: u64,
    partitions: BTreeMap<u32, Line>,
}

#[derive(Default)]
struct Line {
    /// Slots and offsets of records on their way, in the order of delivery.
    waiting: VecDeque<(u64, u64)>,
    /// The highest offset that is done, with all before it.
    done: Option<u64>,
    committed: Option<u64>,
}

impl Lines {
    /// Moves the front of each line; whether there is something to commit.
    fn advance(&mut self, ring: &AckRing) -> bool {
        let mut news = false;
        for line in self.partitions.values_mut() {
            while let Some((slot, offset)) = line.waiting.front().copied().filter(|(slot, _)| ring.take(*slot)) {
                let _ = slot;
                line.waiting.pop_front();
                line.done = Some(offset);
            }
            news |= line.done > line.committed;
        }
        news
    }

    fn oldest(&self) -> u64 {
        self.partitions.values().filter_map(|line| line.waiting.front()).map(|(slot, _)| *slot).min().unwrap_or(self.next)
    }
}

impl Acks {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Acks { ring: AckRing::new(ON_THEIR_WAY), lines: Mutex::default(), closed: AtomicBool::new(false) })
    }

    /// A slot for a record that is let in now, if there is one.
    pub(crate) fn try_enter(&self, position: Position) -> Option<u64> {
        let mut lines = self.lock();
        if lines.next - lines.oldest() >= self.ring.capacity() {
            lines.advance(&self.ring);
            if lines.next - lines.oldest() >= self.ring.capacity() {
                return None;
            }
        }
        let slot = lines.next;
        lines.next += 1;
        lines.partitions.entry(position.partition).or_default().waiting.push_back((slot, position.offset));
        Some(slot)
    }

    /// Waits until there is a slot, or the pipeline is being aborted; whether there is one.
    pub(crate) fn wait_for_room(&self) -> bool {
        self.ring.wait(|| {
            let mut lines = self.lock();
            lines.advance(&self.ring);
            self.is_closed() || lines.next - lines.oldest() < self.ring.capacity()
        });
        !self.is_closed()
    }

    /// The record in this slot has ended for good.
    pub(crate) fn done(&self, slot: u64) {
        self.ring.done(slot);
    }

    /// The pipeline is being aborted: nobody waits any more.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.ring.poke();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that commits for a source.
pub(crate) struct Commits {
    acks: Arc<Acks>,
    /// Thrown at the end of the source's stream.
    ended: Switch,
    thread: JoinHandle<Result<(), Fault>>,
}

impl Commits {
    pub(crate) fn start(acks: Arc<Acks>, committer: Box<dyn Committer>, every: Duration, name: &str) -> io::Result<Self> {
        let ended = Switch::new();
        let (signal, shared) = (ended.signal(), acks.clone());
        let thread = thread::Builder::new().name(format!("{name}.commit")).spawn(move || run(&shared, committer, &signal, every))?;
        Ok(Commits { acks, ended, thread })
    }

    /// Whether a commit has failed: [`Commits::finish`] says how.
    pub(crate) fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// The source has delivered everything: waits until all of that has ended and is committed.
    pub(crate) fn finish(self) -> Result<(), Fault> {
        self.ended.throw();
        self.acks.ring.poke();
        self.thread.join().unwrap_or_else(|_| Err(Fault::from(StageError::fatal("the committing thread panicked"))))
    }
}

fn run(acks: &Acks, mut committer: Box<dyn Committer>, ended: &Signal, every: Duration) -> Result<(), Fault> {
    loop {
        let mut over = false;
        acks.ring.wait(|| {
            let mut lines = acks.lock();
            let news = lines.advance(&acks.ring);
            over = acks.is_closed() || (ended.is_set() && lines.oldest() == lines.next);
            news || over
        });
        if !over {
            // What is done in the meantime is committed with it.
            ended.sleep(every);
        }
        let done: Vec<Position> = {
            let mut lines = acks.lock();
            lines.advance(&acks.ring);
            let news = lines.partitions.iter().filter(|(_, line)| line.done > line.committed);
            news.filter_map(|(partition, line)| Some(Position { partition: *partition, offset: line.done? })).collect()
        };
        if !done.is_empty() {
            crate::fail_point!("before-commit");
            guard(|| committer.commit(&done))?.map_err(Fault::from)?;
            crate::fail_point!("after-commit");
            let mut lines = acks.lock();
            for position in done {
                lines.partitions.entry(position.partition).or_default().committed = Some(position.offset);
            }
        }
        if over {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: u32, offset: u64) -> Position {
        Position { partition, offset }
    }

    #[test]
    fn a_partition_is_done_up_to_its_first_record_that_is_not() {
        let acks = Acks::new();
        let slots: Vec<_> = [at(0, 10), at(1, 5), at(0, 11), at(0, 15)].map(|position| acks.try_enter(position).unwrap()).into();
        acks.done(slots[2]);
        assert!(!acks.lock().advance(&acks.ring));
        acks.done(slots[1]);
        acks.done(slots[0]);
        let mut lines = acks.lock();
        assert!(lines.advance(&acks.ring));
        assert_eq!((lines.partitions[&0].done, lines.partitions[&1].done), (Some(11), Some(5)));
        assert_eq!(lines.oldest(), slots[3]);
    }

    #[test]
    fn a_record_that_takes_long_bounds_what_is_remembered() {
        let acks = Acks::new();
        let first = acks.try_enter(at(0, 0)).unwrap();
        for offset in 1..acks.ring.capacity() {
            let slot = acks.try_enter(at(0, offset)).unwrap();
            acks.done(slot);
        }
        assert_eq!(acks.try_enter(at(0, 9)), None);
        acks.done(first);
        assert!(acks.wait_for_room());
        assert!(acks.try_enter(at(0, 9)).is_some());
        acks.close();
        assert!(!acks.wait_for_room());
    }
}
