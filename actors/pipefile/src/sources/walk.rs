//! `walk`: a record `{ path }` for each file below a folder, without hidden and ignored ones.

use std::path::PathBuf;

use millstream_runtime::{Flow, Pipeline, map_source};

use super::{SourcePart, path_row};
use crate::{
    build::Workshop,
    row::Row,
    table::{At, Table},
};

struct Walk {
    folder: At<String>,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn SourcePart>> {
    Some(Box::new(Walk { folder: table.need("folder")? }))
}

impl SourcePart for Walk {
    fn detail(&self) -> String {
        self.folder.value.clone()
    }

    fn open(&self, name: &str, workshop: &mut Workshop<'_>) -> Option<Flow<Row>> {
        let folder = workshop.path(&self.folder.value);
        if !folder.is_dir() {
            workshop.findings.add(&self.folder.span, format!("`folder`: {} is no folder", folder.display()));
            return None;
        }
        Some(Pipeline::from(map_source(name, millstream_io::walk(folder), |path: PathBuf| path_row(&path))))
    }
}
