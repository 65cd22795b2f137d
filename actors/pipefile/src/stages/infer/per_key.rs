//! `per_key`: a model for each key of the records, loaded when the first record of the key comes, as many as fit into memory.

use std::fmt;

use millstream_runtime::{EngineModel, Keyed, ModelHandler, ModelMemory, PerKey, StageError};
use millstream_tensor::Tensor;
use serde_json::Value as Json;

use super::loading::Loading;
use crate::{
    build::{Opened, Workshop},
    row::{DataError, Found, Path, Row, needed},
    table::{Size, Table},
};

/// What stands for the key in a path.
const KEY: &str = "{key}";

/// Whose model a record's is, and where it lies.
pub(super) struct Owned {
    field: Path,
    models: String,
    memory: u64,
}

impl Owned {
    /// The table `per_key`, if there is one; `None` within for one that was wrong.
    pub(super) fn read(table: &Table<'_>) -> Option<Option<Self>> {
        let table = table.table("per_key")?;
        let (field, models) = (table.need::<String>("field"), table.need::<String>("models"));
        let memory = table.need::<Size>("memory");
        table.done();
        if let Some(models) = models.as_ref().filter(|models| !models.value.contains(KEY)) {
            table.findings.hint(&models.span, "`models` names one model for all keys", "`{key}` stands for the key, as in \"models/{key}.onnx\"");
        }
        let whole = field.zip(models).zip(memory);
        Some(whole.map(|((field, models), memory)| Owned { field: Path::new(field.value), models: models.value, memory: memory.value.0 }))
    }

    /// Whose model a record's is.
    pub(super) fn key(&self) -> impl Fn(&Row) -> Result<String, DataError> + Send + Sync + use<> {
        let field = self.field.clone();
        move |row: &Row| {
            let key = match needed(row, &field)? {
                Found::Json(Json::String(text)) => text.clone(),
                Found::Json(Json::Number(number)) => number.to_string(),
                _ => String::new(),
            };
            // A key comes from outside: it names a file in its place, and nothing that lies elsewhere.
            let name = !key.is_empty() && !key.starts_with('.') && !key.contains(|c: char| c.is_control() || "/\\:".contains(c));
            name.then_some(key).ok_or_else(|| DataError::Kind { field: field.to_string(), expected: "a name of a file, as text or a number", found: "none" })
        }
    }

    /// The models, which are loaded one by one. What they take and give is what the stage's own model takes and gives.
    pub(super) fn handler(&self, stage: &str, own: &EngineModel, loading: &Loading, workshop: &Workshop<'_>) -> PerKey<String, EngineModel> {
        let path = workshop.path(&self.models).to_string_lossy().into_owned();
        let (models, loading, stage, contract) = (workshop.models.clone(), loading.clone(), stage.to_owned(), own.contract());
        PerKey::new(&stage.clone(), &ModelMemory::new(self.memory), move |key: &String| {
            let opened: Opened = models.open(path.replace(KEY, key).as_ref()).map_err(StageError::permanent)?;
            let model = loading.handler(&stage, key, &opened).map_err(|refused| refused.error)?;
            match model.contract() {
                same if same == contract => Ok(model),
                other => Err(StageError::permanent(format!("it is {}, and the stage's own model is {}", other.join(", "), contract.join(", ")))),
            }
        })
    }
}

/// What makes an example of a record, with its key.
pub(super) fn keyed<E: From<DataError>>(
    key: impl Fn(&Row) -> Result<String, DataError> + Send + Sync,
    prepare: impl Fn(&Row) -> Result<Vec<Tensor>, E> + Send + Sync,
) -> impl Fn(&Row) -> Result<Keyed<String, Vec<Tensor>>, E> + Send + Sync {
    move |row: &Row| Ok(Keyed { key: key(row)?, input: prepare(row)? })
}

impl fmt::Display for Owned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "for each `{}` {} within {}", self.field, self.models, crate::units::show_bytes(self.memory))
    }
}
