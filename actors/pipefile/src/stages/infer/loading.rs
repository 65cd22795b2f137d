//! What a file says of a model itself: how its versions become handlers, and what an example of it is.

use millstream_engine::{Port, Signature};
use millstream_runtime::{EngineModel, ModelId, Ragged, StageError};
use millstream_tensor::{DType, Tensor};
use serde_json::Value as Json;

use crate::{
    build::Opened,
    problem::{Findings, Span},
    row::Datum,
    table::{At, Pairs, Table},
    tensors::to_tensor,
};

/// What makes a handler of a model, of each of its versions.
#[derive(Clone)]
pub(super) struct Loading {
    batch_axis: bool,
    lengths: Vec<Length>,
    /// Inputs that are the same for all examples.
    shared: Vec<(At<String>, Json)>,
    /// The dims of an example's inputs where the model leaves them open: what is planned with before there are examples.
    dims: Vec<(At<String>, Vec<usize>)>,
}

/// A length in which examples differ.
#[derive(Clone)]
struct Length {
    ragged: Ragged,
    masks: Vec<String>,
    place: Span,
}

/// What the file says of a model, and the model does not agree with.
pub(super) struct Refused {
    pub(super) key: &'static str,
    pub(super) place: Span,
    pub(super) error: StageError,
}

impl Refused {
    pub(super) fn report(self, findings: &Findings) {
        findings.add(&self.place, format!("`{}`: {}", self.key, self.error));
    }
}

impl Loading {
    pub(super) fn read(table: &Table<'_>) -> Self {
        Loading {
            batch_axis: table.read("batch_axis").is_none_or(|axis| axis.value),
            lengths: table.tables("ragged").iter().map(length).collect(),
            shared: table.read::<Pairs<Json>>("shared").map(|pairs| pairs.value.0).unwrap_or_default(),
            dims: table.read::<Pairs<Vec<usize>>>("dims").map(|pairs| pairs.value.0).unwrap_or_default(),
        }
    }

    /// The model with everything that the file says of it.
    pub(super) fn handler(&self, name: &str, version: impl ToString, opened: &Opened) -> Result<EngineModel, Refused> {
        let mut handler = EngineModel::new(ModelId::new(name, version.to_string()), opened.executable.clone()).memory_limit(opened.memory_limit);
        if !self.batch_axis {
            handler = handler.without_batch_axis();
        }
        for (input, value) in &self.shared {
            let refused = |error| Refused { key: "shared", place: input.span.clone(), error };
            let port = opened.executable.signature().inputs.iter().find(|port| *port.name == *input.value);
            let tensor = to_tensor(&Datum::Json(value.clone()), port.and_then(|port| port.dtype).unwrap_or(DType::F32), None);
            let tensor = tensor.map_err(|error| refused(StageError::permanent(error)))?;
            handler = handler.shared_input(&input.value, tensor).map_err(refused)?;
        }
        let ragged = |handler: EngineModel, length: &Length| {
            handler.ragged(length.ragged.clone()).map_err(|error| Refused { key: "ragged", place: length.place.clone(), error })
        };
        self.lengths.iter().try_fold(handler, ragged)
    }

    /// The inputs that an example has: those that are no masks, and not the same for all.
    pub(super) fn columns<'s>(&self, signature: &'s Signature) -> Vec<&'s Port> {
        let masks = |port: &&Port| self.lengths.iter().any(|length| length.masks.iter().any(|mask| **mask == *port.name));
        let shared = |port: &&Port| self.shared.iter().any(|(input, _)| *input.value == *port.name);
        signature.inputs.iter().filter(|port| !masks(port) && !shared(port)).collect()
    }

    /// The inputs that the file says the dims of.
    pub(super) fn dimensioned(&self) -> impl Iterator<Item = &At<String>> {
        self.dims.iter().map(|(name, _)| name)
    }

    /// An example of zeroes of these inputs, and the dims that had to be guessed.
    pub(super) fn example(&self, columns: &[&Port], model: &Span, findings: &Findings) -> Option<(Vec<Tensor>, Vec<String>)> {
        let scalar = |port: &&Port| port.dims.as_ref().is_some_and(Vec::is_empty);
        let skip = usize::from(self.batch_axis && !columns.iter().any(scalar));
        let (mut example, mut open) = (Vec::new(), Vec::new());
        for port in columns {
            let given = self.dims.iter().find(|(name, _)| *name.value == *port.name);
            let dims: Vec<usize> = match (given, &port.dims) {
                (Some((name, dims)), Some(own)) if dims.len() + skip != own.len() => {
                    findings.hint(
                        &name.span,
                        format!("input `{}` has {} dims in an example, {} are given", port.name, own.len() - skip, dims.len()),
                        port.to_string(),
                    );
                    return None;
                }
                (Some((_, dims)), _) => dims.clone(),
                (None, own) => {
                    let own = own.as_deref().unwrap_or_default().iter().skip(skip);
                    let dim = |dim: &Result<usize, String>| {
                        dim.as_ref().copied().unwrap_or_else(|name| {
                            open.push(format!("{name} of `{}`", port.name));
                            1
                        })
                    };
                    own.map(dim).collect()
                }
            };
            match Tensor::zeros(port.dtype.unwrap_or(DType::F32), &dims) {
                Ok(tensor) => example.push(tensor),
                Err(error) => {
                    let place = given.map_or(model, |(name, _)| &name.span);
                    findings.add(place, format!("no example of input `{}`: {error}", port.name));
                    return None;
                }
            }
        }
        Some((example, open))
    }
}

fn length(table: &Table<'_>) -> Length {
    let table_axis = table.read::<usize>("axis").map_or(0, |axis| axis.value);
    let pads = table.need::<Pairs<f64>>("pad").map(|pads| pads.value.0).unwrap_or_default();
    let names = |key| table.read::<Vec<String>>(key).map(|names| names.value).unwrap_or_default();
    let (masks, cuts) = (names("mask"), names("cut"));
    let mut ragged = pads.iter().fold(Ragged::new(), |ragged, (name, value)| ragged.pad(&name.value, table_axis, *value));
    ragged = masks.iter().fold(ragged, |ragged, name| ragged.mask(name));
    ragged = cuts.iter().fold(ragged, |ragged, name| ragged.cut(name, table_axis));
    if let Some(multiple) = table.count("pad_to") {
        ragged = ragged.pad_to(multiple);
    }
    table.done();
    Length { ragged, masks, place: table.span.clone() }
}
