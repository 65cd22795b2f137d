//! The envelope: a payload on its way through a pipeline, with everything that the runtime knows about it.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use millstream_edge::Cost;

use crate::{
    cancel::CancelToken,
    outcome::Outcome,
    spans::Traced,
    ticket::{Origin, Ticket},
};

/// How many virtual shards keys are hashed to; a shard belongs to one replica of a stage.
const SHARDS: u64 = 256;

/// What records are kept in order by: the hash of whatever identifies a stream within a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u64);

impl Key {
    /// The key of any hashable value. Equal within one version of the program, not across versions.
    pub fn of<K: Hash + ?Sized>(value: &K) -> Self {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        Key(hasher.finish())
    }

    /// Which of `lanes` lanes this key goes through.
    pub(crate) fn lane(self, lanes: usize) -> usize {
        // Fibonacci hashing: keys given by hand may be small consecutive numbers.
        let shard = self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
        (shard * lanes as u64 / SHARDS) as usize
    }
}

/// Where a record came from: enough to find it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// The source's partition.
    pub partition: u32,
    /// The offset within the partition.
    pub offset: u64,
}

/// The identifiers of a distributed trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace.
    pub trace: u128,
    /// The span within it: that of whoever sent the record, and within a pipeline that is traced, of its admission.
    pub span: u64,
    /// Whether somebody follows the record.
    pub sampled: bool,
}

/// What the runtime knows about a record.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Header {
    /// Unique within the pipeline; given at admission, in order. Children of one record share it.
    pub id: u64,
    /// The branching that it is a copy at, if it is one.
    pub(crate) copy: Option<Arc<CopyMark>>,
    /// Which of a record's children it is: 0 while it has not become several. Copies of a child share it.
    pub part: u64,
    /// The key, if the record has one.
    pub key: Option<Key>,
    /// Which of the pipeline's sources the record came from, in the order in which they were connected; `u32::MAX` for one
    /// that began in a stage.
    pub source: u32,
    /// Where in the source it came from.
    pub position: Position,
    /// Event time in microseconds since 1970, if the record has one.
    pub event_time: Option<i64>,
    /// After this instant, the record is dropped rather than executed.
    pub deadline: Option<Instant>,
    /// Higher goes first where a stage chooses.
    pub priority: u8,
    /// Gives the record up.
    pub cancel: Option<CancelToken>,
    /// How many times the current stage has failed on it.
    pub attempt: u32,
    /// What it weighs on an edge.
    pub bytes: u64,
    /// When it was admitted.
    pub admitted: Instant,
    /// The distributed trace it belongs to.
    pub(crate) trace: Option<Arc<Traced>>,
}

impl Header {
    /// The distributed trace it belongs to: the parent of spans that user code makes.
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace.as_ref().map(|traced| traced.context)
    }

    /// What it takes of an edge's limits.
    pub(crate) fn cost(&self) -> Cost {
        Cost { records: 1, bytes: self.bytes }
    }

    /// Of a record that began within the pipeline.
    pub(crate) fn born(origin: Origin, key: Option<Key>, event_time: Option<i64>, bytes: u64) -> Self {
        Header {
            id: origin.id,
            copy: None,
            part: 0,
            key,
            source: origin.source,
            position: origin.position,
            event_time,
            deadline: None,
            priority: 0,
            cancel: None,
            attempt: 0,
            bytes,
            admitted: Instant::now(),
            trace: None,
        }
    }
}

/// What the copies of a record have in common, by which a join finds them.
#[derive(Debug)]
pub(crate) struct CopyMark {
    /// Another for every record that was copied.
    pub(crate) number: u64,
    /// What the record itself was a copy at.
    pub(crate) outer: Option<Arc<CopyMark>>,
}

impl CopyMark {
    pub(crate) fn new(outer: Option<Arc<CopyMark>>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(CopyMark { number: NEXT.fetch_add(1, Ordering::Relaxed), outer })
    }
}

/// A payload on its way. Dropping one ends its record as cancelled.
pub(crate) struct Envelope<T> {
    pub(crate) head: Header,
    pub(crate) ticket: Ticket,
    pub(crate) payload: T,
}

/// The number of a part's child, from 1: the same in every run, and another for every child.
pub(crate) fn part_of(part: u64, child: usize) -> u64 {
    let mixed = (part ^ (child as u64).rotate_left(32)).wrapping_add(child as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) ^ (mixed >> 32)
}

/// Why a record must not be executed any more, if so. The deadline timer may have ended it already.
pub(crate) fn given_up(head: &Header, ticket: &Ticket) -> Option<Outcome> {
    if head.cancel.as_ref().is_some_and(CancelToken::is_cancelled) {
        return Some(Outcome::Cancelled);
    }
    let deadline = head.deadline?;
    (ticket.is_claimed() || deadline <= Instant::now()).then_some(Outcome::Expired)
}
