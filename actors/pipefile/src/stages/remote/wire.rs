//! What a remote model is sent and what it answers, as JSON.

use millstream_runtime::StageError;
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value as Json};

use crate::{
    row::{DataError, Datum, Path, Row, needed},
    table::{Pairs, Table},
};

/// How an endpoint wants to be asked, and how it answers.
pub(super) struct Wire {
    send: Send,
    /// The key under which a request has its examples; the request is a list of them, without it.
    examples: Option<String>,
    /// What else a request has.
    body: Vec<(String, Json)>,
    /// Where an answer has its answers; it is a list of them, without it.
    answers: Option<String>,
    take: Take,
}

/// What an example is.
enum Send {
    /// The whole record.
    Record,
    /// A field as it is.
    Field(Path),
    /// An object: its keys, and the fields that they are taken from.
    Object(Vec<(String, Path)>),
}

/// What becomes of the answer for an example.
enum Take {
    /// Its fields are the record's.
    Fields,
    /// It is one field.
    Into(String),
    /// Parts of it, and the fields that they become.
    Parts(Vec<(String, String)>),
}

/// What is wrong with a record, or with what was answered for it.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error(transparent)]
    Record(#[from] DataError),
    #[error("field `{field}` has no form in JSON")]
    Field { field: String, source: serde_json::Error },
    #[error("the endpoint's answer is no JSON")]
    NoJson(#[source] serde_json::Error),
    #[error("the endpoint's answer has no list {place}")]
    NoList { place: String },
    #[error("the endpoint's answer for a record has no `{0}`")]
    NoPart(String),
    #[error("the endpoint's answer for a record is {0}, and no object: `into` names a field for it")]
    NoObject(&'static str),
}

impl Wire {
    /// `None` if something that matters was wrong.
    pub(super) fn read(table: &Table<'_>) -> Option<Self> {
        let send = send(table);
        let examples = table.read::<String>("examples").map(|key| key.value);
        let body = table.read::<Pairs<Json>>("body").map(|pairs| pairs.value.0).unwrap_or_default();
        if examples.is_none() && !body.is_empty() {
            let hint = "a request is a list of examples, unless `examples` names the key of an object that has them";
            table.findings.hint(&table.key_span("body"), "`body` needs `examples`", hint);
        }
        if let Some((name, _)) = body.iter().find(|(name, _)| Some(&name.value) == examples.as_ref()) {
            table.findings.add(&name.span, format!("`body`: `{}` is where the examples are", name.value));
        }
        let answers = table.read::<String>("answers").map(|path| path.value);
        let parts = table.read::<Pairs<String>>("outputs").map(|pairs| pairs.value.0);
        let into = table.read::<String>("into");
        if let (Some(into), Some(_)) = (&into, &parts) {
            table.findings.add(&into.span, "`into` and `outputs` exclude each other");
        }
        let take = match (parts, into) {
            (Some(parts), _) => Take::Parts(parts.into_iter().map(|(part, field)| (part.value, field)).collect()),
            (None, Some(into)) => Take::Into(into.value),
            (None, None) => Take::Fields,
        };
        let body = body.into_iter().map(|(name, value)| (name.value, value)).collect();
        Some(Wire { send: send?, examples, body, answers, take })
    }

    /// What is sent of a record.
    pub(super) fn example(&self, row: &Row) -> Result<Json, WireError> {
        let json = |path: &Path| {
            let datum = needed(row, path)?.to_datum();
            match datum {
                Datum::Json(json) => Ok(json),
                other => serde_json::to_value(other).map_err(|source| WireError::Field { field: path.to_string(), source }),
            }
        };
        match &self.send {
            Send::Field(path) => json(path),
            Send::Object(fields) => fields.iter().map(|(name, path)| Ok((name.clone(), json(path)?))).collect::<Result<Map<_, _>, _>>().map(Json::Object),
            Send::Record => serde_json::to_value(row).map_err(|source| WireError::Field { field: "(the record)".to_owned(), source }),
        }
    }

    /// A request's body.
    pub(super) fn request(&self, examples: &[&Json]) -> Result<Vec<u8>, StageError> {
        serde_json::to_vec(&Request { wire: self, examples }).map_err(StageError::permanent)
    }

    /// The answers of an answer.
    pub(super) fn answers(&self, answer: &[u8]) -> Result<Vec<Json>, StageError> {
        let mut answer: Json = serde_json::from_slice(answer).map_err(|error| StageError::permanent(WireError::NoJson(error)))?;
        let mut list = Some(&mut answer);
        for part in self.answers.iter().flat_map(|path| path.split('.')) {
            list = list.and_then(|json| json.get_mut(part));
        }
        match list.map(Json::take) {
            Some(Json::Array(answers)) => Ok(answers),
            _ => {
                let place = self.answers.as_ref().map_or_else(|| "at its top: `answers` says where it is".to_owned(), |path| format!("at `{path}`"));
                Err(StageError::permanent(WireError::NoList { place }))
            }
        }
    }

    /// Puts an answer into the record that it is for.
    pub(super) fn take(&self, row: &mut Row, answer: Json) -> Result<(), WireError> {
        match (&self.take, answer) {
            (Take::Into(field), answer) => row.set(field, Datum::Json(answer)),
            (Take::Parts(parts), answer) => {
                for (part, field) in parts {
                    let found = part.split('.').try_fold(&answer, |json, part| json.get(part)).ok_or_else(|| WireError::NoPart(part.clone()))?;
                    row.set(field, Datum::Json(found.clone()));
                }
            }
            (Take::Fields, Json::Object(fields)) => fields.into_iter().for_each(|(name, value)| row.set(&name, Datum::Json(value))),
            (Take::Fields, other) => return Err(WireError::NoObject(Datum::Json(other).kind())),
        }
        Ok(())
    }
}

/// `send = "field"`, `["a", "b"]` or `{ theirs = "ours" }`.
fn send(table: &Table<'_>) -> Option<Send> {
    if table.is_table("send") {
        let pairs = table.read::<Pairs<String>>("send")?.value.0;
        return Some(Send::Object(pairs.into_iter().map(|(theirs, ours)| (theirs.value, Path::new(ours))).collect()));
    }
    if !table.has("send") {
        return Some(Send::Record);
    }
    if let Some(field) = table.text("send") {
        return Some(Send::Field(Path::new(field)));
    }
    let fields = table.read::<Vec<String>>("send")?;
    if fields.value.is_empty() {
        table.findings.hint(&fields.span, "`send` names no field", "without it, the whole record is sent");
    }
    Some(Send::Object(fields.value.into_iter().map(|field| (field.clone(), Path::new(field))).collect()))
}

/// A batch on its way.
struct Request<'r> {
    wire: &'r Wire,
    examples: &'r [&'r Json],
}

impl Serialize for Request<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(key) = &self.wire.examples else { return self.examples.serialize(serializer) };
        let mut object = serializer.serialize_map(Some(self.wire.body.len() + 1))?;
        for (name, value) in &self.wire.body {
            object.serialize_entry(name, value)?;
        }
        object.serialize_entry(key, self.examples)?;
        object.end()
    }
}
