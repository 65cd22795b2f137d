//! How a stage runs and what it does about errors.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use super::transform::Nothing;

/// What happens to a record on which user code returns an error. (A panic is something else: it always costs the
/// instance, and the record goes to the dead letters.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnError {
    /// It goes to the dead letters, and the stream goes on. The default.
    Skip,
    /// It is tried again so many times, after a pause that doubles each time; then it goes to the dead letters.
    Retry {
        /// How many times it is tried again.
        times: u32,
        /// The first pause.
        backoff: Duration,
    },
    /// The pipeline fails.
    Fail,
}

/// How many threads run a stage: a number, or a range of numbers within which the stage follows its load (see
/// [`crate::Scaling`]) and [`crate::Handle::scale`].
///
/// What an instance remembers of keys stays with it when its keys go to another replica: a stage with a range should remember
/// nothing. Neither event time nor checkpoints go together with ranges.
pub trait Replicas {
    /// The fewest and the most.
    fn bounds(self) -> (usize, usize);
}

impl Replicas for usize {
    fn bounds(self) -> (usize, usize) {
        (self, self)
    }
}

impl Replicas for RangeInclusive<usize> {
    fn bounds(self) -> (usize, usize) {
        (*self.start(), *self.end())
    }
}

/// Options of one stage that takes `T` and gives `U`.
pub struct StageOptions<T, U> {
    /// The most.
    pub(crate) replicas: usize,
    pub(crate) fewest: usize,
    pub(crate) on_error: OnError,
    pub(crate) keep: Option<Keep<T>>,
    pub(crate) encode: Option<Encode<T>>,
    pub(crate) expansion: f64,
    pub(crate) measure: Option<Measure<U>>,
    /// After so long without a record the stage says that it does not know how far event time has come.
    pub(crate) idle_after: Option<Duration>,
}

pub(crate) type Keep<T> = Arc<dyn Fn(&T) -> T + Send + Sync>;
pub(crate) type Encode<T> = Arc<dyn Fn(&T) -> Vec<u8> + Send + Sync>;
pub(crate) type Measure<U> = Arc<dyn Fn(&U) -> u64 + Send + Sync>;

impl<T, U> Clone for StageOptions<T, U> {
    fn clone(&self) -> Self {
        StageOptions {
            replicas: self.replicas,
            fewest: self.fewest,
            on_error: self.on_error,
            keep: self.keep.clone(),
            encode: self.encode.clone(),
            expansion: self.expansion,
            measure: self.measure.clone(),
            idle_after: self.idle_after,
        }
    }
}

impl<T, U> Default for StageOptions<T, U> {
    fn default() -> Self {
        StageOptions { replicas: 1, fewest: 1, on_error: OnError::Skip, keep: None, encode: None, expansion: 1.0, measure: None, idle_after: None }
    }
}

impl<T, U> StageOptions<T, U> {
    /// One replica, errors skipped to the dead letters, no copies kept, payloads that do not grow.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many threads run the stage; see [`Replicas`].
    #[must_use]
    pub fn replicas(mut self, replicas: impl Replicas) -> Self {
        let (fewest, most) = replicas.bounds();
        self.fewest = fewest.max(1);
        self.replicas = most.max(self.fewest);
        self
    }

    /// Fails the pipeline on the first error.
    #[must_use]
    pub fn fail_on_error(mut self) -> Self {
        self.on_error = OnError::Fail;
        self
    }

    /// Tries a failed record again up to `times` times, after a pause that doubles each time. A copy of each record is
    /// kept while it is worked on.
    #[must_use]
    pub fn retry(mut self, times: u32, backoff: Duration) -> Self
    where
        T: Clone + 'static,
    {
        self.on_error = OnError::Retry { times, backoff };
        self.keep = Some(Arc::new(T::clone));
        self
    }

    /// Puts the payload, in this form, into dead letters. A copy of each record is kept while it is worked on.
    #[must_use]
    pub fn letter_payload(mut self, encode: impl Fn(&T) -> Vec<u8> + Send + Sync + 'static) -> Self
    where
        T: Clone + 'static,
    {
        self.encode = Some(Arc::new(encode));
        self.keep = Some(Arc::new(T::clone));
        self
    }

    /// Declares that a payload leaves the stage up to so many times as large as it came: the entry budget reserves it.
    #[must_use]
    pub fn expansion(mut self, factor: f64) -> Self {
        self.expansion = if factor.is_finite() { factor.max(0.0) } else { 1.0 };
        self
    }

    /// Weighs what leaves the stage, rather than assuming the declared expansion.
    #[must_use]
    pub fn measure(mut self, bytes: impl Fn(&U) -> u64 + Send + Sync + 'static) -> Self {
        self.measure = Some(Arc::new(bytes));
        self
    }
}

/// Options of a sink that takes `T`.
pub struct SinkOptions<T>(StageOptions<T, Nothing>);

impl<T> Default for SinkOptions<T> {
    fn default() -> Self {
        SinkOptions(StageOptions::default())
    }
}

impl<T> SinkOptions<T> {
    /// One replica, errors skipped to the dead letters, no copies kept.
    pub fn new() -> Self {
        Self::default()
    }

    /// See [`StageOptions::replicas`].
    #[must_use]
    pub fn replicas(self, replicas: usize) -> Self {
        SinkOptions(self.0.replicas(replicas))
    }

    /// See [`StageOptions::fail_on_error`].
    #[must_use]
    pub fn fail_on_error(self) -> Self {
        SinkOptions(self.0.fail_on_error())
    }

    /// See [`StageOptions::retry`].
    #[must_use]
    pub fn retry(self, times: u32, backoff: Duration) -> Self
    where
        T: Clone + 'static,
    {
        SinkOptions(self.0.retry(times, backoff))
    }

    /// See [`StageOptions::letter_payload`].
    #[must_use]
    pub fn letter_payload(self, encode: impl Fn(&T) -> Vec<u8> + Send + Sync + 'static) -> Self
    where
        T: Clone + 'static,
    {
        SinkOptions(self.0.letter_payload(encode))
    }

    pub(crate) fn into_inner(self) -> StageOptions<T, Nothing> {
        self.0
    }
}
