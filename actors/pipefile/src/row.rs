//! What flows through a pipeline from a file: records of named fields.

use std::{fmt, sync::Arc};

use millstream_tensor::Tensor;
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value as Json;

use crate::tensors::Listed;

/// A field's contents.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Datum {
    /// Text, numbers, lists and objects.
    Json(Json),
    /// Bytes as they were read.
    Bytes(Arc<[u8]>),
    /// A model's input or output.
    Tensor(Tensor),
}

impl Datum {
    /// Text.
    pub fn text(text: impl Into<String>) -> Self {
        Datum::Json(Json::String(text.into()))
    }

    /// The word for its kind.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Datum::Json(Json::Null) => "null",
            Datum::Json(Json::Bool(_)) => "a flag",
            Datum::Json(Json::Number(_)) => "a number",
            Datum::Json(Json::String(_)) => "text",
            Datum::Json(Json::Array(_)) => "a list",
            Datum::Json(Json::Object(_)) => "an object",
            Datum::Bytes(_) => "bytes",
            Datum::Tensor(_) => "a tensor",
        }
    }

    fn weight(&self) -> u64 {
        match self {
            Datum::Json(json) => weight(json),
            Datum::Bytes(bytes) => bytes.len() as u64,
            Datum::Tensor(tensor) => tensor.bytes_len() as u64,
        }
    }
}

/// What JSON weighs.
pub(crate) fn weight(json: &Json) -> u64 {
    let own = size_of::<Json>() as u64;
    own + match json {
        Json::String(text) => text.len() as u64,
        Json::Array(items) => items.iter().map(weight).sum(),
        Json::Object(fields) => fields.iter().map(|(name, value)| name.len() as u64 + weight(value)).sum(),
        Json::Null | Json::Bool(_) | Json::Number(_) => 0,
    }
}

/// Text and tensors as in JSON; bytes that are no text as `{"hex": "…"}`.
impl Serialize for Datum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Datum::Json(json) => json.serialize(serializer),
            Datum::Tensor(tensor) => Listed(tensor).serialize(serializer),
            Datum::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => serializer.serialize_str(text),
                Err(_) => {
                    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    let mut map = serializer.serialize_map(Some(1))?;
                    map.serialize_entry("hex", &hex)?;
                    map.end()
                }
            },
        }
    }
}

/// A record: fields in an order, each with a name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row(Vec<(Arc<str>, Datum)>);

impl Row {
    /// A record without fields.
    pub fn new() -> Self {
        Row::default()
    }

    /// With this field.
    #[must_use]
    pub fn with(mut self, name: &str, datum: Datum) -> Self {
        self.set(name, datum);
        self
    }

    /// Sets a field, in its place if there is one of this name, or else behind the others.
    pub fn set(&mut self, name: &str, datum: Datum) {
        match self.place(name) {
            Some(at) => self.0[at].1 = datum,
            None => self.0.push((name.into(), datum)),
        }
    }

    /// A field.
    pub fn field(&self, name: &str) -> Option<&Datum> {
        self.place(name).map(|at| &self.0[at].1)
    }

    /// Takes a field out.
    pub fn take(&mut self, name: &str) -> Option<Datum> {
        self.place(name).map(|at| self.0.remove(at).1)
    }

    /// Takes over the fields of another record whose names are not its own.
    pub(crate) fn adopt(&mut self, other: Row) {
        let own = self.0.len();
        for (name, datum) in other.0 {
            if !self.0[..own].iter().any(|(taken, _)| *taken == name) {
                self.0.push((name, datum));
            }
        }
    }

    /// Keeps the fields whose names are wanted.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.0.retain(|(name, _)| wanted(name));
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|(own, _)| &**own == name)
    }

    /// What it weighs.
    pub fn bytes(&self) -> u64 {
        let fields = self.0.iter().map(|(name, datum)| (size_of::<(Arc<str>, Datum)>() + name.len()) as u64 + datum.weight());
        size_of::<Row>() as u64 + fields.sum::<u64>()
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, datum)| (&**name, datum)))
    }
}

/// The way to a field: its name, or `field.part` for a part of an object in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path(String);

impl Path {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Path(text.into())
    }

    /// What is there, if anything is. A field whose own name has a dot goes first.
    pub(crate) fn find<'r>(&self, row: &'r Row) -> Option<Found<'r>> {
        if let Some(datum) = row.field(&self.0) {
            return Some(match datum {
                Datum::Json(json) => Found::Json(json),
                other => Found::Datum(other),
            });
        }
        let (field, rest) = self.0.split_once('.')?;
        match row.field(field)? {
            Datum::Json(json) => rest.split('.').try_fold(json, |json, part| json.get(part)).map(Found::Json),
            Datum::Bytes(_) | Datum::Tensor(_) => None,
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a path leads to.
pub(crate) enum Found<'r> {
    Json(&'r Json),
    Datum(&'r Datum),
}

impl Found<'_> {
    pub(crate) fn to_datum(&self) -> Datum {
        match self {
            Found::Json(json) => Datum::Json((*json).clone()),
            Found::Datum(datum) => (*datum).clone(),
        }
    }
}

/// Why a stage cannot work on a record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataError {
    #[error("the record has no field `{0}`")]
    Missing(String),
    #[error("field `{field}` must be {expected}, it is {found}")]
    Kind { field: String, expected: &'static str, found: &'static str },
    #[error("field `{field}` is no JSON: {error}")]
    Json { field: String, error: serde_json::Error },
    #[error("field `{field}`: {error}")]
    Tensor { field: String, error: crate::tensors::ConvertError },
    #[error("the model gave {found} outputs, {expected} are declared")]
    Outputs { expected: usize, found: usize },
    #[error("field `{field}` has {found} elements, there are {labels} labels")]
    Labels { field: String, found: usize, labels: usize },
}

/// A field that must be there.
pub(crate) fn needed<'r>(row: &'r Row, path: &Path) -> Result<Found<'r>, DataError> {
    path.find(row).ok_or_else(|| DataError::Missing(path.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_keep_their_order_and_paths_reach_into_objects() {
        let mut row =
            Row::new().with("a", Datum::text("x")).with("b", Datum::Json(json!({ "c": { "d": 7 } }))).with("a", Datum::Bytes([255, 0].as_slice().into()));
        assert_eq!(serde_json::to_string(&row).unwrap(), r#"{"a":{"hex":"ff00"},"b":{"c":{"d":7}}}"#);
        assert!(matches!(Path::new("b.c.d").find(&row), Some(Found::Json(json)) if *json == json!(7)));
        assert!(Path::new("b.x").find(&row).is_none() && Path::new("a.x").find(&row).is_none());
        let before = row.bytes();
        assert_eq!(row.take("a").map(|datum| datum.kind()), Some("bytes"));
        assert!(row.bytes() < before && row.take("a").is_none());
    }
}
