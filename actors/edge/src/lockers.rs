//! Lockers: each user's own copy of something, which another may exchange between two uses.
//!
//! A set has a current value and a locker for each user. A user works with what is in its locker while it holds the
//! locker's lock; [`Lockers::publish`] makes another value the current one and then exchanges what is in the lockers, one
//! by one, waiting for those in use. So every use is of one value from beginning to end, no use waits for another user, and
//! when `publish` returns nobody has anything made of the old value.
//!
//! The race that matters is a user that comes while a value is published. It makes its copy outside of every lock, because
//! that may take long, and puts it into its locker only if the value is still the current one, under the lock under which
//! `publish` changes it: it is either in the list that `publish` then walks over, or finds the new value.

use crate::sync::{Arc, Mutex, MutexGuard, lock};

/// The current value and everybody's copies; see the module.
pub struct Lockers<V, C> {
    state: Mutex<State<V, C>>,
}

struct State<V, C> {
    current: V,
    lockers: Vec<Locker<C>>,
}

/// One user's place.
pub struct Locker<C>(Arc<Mutex<Option<C>>>);

impl<C> Clone for Locker<C> {
    fn clone(&self) -> Self {
        Locker(self.0.clone())
    }
}

impl<C> Locker<C> {
    /// The copy, for as long as the guard lives; `None` where it was taken away.
    pub fn open(&self) -> MutexGuard<'_, Option<C>> {
        lock(&self.0)
    }
}

impl<V: Clone + PartialEq, C> Lockers<V, C> {
    /// A set without users.
    pub fn new(value: V) -> Self {
        Lockers { state: Mutex::new(State { current: value, lockers: Vec::new() }) }
    }

    /// The current value.
    pub fn current(&self) -> V {
        lock(&self.state).current.clone()
    }

    /// How many users there are.
    pub fn users(&self) -> usize {
        lock(&self.state).lockers.len()
    }

    /// A new user's locker, with a copy of the current value.
    ///
    /// # Errors
    /// Whatever prevents the copy; then there is no new user.
    pub fn enrol<E>(&self, mut copy: impl FnMut(&V) -> Result<C, E>) -> Result<Locker<C>, E> {
        loop {
            let value = self.current();
            let made = copy(&value)?;
            let mut state = lock(&self.state);
            if state.current == value {
                let locker = Locker(Arc::new(Mutex::new(Some(made))));
                state.lockers.push(locker.clone());
                return Ok(locker);
            }
        }
    }

    /// Takes a user out, with its copy.
    pub fn leave(&self, locker: &Locker<C>) -> Option<C> {
        lock(&self.state).lockers.retain(|other| !Arc::ptr_eq(&other.0, &locker.0));
        locker.open().take()
    }

    /// Makes this the current value and exchanges every copy for what `exchange` makes of it. The old value comes back.
    pub fn publish(&self, value: V, exchange: impl FnMut(Option<C>) -> Option<C>) -> V {
        let old = std::mem::replace(&mut lock(&self.state).current, value);
        self.visit(exchange);
        old
    }

    /// Exchanges every copy, each between two uses, for what the closure makes of it.
    pub fn visit(&self, mut exchange: impl FnMut(Option<C>) -> Option<C>) {
        let lockers = lock(&self.state).lockers.clone();
        for locker in lockers {
            let mut copy = locker.open();
            let stale = copy.take();
            *copy = exchange(stale);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn copies_are_exchanged_and_taken_away() {
        let lockers = Lockers::new(1);
        let a = lockers.enrol(|v| Ok::<_, ()>(v * 10)).unwrap();
        let b = lockers.enrol(|v| Ok::<_, ()>(v * 10 + 1)).unwrap();
        assert_eq!((*a.open(), *b.open(), lockers.users()), (Some(10), Some(11), 2));
        let mut fresh = vec![20];
        assert_eq!(lockers.publish(2, |_| fresh.pop()), 1);
        assert_eq!((*a.open(), *b.open(), lockers.current()), (Some(20), None, 2));
        lockers.visit(|copy| copy.map(|v| v + 1));
        assert_eq!(lockers.leave(&a), Some(21));
        assert_eq!((lockers.users(), *a.open()), (1, None));
        assert_eq!(lockers.enrol(|_| Err::<i32, _>("no")).err(), Some("no"));
    }

    /// A value that is published while a copy is being made makes the copy stale.
    #[test]
    fn a_copy_of_an_old_value_is_made_anew() {
        let lockers = Lockers::new(1);
        let mut made = 0;
        let locker = lockers
            .enrol(|v| {
                made += 1;
                if made == 1 {
                    lockers.publish(2, |_| None);
                }
                Ok::<i32, ()>(*v)
            })
            .unwrap();
        assert_eq!((made, *locker.open()), (2, Some(2)));
    }
}
