//! `key`: records with the same contents of a field stay in order from here on.

use millstream_runtime::Flow;

use super::StagePart;
use crate::{
    build::Workshop,
    row::{Datum, Found, Path, Row},
    table::Table,
};

struct KeyBy {
    field: Path,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    Some(Box::new(KeyBy { field: Path::new(table.need::<String>("field")?.value) }))
}

/// The field as bytes that are equal when it is. What is missing is equal to nothing else.
pub(crate) fn identity(row: &Row, field: &Path) -> Option<Vec<u8>> {
    match field.find(row)? {
        Found::Datum(Datum::Bytes(bytes)) => Some(bytes.to_vec()),
        Found::Datum(datum) => serde_json::to_vec(datum).ok(),
        Found::Json(json) => serde_json::to_vec(json).ok(),
    }
}

impl StagePart for KeyBy {
    fn detail(&self) -> String {
        self.field.to_string()
    }

    fn attach(&self, name: &str, flow: Flow<Row>, _: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        let field = self.field.clone();
        Some(vec![flow.key_by(name, move |row: &Row| identity(row, &field))])
    }
}
