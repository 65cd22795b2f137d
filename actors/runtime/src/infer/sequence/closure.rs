//! Closures as models that remember.

use std::marker::PhantomData;

use super::{SequenceModel, StateCodec, Step};
use crate::{envelope::Key, error::StageError, infer::ModelId, stage::Start};

/// A model that remembers, made of closures; see [`sequence`].
pub struct FnSequence<I, O, S, B, R> {
    id: ModelId,
    begin: B,
    step: R,
    weigh: Option<Weigh<S>>,
    codec: Option<Codec<S>>,
    types: PhantomData<fn(I) -> O>,
}

type Weigh<S> = Box<dyn Fn(&S) -> u64 + Send + Sync>;
type Encode<S> = Box<dyn Fn(&S) -> Vec<u8> + Send + Sync>;
type Decode<S> = Box<dyn Fn(&[u8]) -> Option<S> + Send + Sync>;

struct Codec<S> {
    encode: Encode<S>,
    decode: Decode<S>,
}

/// A model that remembers: how a sequence begins, and what a batch of steps gives.
///
/// ```
/// use millstream_runtime::{Pipeline, RunInference, SequenceOptions, StageError, Step, collect, from_iter, sequence};
///
/// let sums = sequence("sums", |_| 0u32, |batch: &[Step<'_, u32, u32>]| {
///     Ok::<_, StageError>(batch.iter().map(|step| (step.state + step.input, step.state + step.input)).collect())
/// });
/// let (sink, results) = collect();
/// Pipeline::from(from_iter(1..=6u32))
///     .key_by("parity", |x| x % 2)
///     .infer("sum", RunInference::sequences(sums, SequenceOptions::new()).batch(1..=8))
///     .filter("odd", |p| p.example % 2 == 1)
///     .map("sum so far", |p| p.inference)
///     .sink(sink)
///     .run()?;
/// assert_eq!(results.take(), [1, 1 + 3, 1 + 3 + 5]);
/// # Ok::<(), millstream_runtime::PipelineError>(())
/// ```
pub fn sequence<I, O, S, B, R>(name: &str, begin: B, step: R) -> FnSequence<I, O, S, B, R>
where
    B: Fn(Key) -> S + Send + Sync + 'static,
    R: Fn(&[Step<'_, I, S>]) -> Result<Vec<(O, S)>, StageError> + Send + Sync + 'static,
{
    FnSequence { id: ModelId::new(name, "1"), begin, step, weigh: None, codec: None, types: PhantomData }
}

impl<I, O, S, B, R> FnSequence<I, O, S, B, R> {
    /// Says what a state weighs; its size without what it points to, otherwise.
    #[must_use]
    pub fn weighed(mut self, bytes: impl Fn(&S) -> u64 + Send + Sync + 'static) -> Self {
        self.weigh = Some(Box::new(bytes));
        self
    }

    /// Says how states become bytes and come back: they are then part of checkpoints.
    #[must_use]
    pub fn stored(mut self, encode: impl Fn(&S) -> Vec<u8> + Send + Sync + 'static, decode: impl Fn(&[u8]) -> Option<S> + Send + Sync + 'static) -> Self {
        self.codec = Some(Codec { encode: Box::new(encode), decode: Box::new(decode) });
        self
    }
}

impl<I, O, S, B, R> SequenceModel for FnSequence<I, O, S, B, R>
where
    I: Send + 'static,
    O: Send + 'static,
    S: Send + 'static,
    B: Fn(Key) -> S + Send + Sync + 'static,
    R: Fn(&[Step<'_, I, S>]) -> Result<Vec<(O, S)>, StageError> + Send + Sync + 'static,
{
    type Input = I;
    type Output = O;
    type State = S;
    type Model = ();

    fn id(&self) -> ModelId {
        self.id.clone()
    }

    fn load(&self, _: &Start) -> Result<(), StageError> {
        Ok(())
    }

    fn begin(&self, key: Key) -> Result<S, StageError> {
        Ok((self.begin)(key))
    }

    fn step(&self, (): &mut (), batch: &[Step<'_, I, S>]) -> Result<Vec<(O, S)>, StageError> {
        (self.step)(batch)
    }

    fn state_bytes(&self, state: &S) -> u64 {
        self.weigh.as_ref().map_or(size_of::<S>() as u64, |weigh| weigh(state))
    }

    fn codec(&self) -> Option<&dyn StateCodec<S>> {
        self.codec.as_ref().map(|codec| codec as &dyn StateCodec<S>)
    }
}

impl<S> StateCodec<S> for Codec<S> {
    fn encode(&self, state: &S) -> Vec<u8> {
        (self.encode)(state)
    }

    fn decode(&self, bytes: &[u8]) -> Option<S> {
        (self.decode)(bytes)
    }
}
