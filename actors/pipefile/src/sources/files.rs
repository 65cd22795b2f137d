//! `files`: a record `{ path }` for each file that matches a pattern.

use std::path::PathBuf;

use millstream_runtime::{Flow, Pipeline, map_source};

use super::{SourcePart, path_row};
use crate::{build::Workshop, row::Row, table::Table};

struct Files {
    pattern: String,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn SourcePart>> {
    Some(Box::new(Files { pattern: table.need::<String>("pattern")?.value }))
}

impl SourcePart for Files {
    fn detail(&self) -> String {
        self.pattern.clone()
    }

    fn open(&self, name: &str, workshop: &mut Workshop<'_>) -> Option<Flow<Row>> {
        let files = millstream_io::files(workshop.pattern(&self.pattern));
        Some(Pipeline::from(map_source(name, files, |path: PathBuf| path_row(&path))))
    }
}
