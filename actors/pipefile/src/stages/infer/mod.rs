//! `infer`: runs a model. Its inputs are fields of the record, its outputs become fields.
//!
//! - `loading` makes handlers of the model's versions, and examples of it.
//! - `versions` watches for newer ones, and puts them on trial.
//! - `per_key` is for models of which each key of the records has one.
//! - `memory` is for models that remember the records of a key.
//! - `plan` is what is known of the stage before it runs.

mod loading;
mod memory;
mod per_key;
mod plan;
mod versions;

use std::time::Duration;

use millstream_engine::{Port, Signature};
use millstream_runtime::{Flow, ModelHandler, Prediction, RunInference, StageOptions, within};
use millstream_tensor::{DType, Tensor};

pub(crate) use self::plan::Inference;
use self::{
    loading::Loading,
    memory::Remembered,
    per_key::{Owned, keyed},
    plan::Planned,
    versions::Versions,
};
use super::StagePart;
use crate::{
    batching::Batching,
    build::Workshop,
    node_options::NodeOptions,
    problem::Findings,
    row::{DataError, Datum, Path, Row, needed},
    table::{At, Pairs, Table},
    tensors::to_tensor,
};

struct Infer {
    /// A file, or a folder whose newest `.onnx` file it is.
    model: At<String>,
    /// Newer versions, where they are looked for.
    versions: Option<Versions>,
    /// Inputs of the model and the fields that they are taken from.
    inputs: Vec<(At<String>, String)>,
    /// Outputs of the model and the fields that they become; all, under their names, without it.
    outputs: Option<Vec<(At<String>, String)>>,
    /// The field that says which model it was.
    model_id: Option<String>,
    loading: Loading,
    /// For a model that remembers the records of a key.
    memory: Option<Remembered>,
    /// For keys that have models of their own.
    per_key: Option<Owned>,
    /// The longest that a run may take.
    time_limit: Option<Duration>,
    batching: Batching,
    options: NodeOptions,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    let options = NodeOptions::for_stage(table);
    let batching = Batching::read(table);
    let pairs = |key| table.read::<Pairs<String>>(key).map(|pairs| pairs.value.0);
    let time_limit = table.read_if::<Duration>("time_limit", |limit| !limit.is_zero(), "more than nothing").map(|limit| limit.value);
    let (versions, memory) = (Versions::read(table), Remembered::read(table));
    let per_key = Owned::read(table);
    let whole = !matches!(memory, Some(None)) && !matches!(per_key, Some(None));
    if per_key.is_some() {
        for key in ["watch", "canary", "sequence"].into_iter().filter(|key| table.has(key)) {
            let hint = "a key's model is loaded when it is wanted, and again when it was dropped";
            table.findings.hint(&table.key_span(key), format!("`{key}` and `per_key` exclude each other"), hint);
        }
    }
    if memory.is_some() {
        for key in ["watch", "canary", "time_limit"].into_iter().filter(|key| table.has(key)) {
            let hint = "the states of sequences belong to one model and its threads";
            table.findings.hint(&table.key_span(key), format!("`{key}` and `sequence` exclude each other"), hint);
        }
    }
    let infer = Infer {
        versions,
        inputs: pairs("inputs").unwrap_or_default(),
        outputs: pairs("outputs"),
        model_id: table.read("model_id").map(|field| field.value),
        loading: Loading::read(table),
        memory: memory.flatten(),
        per_key: per_key.flatten(),
        time_limit,
        model: table.need("model")?,
        batching,
        options,
    };
    whole.then(|| Box::new(infer) as Box<dyn StagePart>)
}

impl Infer {
    /// The inputs that an example has.
    fn columns<'s>(&self, signature: &'s Signature) -> Vec<&'s Port> {
        let mut columns = self.loading.columns(signature);
        columns.retain(|port| self.memory.as_ref().is_none_or(|memory| !memory.takes(&port.name)));
        columns
    }

    /// The outputs that come out of the stage: those that are no state.
    fn results<'s>(&self, signature: &'s Signature) -> impl Iterator<Item = &'s Port> {
        signature.outputs.iter().filter(|port| self.memory.as_ref().is_none_or(|memory| !memory.gives(&port.name)))
    }

    /// The field of each result; `None` for one that nobody wants.
    fn fields(&self, signature: &Signature) -> Vec<Option<String>> {
        let wanted = |name: &str| match &self.outputs {
            Some(pairs) => pairs.iter().find(|(output, _)| output.value == name).map(|(_, field)| field.clone()),
            None => Some(name.to_owned()),
        };
        self.results(signature).map(|port| wanted(&port.name)).collect()
    }

    fn check_names(&self, signature: &Signature, findings: &Findings) {
        let inputs: Vec<&str> = self.columns(signature).into_iter().map(|port| &*port.name).collect();
        let outputs: Vec<&str> = self.results(signature).map(|port| &*port.name).collect();
        let given = self.inputs.iter().map(|(name, _)| name).chain(self.loading.dimensioned()).map(|name| (name, "input", &inputs));
        let given = given.chain(self.outputs.iter().flatten().map(|(name, _)| (name, "output", &outputs)));
        for (name, what, known) in given.filter(|(name, _, known)| !known.contains(&name.value.as_str())) {
            findings.suggest(&name.span, format!("the model has no {what} `{}`", name.value), &name.value, known);
        }
    }

    /// What makes an example of a record.
    fn prepare(&self, signature: &Signature) -> impl Fn(&Row) -> Result<Vec<Tensor>, DataError> + Send + Sync + use<> {
        let field =
            |port: &Port| self.inputs.iter().find(|(input, _)| *input.value == *port.name).map_or_else(|| port.name.to_string(), |(_, field)| field.clone());
        let columns: Vec<(Path, DType)> = self.columns(signature).into_iter().map(|port| (Path::new(field(port)), port.dtype.unwrap_or(DType::F32))).collect();
        move |row: &Row| {
            let tensor = |(field, dtype): &(Path, DType)| {
                let datum = needed(row, field)?.to_datum();
                to_tensor(&datum, *dtype, None).map_err(|error| DataError::Tensor { field: field.to_string(), error })
            };
            columns.iter().map(tensor).collect()
        }
    }

    /// Puts a stage that runs this model behind a flow.
    fn put<H>(&self, name: &str, flow: Flow<Row>, signature: &Signature, run: RunInference<Row, H>) -> Flow<Row>
    where
        H: ModelHandler<Output = Vec<Tensor>>,
    {
        let run = self.batching.apply(self.options.infer(run));
        let (fields, model_id) = (self.fields(signature), self.model_id.clone());
        let run = run.measure(|prediction: &Prediction<Row, Vec<Tensor>>| {
            prediction.example.bytes() + prediction.inference.iter().map(|tensor| tensor.bytes_len() as u64).sum::<u64>()
        });
        let into_row = move |prediction: Prediction<Row, Vec<Tensor>>| {
            let Prediction { example: mut row, inference, model, .. } = prediction;
            if inference.len() != fields.len() {
                return Err(DataError::Outputs { expected: fields.len(), found: inference.len() });
            }
            for (tensor, field) in inference.into_iter().zip(&fields) {
                if let Some(field) = field {
                    row.set(field, Datum::Tensor(tensor));
                }
            }
            if let Some(field) = &model_id {
                row.set(field, Datum::text(model.to_string()));
            }
            Ok(row)
        };
        flow.infer(name, run).try_map_with(&format!("{name}.outputs"), StageOptions::new().measure(Row::bytes), into_row)
    }
}

impl StagePart for Infer {
    fn detail(&self) -> String {
        let versions = self.versions.as_ref().map_or_else(String::new, |versions| format!("; {versions}"));
        let memory = if self.memory.is_some() { "; a state for each key" } else { "" };
        let per_key = self.per_key.as_ref().map_or_else(String::new, |per_key| format!("; {per_key}"));
        format!("{}, {}{versions}{memory}{per_key}", self.model.value, self.batching)
    }

    fn options(&self) -> Option<&NodeOptions> {
        Some(&self.options)
    }

    fn attach(&self, name: &str, flow: Flow<Row>, workshop: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        let opened = workshop.open_model(name, &self.model)?;
        let executable = opened.executable.clone();
        let (signature, findings) = (executable.signature(), workshop.findings);
        let handler = || self.loading.handler(name, 1, &opened).map_err(|refused| refused.report(findings)).ok();
        let remembering = |memory: &Remembered| memory.model(handler()?).map_err(|refused| refused.report(findings)).ok();
        let planned = match &self.memory {
            None => Planned::Model(handler()?),
            Some(memory) => Planned::sequence(remembering(memory)?).map_err(|error| findings.add(&self.model.span, error.to_string())).ok()?,
        };
        self.check_names(signature, findings);
        let (example, open) = self.loading.example(&self.columns(signature), &self.model.span, findings)?;
        let sequences = self.memory.as_ref().map(|memory| (memory.options.most, planned.state_bytes()));
        let versions = self.versions.as_ref().map(ToString::to_string).or_else(|| self.per_key.as_ref().map(ToString::to_string));
        let most = self.batching.most();
        workshop.inferences.push(Inference {
            stage: name.to_owned(),
            planned,
            example,
            open,
            most,
            weight_bytes: handler()?.model_bytes(),
            sequences,
            versions,
        });

        let prepare = self.prepare(signature);
        if let Some(per_key) = &self.per_key {
            let (model, prepare) = (per_key.handler(name, &handler()?, &self.loading, workshop), keyed(per_key.key(), prepare));
            return Some(vec![match self.time_limit {
                None => self.put(name, flow, signature, RunInference::new(model).preprocess(prepare)),
                Some(limit) => self.put(name, flow, signature, RunInference::new(within(limit, model)).preprocess(prepare)),
            }]);
        }
        Some(vec![match (&self.memory, &self.versions, self.time_limit) {
            (Some(memory), _, _) => self.put(name, flow, signature, memory.run(remembering(memory)?, prepare)),
            (None, None, None) => self.put(name, flow, signature, RunInference::new(handler()?).preprocess(prepare)),
            (None, None, Some(limit)) => self.put(name, flow, signature, RunInference::new(within(limit, handler()?)).preprocess(prepare)),
            (None, Some(versions), limit) => {
                let model = versions.deploy(name, &self.model, opened, &self.loading, workshop)?.handler();
                match limit {
                    None => self.put(name, flow, signature, RunInference::new(model).preprocess(prepare)),
                    Some(limit) => self.put(name, flow, signature, RunInference::new(within(limit, model)).preprocess(prepare)),
                }
            }
        }])
    }
}
