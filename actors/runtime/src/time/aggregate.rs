//! What becomes of the records of a window.

use std::marker::PhantomData;

/// Makes one result of many records. Shared by all replicas; the state belongs to one window of one key.
///
/// Code that panics costs the record that it panicked on; it must leave the state as it was before.
pub trait Aggregate<T>: Send + Sync + 'static {
    /// What is known of a window so far.
    type State: Send + 'static;
    /// The result.
    type Output: Send + 'static;

    /// An empty window.
    fn start(&self) -> Self::State;

    /// Adds a record.
    fn add(&self, state: &mut Self::State, record: &T);

    /// Adds what another window has gathered: sessions grow together.
    fn merge(&self, state: &mut Self::State, other: Self::State);

    /// Makes the result.
    fn finish(&self, state: Self::State) -> Self::Output;
}

/// An aggregate made of closures; see [`fold`].
pub struct Fold<S, A, M> {
    start: S,
    add: A,
    merge: M,
}

/// An aggregate whose result is its state: how it begins, how a record is added, how two are put together.
///
/// ```
/// use millstream_runtime::{Aggregate, fold};
///
/// let sum = fold(|| 0u64, |sum, x: &u32| *sum += u64::from(*x), |sum, other| *sum += other);
/// let mut state = sum.start();
/// sum.add(&mut state, &3);
/// assert_eq!(sum.finish(state), 3);
/// ```
pub fn fold<T, V, S, A, M>(start: S, add: A, merge: M) -> Fold<S, A, (M, PhantomData<fn(&T) -> V>)>
where
    S: Fn() -> V + Send + Sync + 'static,
    A: Fn(&mut V, &T) + Send + Sync + 'static,
    M: Fn(&mut V, V) + Send + Sync + 'static,
{
    Fold { start, add, merge: (merge, PhantomData) }
}

impl<T, V, S, A, M> Aggregate<T> for Fold<S, A, (M, PhantomData<fn(&T) -> V>)>
where
    T: 'static,
    V: Send + 'static,
    S: Fn() -> V + Send + Sync + 'static,
    A: Fn(&mut V, &T) + Send + Sync + 'static,
    M: Fn(&mut V, V) + Send + Sync + 'static,
{
    type State = V;
    type Output = V;

    fn start(&self) -> V {
        (self.start)()
    }

    fn add(&self, state: &mut V, record: &T) {
        (self.add)(state, record);
    }

    fn merge(&self, state: &mut V, other: V) {
        (self.merge.0)(state, other);
    }

    fn finish(&self, state: V) -> V {
        state
    }
}
