//! Any iterator as a source.

use std::time::{Duration, Instant};

use super::{Progress, Pulled, Record, Source};
use crate::{envelope::Key, error::StageError, signal::Signal};

/// A slow iterator's records are passed on after this time rather than held until a chunk is full.
const LINGER: Duration = Duration::from_micros(500);

/// The items of an iterator, as records.
pub struct IterSource<I, T> {
    items: I,
    bytes: fn(&T) -> u64,
    key: Option<fn(&T) -> Key>,
    /// How many items were taken, if the iterator gives the same ones in every run.
    taken: Option<u64>,
}

/// A source of the items of an iterator.
///
/// The iterator runs on the source's thread. A panic in it ends the pipeline: an iterator cannot be started again.
pub fn from_iter<I: IntoIterator>(items: I) -> IterSource<I::IntoIter, I::Item> {
    IterSource { items: items.into_iter(), bytes: |_| size_of::<I::Item>() as u64, key: None, taken: None }
}

impl<I, T> IterSource<I, T> {
    /// Says what an item weighs, where that is more than its own size.
    #[must_use]
    pub fn weighed(mut self, bytes: fn(&T) -> u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// Says that the iterator gives the same items in every run: after a crash, those before the checkpoint are passed over.
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.taken = Some(0);
        self
    }

    /// Says what key an item has.
    #[must_use]
    pub fn keyed_by(mut self, key: fn(&T) -> Key) -> Self {
        self.key = Some(key);
        self
    }
}

impl<T: Send, I: Iterator<Item = T> + Send> Source<T> for IterSource<I, T> {
    fn keyed(&self) -> bool {
        self.key.is_some()
    }

    fn snapshot(&mut self) -> Result<Option<Vec<u8>>, StageError> {
        Ok(self.taken.map(|taken| taken.to_le_bytes().to_vec()))
    }

    fn restore(&mut self, position: &[u8]) -> Result<(), StageError> {
        let taken = position.try_into().map(u64::from_le_bytes).map_err(StageError::fatal)?;
        (0..taken).map_while(|_| self.items.next()).for_each(drop);
        self.taken = Some(taken);
        Ok(())
    }

    fn pull(&mut self, out: &mut Pulled<T>, stop: &Signal) -> Result<Progress, StageError> {
        let start = Instant::now();
        if stop.is_set() {
            return Ok(Progress::End);
        }
        while !out.is_full() {
            let Some(item) = self.items.next() else { return Ok(Progress::End) };
            if let Some(taken) = &mut self.taken {
                *taken += 1;
            }
            let mut record = Record::new(item);
            record.bytes = (self.bytes)(&record.payload);
            record.key = self.key.map(|key| key(&record.payload));
            out.push(record);
            // The clock is read for every eighth record only.
            if out.items.len() % 8 == 1 && (stop.is_set() || start.elapsed() > LINGER) {
                break;
            }
        }
        Ok(Progress::More)
    }
}
