//! `jsonl`: each record as a line of JSON. With checkpoints, the file holds what they say.

use millstream_runtime::{Flow, Pipeline};

use super::{Named, SinkPart};
use crate::{
    build::Workshop,
    node_options::NodeOptions,
    row::Row,
    table::{At, Table},
};

struct JsonLines {
    path: String,
    /// Goes on behind what the file holds.
    append: Option<At<bool>>,
    options: NodeOptions,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn SinkPart>> {
    let options = NodeOptions::for_sink(table);
    let append = table.read::<bool>("append").filter(|append| append.value);
    let path = table.need::<String>("path")?.value;
    Some(Box::new(JsonLines { path, append, options }))
}

impl SinkPart for JsonLines {
    fn detail(&self) -> String {
        self.path.clone()
    }

    fn close(&self, name: &str, flow: Flow<Row>, workshop: &mut Workshop<'_>) -> Option<Pipeline> {
        let mut sink = millstream_io::jsonl(workshop.path(&self.path));
        match (&self.append, workshop.checkpoints) {
            (Some(append), true) => {
                let hint = "the checkpoints say where the file goes on";
                workshop.findings.hint(&append.span, "`append` and `checkpoints` exclude each other", hint);
                return None;
            }
            (Some(_), false) => sink = sink.append(),
            (None, true) => sink = sink.transactional(),
            (None, false) => {}
        }
        Some(flow.sink_with(Named { name: name.into(), sink }, self.options.sink()))
    }
}
