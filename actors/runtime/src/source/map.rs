//! A source under another name, whose records are turned into others on its thread.

use std::sync::Arc;

use super::{Committer, Progress, Pulled, PulledItem, Source};
use crate::{error::StageError, signal::Signal};

/// Turns the records of a source into others.
pub struct MapSource<S, T, F> {
    name: Arc<str>,
    inner: S,
    map: F,
    pulled: Option<Pulled<T>>,
}

/// A source under this name, whose payloads the closure turns into others, each with what it weighs. Keys, positions and
/// deadlines stay.
///
/// ```
/// use millstream_runtime::{Pipeline, collect, from_iter, map_source};
///
/// let (sink, texts) = collect();
/// let numbers = map_source("numbers", from_iter(1..=3), |n| (n.to_string(), 32));
/// let report = Pipeline::from(numbers).sink(sink).run()?;
/// assert_eq!(texts.take(), ["1", "2", "3"]);
/// assert_eq!(report.snapshot.stages[0].name, "numbers");
/// # Ok::<(), millstream_runtime::PipelineError>(())
/// ```
pub fn map_source<T, U, S: Source<T>, F: FnMut(T) -> (U, u64) + Send>(name: impl Into<Arc<str>>, source: S, map: F) -> MapSource<S, T, F> {
    MapSource { name: name.into(), inner: source, map, pulled: None }
}

impl<T: Send, U, S: Source<T>, F: FnMut(T) -> (U, u64) + Send> Source<U> for MapSource<S, T, F> {
    fn name(&self) -> Arc<str> {
        self.name.clone()
    }

    fn keyed(&self) -> bool {
        self.inner.keyed()
    }

    fn committer(&mut self) -> Result<Option<Box<dyn Committer>>, StageError> {
        self.inner.committer()
    }

    fn snapshot(&mut self) -> Result<Option<Vec<u8>>, StageError> {
        self.inner.snapshot()
    }

    fn restore(&mut self, position: &[u8]) -> Result<(), StageError> {
        self.inner.restore(position)
    }

    fn pull(&mut self, out: &mut Pulled<U>, stop: &Signal) -> Result<Progress, StageError> {
        let pulled = self.pulled.get_or_insert_with(|| Pulled::new(out.max_records, out.max_bytes));
        pulled.reset();
        (pulled.max_records, pulled.max_bytes) = (out.max_records, out.max_bytes);
        let progress = self.inner.pull(pulled, stop)?;
        out.reject(pulled.rejected);
        for item in pulled.items.drain(..) {
            match item {
                PulledItem::Record(record) => {
                    let (payload, rest) = record.split();
                    let (payload, bytes) = (self.map)(payload);
                    out.push(rest.with(payload).bytes(bytes));
                }
                PulledItem::Fault { position, locator, fault } => out.items.push(PulledItem::Fault { position, locator, fault }),
            }
        }
        Ok(progress)
    }
}
