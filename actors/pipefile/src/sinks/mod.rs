//! Kinds of sinks: a file each.

mod discard;
mod jsonl;

use std::sync::Arc;

use millstream_runtime::{Flow, Pipeline, SinkFactory, StageError, Start};

use crate::{build::Workshop, row::Row, table::Table};

/// A sink that was read from a file.
pub(crate) trait SinkPart: Send + Sync {
    /// Where it writes, for people.
    fn detail(&self) -> String;

    /// The pipeline that it ends; `None` if a problem was reported.
    fn close(&self, name: &str, flow: Flow<Row>, workshop: &mut Workshop<'_>) -> Option<Pipeline>;
}

/// A kind of sink, by name.
pub(crate) type Kind = (&'static str, fn(&Table<'_>) -> Option<Box<dyn SinkPart>>);

/// All of them.
pub(crate) const KINDS: &[Kind] = &[("discard", discard::read), ("jsonl", jsonl::read)];

/// A sink under the name that the file gives it.
struct Named<S> {
    name: Arc<str>,
    sink: S,
}

impl<S: SinkFactory<Row>> SinkFactory<Row> for Named<S> {
    type Sink = S::Sink;

    fn name(&self) -> Arc<str> {
        self.name.clone()
    }

    fn takes_back(&self) -> bool {
        self.sink.takes_back()
    }

    fn open(&self, start: &Start) -> Result<S::Sink, StageError> {
        self.sink.open(start)
    }
}
