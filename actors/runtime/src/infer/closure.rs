//! Closures as models.

use std::marker::PhantomData;

use super::{ModelHandler, ModelId};
use crate::{error::StageError, stage::Start};

/// A model made of closures; see [`handler`] and [`handler_with`].
pub struct FnHandler<I, O, L, R> {
    id: ModelId,
    load: L,
    run: R,
    bucket: fn(&I) -> u64,
    length: fn(&I) -> u64,
    types: PhantomData<fn(I) -> O>,
}

/// A model that is one closure over a batch.
///
/// ```
/// use millstream_runtime::{ModelHandler, StageError, handler};
///
/// let double = handler("double", |batch: &[&u32]| Ok::<_, StageError>(batch.iter().map(|x| **x * 2).collect::<Vec<_>>()));
/// assert_eq!(double.id().name, "double");
/// ```
pub fn handler<I, O, R>(
    name: &str,
    run: R,
) -> FnHandler<I, O, impl Fn(&Start) -> Result<(), StageError> + Send + Sync, impl Fn(&mut (), &[&I]) -> Result<Vec<O>, StageError> + Send + Sync>
where
    R: Fn(&[&I]) -> Result<Vec<O>, StageError> + Send + Sync,
{
    handler_with(name, |_: &Start| Ok(()), move |_: &mut (), batch: &[&I]| run(batch))
}

/// A model that is a closure that loads a state, and one that runs a batch with it.
pub fn handler_with<I, O, M, L, R>(name: &str, load: L, run: R) -> FnHandler<I, O, L, R>
where
    L: Fn(&Start) -> Result<M, StageError> + Send + Sync,
    R: Fn(&mut M, &[&I]) -> Result<Vec<O>, StageError> + Send + Sync,
{
    FnHandler { id: ModelId::new(name, "1"), load, run, bucket: |_| 0, length: |_| 1, types: PhantomData }
}

impl<I, O, L, R> FnHandler<I, O, L, R> {
    /// Names the version, which is "1" otherwise.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.id.version = version.into();
        self
    }

    /// Says which examples may share a batch.
    #[must_use]
    pub fn bucketed(mut self, bucket: fn(&I) -> u64) -> Self {
        self.bucket = bucket;
        self
    }

    /// Says how long an example is: the batcher puts examples of about one length together. See [`ModelHandler::length`].
    #[must_use]
    pub fn measured(mut self, length: fn(&I) -> u64) -> Self {
        self.length = length;
        self
    }
}

impl<I, O, M, L, R> ModelHandler for FnHandler<I, O, L, R>
where
    I: Send + 'static,
    O: Send + 'static,
    M: Send + 'static,
    L: Fn(&Start) -> Result<M, StageError> + Send + Sync + 'static,
    R: Fn(&mut M, &[&I]) -> Result<Vec<O>, StageError> + Send + Sync + 'static,
{
    type Input = I;
    type Output = O;
    type Model = M;

    fn id(&self) -> ModelId {
        self.id.clone()
    }

    fn load(&self, start: &Start) -> Result<M, StageError> {
        (self.load)(start)
    }

    fn bucket(&self, input: &I) -> u64 {
        (self.bucket)(input)
    }

    fn length(&self, input: &I) -> u64 {
        (self.length)(input)
    }

    fn run(&self, model: &mut M, batch: &[&I]) -> Result<Vec<O>, StageError> {
        (self.run)(model, batch)
    }
}
