//! `discard`: takes records and throws them away, where only their coming so far matters.

use millstream_runtime::{Context, Flow, Pipeline, Sink, SinkFactory, StageError, Start};

use super::{Named, SinkPart};
use crate::{build::Workshop, row::Row, table::Table};

struct Discard;

pub(super) fn read(_: &Table<'_>) -> Option<Box<dyn SinkPart>> {
    Some(Box::new(Discard))
}

impl Sink<Row> for Discard {
    fn write(&mut self, _: Row, _: &Context<'_>) -> Result<(), StageError> {
        Ok(())
    }
}

impl SinkFactory<Row> for Discard {
    type Sink = Discard;

    /// There is nothing to take back.
    fn takes_back(&self) -> bool {
        true
    }

    fn open(&self, _: &Start) -> Result<Discard, StageError> {
        Ok(Discard)
    }
}

impl SinkPart for Discard {
    fn detail(&self) -> String {
        String::new()
    }

    fn close(&self, name: &str, flow: Flow<Row>, _: &mut Workshop<'_>) -> Option<Pipeline> {
        Some(flow.sink(Named { name: name.into(), sink: Discard }))
    }
}
