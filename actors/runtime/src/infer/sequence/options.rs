//! How many states a stage holds, and for how long; and the stage made of a model that remembers.

use std::{sync::Arc, time::Duration};

use super::{SequenceModel, Sequenced, Sequences, states::Held};
use crate::{
    infer::{ModelHandler, RunInference},
    stage::StageShared,
};

/// What happens when the states that a stage holds have reached their limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// The states of the sequences used longest ago are dropped: a later record of theirs begins anew. The default.
    #[default]
    Evict,
    /// Nothing is dropped: a record that would begin a sequence, or let its state grow past the limit, is a failed one.
    Refuse,
}

/// What a stage remembers of sequences, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SequenceOptions {
    /// The most sequences. Replicas share them out evenly.
    pub most: usize,
    /// The most bytes of states, by [`SequenceModel::state_bytes`]. Replicas share them out evenly. (While a batch runs, the
    /// states that it makes are there beside the old ones.) They are taken off [`crate::Pipeline::memory_budget`], which
    /// needs to know them.
    pub bytes: Option<u64>,
    /// After so long without a record, by [`crate::Pipeline::clock`], a sequence's state is dropped. A later record begins
    /// anew.
    pub timeout: Option<Duration>,
    /// What happens when there is no room.
    pub when_full: WhenFull,
}

impl Default for SequenceOptions {
    fn default() -> Self {
        SequenceOptions { most: 1024, bytes: None, timeout: None, when_full: WhenFull::Evict }
    }
}

impl SequenceOptions {
    /// 1024 sequences, those used longest ago making room for new ones, without a limit in bytes or in time.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the most sequences.
    #[must_use]
    pub fn most(mut self, sequences: usize) -> Self {
        self.most = sequences;
        self
    }

    /// Sets the most bytes of states.
    #[must_use]
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// Sets the time after which an idle sequence is forgotten.
    #[must_use]
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = Some(time);
        self
    }

    /// Says what happens when there is no room.
    #[must_use]
    pub fn when_full(mut self, what: WhenFull) -> Self {
        self.when_full = what;
        self
    }

    /// What each of so many replicas may hold.
    pub(super) fn share(&self, replicas: usize) -> (usize, u64) {
        (self.most / replicas.max(1), self.bytes.map_or(u64::MAX, |bytes| bytes / replicas.max(1) as u64))
    }
}

/// What a stage of sequences is made with.
pub(crate) struct Remembers<T, H: ModelHandler> {
    pub(crate) options: SequenceOptions,
    /// Its states can be part of checkpoints.
    pub(crate) stored: bool,
    /// Makes room for the states of so many replicas.
    pub(crate) open: Open<H>,
    /// Whether a record is its sequence's last.
    pub(crate) last: Option<Last<T>>,
}

impl<T, H: ModelHandler> Remembers<T, H> {
    /// The same for other records.
    pub(crate) fn anew<U>(self) -> Remembers<U, H> {
        let Remembers { options, stored, open, .. } = self;
        Remembers { options, stored, open, last: None }
    }
}

type Open<H> = Arc<dyn Fn(&Arc<StageShared>, usize) -> Box<dyn Sequenced<H>> + Send + Sync>;
type Last<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;

impl<M: SequenceModel> RunInference<M::Input, Sequences<M>> {
    /// A stage whose records are steps of sequences, each record's key saying of which. Records of different sequences are
    /// run together, those of one sequence one after the other, each with the state that the one before it left.
    ///
    /// A record that fails, or is given up, leaves its sequence's state as it was: the next record goes on from there. Records
    /// need keys, whose order the pipeline keeps; one without a key goes to the dead letters.
    pub fn sequences(model: M, options: SequenceOptions) -> Self {
        let model = Arc::new(model);
        let mut run = RunInference::new(Sequences::new(model.clone()));
        run.batch.one_per_key = true;
        let stored = model.codec().is_some();
        let own = options.clone();
        let open: Open<Sequences<M>> = Arc::new(move |shared, replicas| Box::new(Held::new(model.clone(), &own, shared, replicas)));
        run.remembers = Some(Remembers { options, stored, open, last: None });
        run
    }
}

impl<T, M: SequenceModel> RunInference<T, Sequences<M>> {
    /// Says which records are the last of their sequences: behind such a one its state is dropped, even if it fails, and a
    /// later record of the same key begins anew. To be called behind [`RunInference::preprocess`].
    #[must_use]
    pub fn last(mut self, last: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        if let Some(remembers) = &mut self.remembers {
            remembers.last = Some(Arc::new(last));
        }
        self
    }
}
