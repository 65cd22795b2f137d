//! `read`: the bytes of the file that a field names, or the first of them.

use std::path::PathBuf;

use millstream_runtime::{Flow, StageError};

use super::StagePart;
use crate::{
    build::Workshop,
    node_options::NodeOptions,
    row::{DataError, Datum, Found, Path, Row, needed},
    table::{Size, Table},
    units::show_bytes,
};

struct Read {
    field: Path,
    into: String,
    head: Option<u64>,
    options: NodeOptions,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    let options = NodeOptions::for_stage(table);
    let field = Path::new(table.read("field").map_or_else(|| "path".to_owned(), |field| field.value));
    let into = table.read("into").map_or_else(|| "bytes".to_owned(), |into| into.value);
    let head = table.read::<Size>("head").map(|head| head.value.0);
    Some(Box::new(Read { field, into, head, options }))
}

impl StagePart for Read {
    fn detail(&self) -> String {
        self.head.map_or_else(|| "whole files".to_owned(), |head| format!("the first {}", show_bytes(head)))
    }

    fn options(&self) -> Option<&NodeOptions> {
        Some(&self.options)
    }

    fn attach(&self, name: &str, flow: Flow<Row>, _: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        let (field, into) = (self.field.clone(), self.into.clone());
        // Nothing is read beyond what memory could hold.
        let read = millstream_io::read_head(self.head.map_or(usize::MAX, |head| usize::try_from(head).unwrap_or(usize::MAX)));
        let change = move |mut row: Row| {
            let path = match needed(&row, &field)? {
                Found::Json(serde_json::Value::String(path)) => PathBuf::from(path),
                other => return Err(DataError::Kind { field: field.to_string(), expected: "text", found: other.to_datum().kind() }.into()),
            };
            let file = read(path)?;
            row.set(&into, Datum::Bytes(file.bytes.into()));
            Ok::<_, StageError>(row)
        };
        Some(vec![flow.try_map_with(name, self.options.stage(), change)])
    }
}
