//! A replica's states: by key, and in the order of their last use.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use super::WhenFull;
use crate::envelope::Key;

/// What a table may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) most: usize,
    pub(super) bytes: u64,
    pub(super) timeout: Option<Duration>,
    pub(super) when_full: WhenFull,
}

pub(super) struct Table<S> {
    limits: Limits,
    places: HashMap<Key, Place<S>>,
    /// The numbers of the last uses, and whose they were.
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    /// A sum of weights that user code names: it cannot overflow.
    bytes: u128,
}

struct Place<S> {
    state: S,
    bytes: u64,
    used: Instant,
    /// The number of the last use.
    use_number: u64,
}

/// What a sequence has come to in a batch.
pub(super) struct Change<S> {
    pub(super) key: Key,
    /// The state behind the batch with what it weighs, or nothing where the sequence has ended.
    pub(super) state: Option<(S, u64)>,
}

/// What a batch has made superfluous. (User code drops it: that is for the caller to guard.)
pub(super) struct Gone<S> {
    /// How many sequences had to make room.
    pub(super) evicted: u64,
    /// Their states, and those that the batch replaced.
    pub(super) states: Vec<S>,
}

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// For so many sequences.
    Sequences(usize),
    /// For so many bytes.
    Bytes(u64),
}

impl<S> Table<S> {
    pub(super) fn new(limits: Limits) -> Self {
        Table { limits, places: HashMap::new(), by_use: BTreeMap::new(), uses: 0, bytes: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        u64::try_from(self.bytes).unwrap_or(u64::MAX)
    }

    pub(super) fn state(&self, key: Key) -> Option<&S> {
        self.places.get(&key).map(|place| &place.state)
    }

    /// The states, those used longest ago first, and when they were used.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &S, Instant)> {
        self.by_use.values().filter_map(|key| self.places.get(key).map(|place| (*key, &place.state, place.used)))
    }

    /// A sequence is being used.
    pub(super) fn touch(&mut self, key: Key, now: Instant) {
        if let Some(place) = self.places.get_mut(&key) {
            self.by_use.remove(&place.use_number);
            self.uses += 1;
            (place.use_number, place.used) = (self.uses, now);
            self.by_use.insert(self.uses, key);
        }
    }

    /// Whether a sequence has not been used for too long.
    pub(super) fn is_stale(&self, key: Key, now: Instant) -> bool {
        self.places.get(&key).is_some_and(|place| self.due(place).is_some_and(|due| due <= now))
    }

    /// Takes a sequence's state out.
    pub(super) fn remove(&mut self, key: Key) -> Option<S> {
        let place = self.places.remove(&key)?;
        self.by_use.remove(&place.use_number);
        self.bytes -= u128::from(place.bytes);
        Some(place.state)
    }

    /// Takes out the states that were not used for too long, but for those in use; and when the next will be.
    pub(super) fn expire(&mut self, now: Instant, in_use: impl Fn(Key) -> bool) -> (Vec<S>, Option<Instant>) {
        let (mut stale, mut next) = (Vec::new(), None);
        for key in self.by_use.values() {
            match self.places.get(key).and_then(|place| self.due(place)) {
                Some(due) if due > now => {
                    next = Some(due);
                    break;
                }
                Some(_) if in_use(*key) => {}
                Some(_) => stale.push(*key),
                None => break,
            }
        }
        (stale.into_iter().filter_map(|key| self.remove(key)).collect(), next)
    }

    /// Whether so many sequences, with states of so many bytes, may begin.
    pub(super) fn admits(&self, sequences: usize, bytes: u128) -> Result<(), Full> {
        match self.limits.when_full {
            WhenFull::Evict => Ok(()),
            WhenFull::Refuse if self.len() + sequences > self.limits.most => Err(Full::Sequences(self.limits.most)),
            WhenFull::Refuse if self.bytes + bytes > u128::from(self.limits.bytes) => Err(Full::Bytes(self.limits.bytes)),
            WhenFull::Refuse => Ok(()),
        }
    }

    /// Takes over what sequences have come to, each once: all of it or, where there is no room, nothing.
    pub(super) fn commit(&mut self, changes: Vec<Change<S>>, now: Instant) -> Result<Gone<S>, Full> {
        let before = self.uses;
        changes.iter().for_each(|change| self.touch(change.key, now));
        // Sequences that stay, and those of the batch: what is behind it.
        let (mut sequences, mut bytes) = (self.len(), self.bytes);
        for change in &changes {
            if let Some(place) = self.places.get(&change.key) {
                (sequences, bytes) = (sequences - 1, bytes - u128::from(place.bytes));
            }
            if let Some((_, weight)) = &change.state {
                (sequences, bytes) = (sequences + 1, bytes + u128::from(*weight));
            }
        }
        let full = |sequences: usize, bytes: u128| {
            if sequences > self.limits.most {
                Some(Full::Sequences(self.limits.most))
            } else {
                (bytes > u128::from(self.limits.bytes)).then_some(Full::Bytes(self.limits.bytes))
            }
        };
        let mut leaving = Vec::new();
        let mut others = self.by_use.range(..=before).map(|(_, key)| *key);
        while let Some(full) = full(sequences, bytes) {
            let other = if self.limits.when_full == WhenFull::Evict { others.next() } else { None };
            let Some(other) = other else { return Err(full) };
            (sequences, bytes) = (sequences - 1, bytes - self.places.get(&other).map_or(0, |place| u128::from(place.bytes)));
            leaving.push(other);
        }
        let evicted = leaving.len() as u64;
        let mut gone: Vec<S> = leaving.into_iter().filter_map(|key| self.remove(key)).collect();
        for Change { key, state } in changes {
            gone.extend(self.remove(key));
            if let Some((state, bytes)) = state {
                self.insert(key, state, bytes, now);
            }
        }
        Ok(Gone { evicted, states: gone })
    }

    /// Puts the state of a sequence in that has none, whatever the limits.
    pub(super) fn insert(&mut self, key: Key, state: S, bytes: u64, used: Instant) {
        self.uses += 1;
        self.bytes += u128::from(bytes);
        self.by_use.insert(self.uses, key);
        self.places.insert(key, Place { state, bytes, used, use_number: self.uses });
    }

    fn due(&self, place: &Place<S>) -> Option<Instant> {
        place.used.checked_add(self.limits.timeout?)
    }
}
