//! `json`: reads a field's text as JSON. An object's fields become the record's; with `into`, the value becomes one field.

use millstream_runtime::Flow;
use serde_json::Value as Json;

use super::{StagePart, each};
use crate::{
    build::Workshop,
    node_options::NodeOptions,
    row::{DataError, Datum, Row},
    table::Table,
};

struct Parse {
    field: String,
    into: Option<String>,
    options: NodeOptions,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    let options = NodeOptions::for_stage(table);
    let field = table.read("field").map_or_else(|| "text".to_owned(), |field| field.value);
    let into = table.read("into").map(|into| into.value);
    Some(Box::new(Parse { field, into, options }))
}

impl StagePart for Parse {
    fn detail(&self) -> String {
        self.field.clone()
    }

    fn options(&self) -> Option<&NodeOptions> {
        Some(&self.options)
    }

    fn attach(&self, name: &str, flow: Flow<Row>, _: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        let (field, into) = (self.field.clone(), self.into.clone());
        each(name, &self.options, flow, move |row| {
            let json: Json = match row.field(&field) {
                None => return Err(DataError::Missing(field.clone())),
                Some(Datum::Json(Json::String(text))) => serde_json::from_str(text),
                Some(Datum::Bytes(bytes)) => serde_json::from_slice(bytes),
                Some(other) => return Err(DataError::Kind { field: field.clone(), expected: "text or bytes", found: other.kind() }),
            }
            .map_err(|error| DataError::Json { field: field.clone(), error })?;
            row.take(&field);
            match (&into, json) {
                (Some(into), json) => row.set(into, Datum::Json(json)),
                (None, Json::Object(fields)) => fields.into_iter().for_each(|(name, value)| row.set(&name, Datum::Json(value))),
                (None, other) => {
                    let found = Datum::Json(other).kind();
                    return Err(DataError::Kind { field: field.clone(), expected: "an object, or `into` given", found });
                }
            }
            Ok(())
        })
    }
}
