//! The envelope: a payload on its way through a pipeline, with everything that the runtime knows about it.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use millstream_edge::Cost;

use crate::{outcome::Outcome, ticket::Ticket};

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

/// Asks that work be given up. Clones share one state.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels: records that carry the token are dropped before their next execution.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancelToken").field(&self.is_cancelled()).finish()
    }
}

/// The identifiers of a distributed trace, carried along unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace.
    pub trace: u128,
    /// The span that admitted the record.
    pub span: u64,
}

/// What the runtime knows about a record.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Header {
    /// Unique within the pipeline; given at admission, in order. Children of one record share it.
    pub id: u64,
    /// The key, if the record has one.
    pub key: Option<Key>,
    /// Where the record came from.
    pub position: Position,
    /// The checkpoint epoch at admission.
    pub epoch: u64,
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
    pub cost: Cost,
    /// When it was admitted.
    pub admitted: Instant,
    /// The distributed trace it belongs to.
    pub trace: Option<TraceContext>,
}

/// A payload on its way. Dropping one ends its record as cancelled.
pub(crate) struct Envelope<T> {
    pub(crate) head: Header,
    pub(crate) ticket: Ticket,
    pub(crate) payload: T,
}

/// Why a record must not be executed any more, if so. The deadline timer may have ended it already.
pub(crate) fn given_up(head: &Header, ticket: &Ticket) -> Option<Outcome> {
    if head.cancel.as_ref().is_some_and(CancelToken::is_cancelled) {
        return Some(Outcome::Cancelled);
    }
    let deadline = head.deadline?;
    (ticket.is_claimed() || deadline <= Instant::now()).then_some(Outcome::Expired)
}
