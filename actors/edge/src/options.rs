//! How an edge is made.

use crate::ledger::Limits;

/// How an edge is made.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EdgeOptions {
    /// The most that may wait on the edge.
    pub limits: Limits,
    /// How many producers will finish.
    pub producers: usize,
    /// How many consumers take from it.
    pub consumers: usize,
    /// One lane per consumer, chosen by the sender, instead of one lane for all.
    pub keyed: bool,
    /// So many shards, chosen by the sender, and how many consumers share them at first; instead of lanes.
    pub shards: Option<(usize, usize)>,
}

impl EdgeOptions {
    /// One producer, one consumer, one lane.
    pub fn new(limits: Limits) -> Self {
        EdgeOptions { limits, producers: 1, consumers: 1, keyed: false, shards: None }
    }

    /// Sets how many producers there are.
    #[must_use]
    pub fn producers(mut self, producers: usize) -> Self {
        self.producers = producers.max(1);
        self
    }

    /// Sets how many consumers there are.
    #[must_use]
    pub fn consumers(mut self, consumers: usize) -> Self {
        self.consumers = consumers.max(1);
        self
    }

    /// Gives each consumer a lane of its own.
    #[must_use]
    pub fn keyed(mut self, keyed: bool) -> Self {
        self.keyed = keyed;
        self
    }

    /// Lets consumers come and go: they share so many shards, among the first `members` of them at first. Neither watermarks
    /// nor barriers are sent on such an edge.
    #[must_use]
    pub fn shards(mut self, shards: usize, members: usize) -> Self {
        self.shards = Some((shards.max(1), members));
        self
    }
}
