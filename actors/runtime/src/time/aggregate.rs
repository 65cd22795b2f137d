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

    /// The state as bytes, for windows that outlive the process.
    fn encode(&self, state: &Self::State) -> Option<Vec<u8>> {
        let _ = state;
        None
    }

    /// The state of these bytes.
    fn decode(&self, bytes: &[u8]) -> Option<Self::State> {
        let _ = bytes;
        None
    }

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

/// An aggregate whose windows are part of checkpoints; see [`stored`].
pub struct Stored<A, E, D> {
    aggregate: A,
    encode: E,
    decode: D,
}

/// The same aggregate, with its state as bytes: windows are then part of checkpoints.
///
/// ```
/// use millstream_runtime::{Aggregate, fold, stored};
///
/// let count = fold(|| 0u64, |count, _: &u32| *count += 1, |count, other| *count += other);
/// let count = stored(count, |count| count.to_le_bytes().to_vec(), |bytes| bytes.try_into().ok().map(u64::from_le_bytes));
/// assert_eq!(count.decode(&count.encode(&7).unwrap()), Some(7));
/// ```
pub fn stored<T, A, E, D>(aggregate: A, encode: E, decode: D) -> Stored<A, (E, PhantomData<fn(&T)>), D>
where
    A: Aggregate<T>,
    E: Fn(&A::State) -> Vec<u8> + Send + Sync + 'static,
    D: Fn(&[u8]) -> Option<A::State> + Send + Sync + 'static,
{
    Stored { aggregate, encode: (encode, PhantomData), decode }
}

impl<T, A, E, D> Aggregate<T> for Stored<A, (E, PhantomData<fn(&T)>), D>
where
    T: 'static,
    A: Aggregate<T>,
    E: Fn(&A::State) -> Vec<u8> + Send + Sync + 'static,
    D: Fn(&[u8]) -> Option<A::State> + Send + Sync + 'static,
{
    type State = A::State;
    type Output = A::Output;

    fn start(&self) -> A::State {
        self.aggregate.start()
    }

    fn add(&self, state: &mut A::State, record: &T) {
        self.aggregate.add(state, record);
    }

    fn merge(&self, state: &mut A::State, other: A::State) {
        self.aggregate.merge(state, other);
    }

    fn encode(&self, state: &A::State) -> Option<Vec<u8>> {
        Some((self.encode.0)(state))
    }

    fn decode(&self, bytes: &[u8]) -> Option<A::State> {
        (self.decode)(bytes)
    }

    fn finish(&self, state: A::State) -> A::Output {
        self.aggregate.finish(state)
    }
}
