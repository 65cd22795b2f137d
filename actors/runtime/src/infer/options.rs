//! `RunInference`: a model and how to run it as a stage.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use super::{IntoHandler, ModelHandler, Prediction, sequence::Remembers};
use crate::{
    batch::{BatchOptions, Sizing},
    envelope::{Envelope, Header, Key},
    error::StageError,
    stage::{OnError, Replicas, StageOptions},
};

/// An example as the model takes it: the record itself, or what preprocessing made of it.
pub(crate) type Prepare<T, I> = Arc<dyn Fn(&T) -> Result<I, StageError> + Send + Sync>;
pub(crate) type View<T, I> = fn(&T) -> &I;

/// How the model's input is had from a record.
pub(crate) enum Input<T, I> {
    /// The record is the input.
    Same(View<T, I>),
    /// Preprocessing makes it.
    Made(Prepare<T, I>),
}

/// A model as a stage: batches records, groups those that can be stacked, runs them.
///
/// Records that cannot share a batch (examples of different shapes) never meet in one; a batch that fails is divided
/// until the guilty record is found, so that its neighbours succeed.
pub struct RunInference<T, H: ModelHandler> {
    pub(crate) handler: Arc<H>,
    pub(crate) input: Input<T, H::Input>,
    pub(crate) batch: BatchOptions,
    pub(crate) stage: StageOptions<T, Prediction<T, H::Output>>,
    pub(crate) letter: Option<Letter<T>>,
    pub(crate) memory: Option<u64>,
    /// What divides examples beyond the model's own buckets.
    pub(crate) bucket: Option<Divide<H::Input>>,
    /// What divides records: batches of one part each.
    pub(crate) part: Option<Part<T>>,
    /// For a model that remembers.
    pub(crate) remembers: Option<Remembers<T, H>>,
}

pub(crate) type Divide<I> = Arc<dyn Fn(&I) -> u64 + Send + Sync>;
pub(crate) type Part<T> = Arc<dyn Fn(&T, &Header) -> u64 + Send + Sync>;

pub(crate) type Letter<T> = Arc<dyn Fn(&T) -> Vec<u8> + Send + Sync>;

impl<H: ModelHandler> RunInference<H::Input, H> {
    /// A stage whose records are the model's inputs.
    pub fn new(model: impl IntoHandler<Handler = H>) -> Self {
        RunInference::with_input(model.into_handler(), Input::Same(|record| record))
    }

    /// Makes the model's input from other records; [`Prediction::example`] is then the record as it came. Call it
    /// before the stage's other options.
    #[must_use]
    pub fn preprocess<T, E: Into<StageError>>(self, prepare: impl Fn(&T) -> Result<H::Input, E> + Send + Sync + 'static) -> RunInference<T, H> {
        let prepare: Prepare<T, H::Input> = Arc::new(move |record| prepare(record).map_err(Into::into));
        let RunInference { handler, batch, stage, memory, bucket, remembers, .. } = self;
        let remembers = remembers.map(Remembers::anew);
        let mut stage_options = StageOptions::new().replicas(stage.fewest..=stage.replicas);
        stage_options.on_error = stage.on_error;
        stage_options.expansion = stage.expansion;
        RunInference { handler, input: Input::Made(prepare), batch, stage: stage_options, letter: None, memory, bucket, part: None, remembers }
    }
}

/// What the batcher wants to know about an example.
pub(crate) struct Traits {
    pub(crate) bucket: u64,
    pub(crate) bytes: u64,
    pub(crate) length: u64,
}

impl<T, H: ModelHandler> RunInference<T, H> {
    /// What the model and the caller's functions say about an example.
    pub(crate) fn traits(&self, input: &H::Input, envelope: &Envelope<T>) -> Traits {
        let own = self.handler.bucket(input);
        let bucket = if self.bucket.is_none() && self.part.is_none() {
            own
        } else {
            let bucket = self.bucket.as_ref().map(|bucket| bucket(input));
            let part = self.part.as_ref().map(|part| part(&envelope.payload, &envelope.head));
            Key::of(&(own, bucket, part)).0
        };
        Traits { bucket, bytes: self.handler.bytes(input), length: self.handler.length(input) }
    }

    fn with_input(handler: H, input: Input<T, H::Input>) -> Self {
        RunInference {
            handler: Arc::new(handler),
            input,
            batch: BatchOptions::default(),
            stage: StageOptions::new(),
            letter: None,
            memory: None,
            bucket: None,
            part: None,
            remembers: None,
        }
    }

    /// Fewest and most examples in a batch. Fewer than the fewest run only when the oldest has waited for the delay.
    #[must_use]
    pub fn batch(mut self, items: RangeInclusive<usize>) -> Self {
        self.batch.items = items;
        self
    }

    /// The longest that an example waits for company; see [`BatchOptions::idle_dispatch`].
    #[must_use]
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.batch.max_delay = delay;
        self
    }

    /// The most bytes of examples in a batch.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.batch.max_bytes = bytes;
        self
    }

    /// Whether an idle replica takes what there is at once; on by default. See [`BatchOptions::idle_dispatch`].
    #[must_use]
    pub fn idle_dispatch(mut self, on: bool) -> Self {
        self.batch.idle_dispatch = on;
        self
    }

    /// The most tokens in a batch, padding counted: what [`ModelHandler::length`] says of the longest, times the examples.
    #[must_use]
    pub fn max_tokens(mut self, tokens: u64) -> Self {
        self.batch.max_tokens = tokens;
        self
    }

    /// The most that padding may add to a batch, as a part of the examples' own lengths; 0.1 by default.
    #[must_use]
    pub fn max_padding(mut self, part: f64) -> Self {
        self.batch.max_padding = part.max(0.0);
        self
    }

    /// How many examples that differ wait for company of their kind; see [`BatchOptions::pool`].
    #[must_use]
    pub fn pool(mut self, items: usize) -> Self {
        self.batch.pool = items;
        self
    }

    /// Says which examples may share a batch, beyond what the model says: the upper bounds of lengths, for example.
    #[must_use]
    pub fn bucket(mut self, bucket: impl Fn(&H::Input) -> u64 + Send + Sync + 'static) -> Self {
        self.bucket = Some(Arc::new(bucket));
        self
    }

    /// Forms batches of records of one part only: of one tenant, or for one variant of the model.
    #[must_use]
    pub fn batch_by(mut self, part: impl Fn(&T) -> u64 + Send + Sync + 'static) -> Self {
        self.part = Some(Arc::new(move |record, _| part(record)));
        self
    }

    /// Whether a record is its sequence's last.
    pub(crate) fn is_last(&self, record: &T) -> bool {
        self.remembers.as_ref().and_then(|remembers| remembers.last.as_ref()).is_some_and(|last| last(record))
    }

    /// Forms batches of records of one key only.
    #[must_use]
    pub fn batch_per_key(mut self) -> Self {
        self.part = Some(Arc::new(|_, head| head.key.map_or(0, |key| key.0)));
        self
    }

    /// What a level of a record's priority is worth; see [`BatchOptions::aging`].
    #[must_use]
    pub fn aging(mut self, level: Duration) -> Self {
        self.batch.aging = level;
        self
    }

    /// Chooses the size of batches by what they cost; see [`Sizing`].
    #[must_use]
    pub fn sizing(mut self, sizing: Sizing) -> Self {
        self.batch.sizing = sizing;
        self
    }

    /// For tests: forms the first batch of each replica only when so many examples have come, or the stream has ended.
    #[must_use]
    pub fn hold_until(mut self, items: usize) -> Self {
        self.batch.hold_until = items;
        self
    }

    /// How many threads run the model; each run uses one. See [`Replicas`] for a range.
    #[must_use]
    pub fn replicas(mut self, replicas: impl Replicas) -> Self {
        self.stage = self.stage.replicas(replicas);
        self
    }

    /// Tries a batch that failed with a transient error, and an example that failed alone, again up to `times` times.
    #[must_use]
    pub fn retry(mut self, times: u32, backoff: Duration) -> Self {
        self.stage.on_error = OnError::Retry { times, backoff };
        self
    }

    /// Fails the pipeline on the first error.
    #[must_use]
    pub fn fail_on_error(mut self) -> Self {
        self.stage = self.stage.fail_on_error();
        self
    }

    /// Puts the record, in this form, into dead letters.
    #[must_use]
    pub fn letter_payload(mut self, encode: impl Fn(&T) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.letter = Some(Arc::new(encode));
        self
    }

    /// The most bytes that a run may take beyond the weights, per replica. By default, half of the pipeline's budget is
    /// shared by the replicas of all its models.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Declares that a record leaves the stage up to so many times as large as it came.
    #[must_use]
    pub fn expansion(mut self, factor: f64) -> Self {
        self.stage = self.stage.expansion(factor);
        self
    }

    /// Weighs what leaves the stage.
    #[must_use]
    pub fn measure(mut self, bytes: impl Fn(&Prediction<T, H::Output>) -> u64 + Send + Sync + 'static) -> Self {
        self.stage = self.stage.measure(bytes);
        self
    }
}
