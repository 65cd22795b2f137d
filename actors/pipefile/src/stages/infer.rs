//! `infer`: runs a model. Its inputs are fields of the record, its outputs become fields.

use std::{
    path::Path as FilePath,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use millstream_engine::{Port, Signature};
use millstream_io::watch_model;
use millstream_runtime::{Deployment, EngineModel, Flow, LoadModel, ModelHandler, ModelId, Prediction, Ragged, RunInference, StageError, within};
use millstream_tensor::{DType, Tensor};

use super::StagePart;
use crate::{
    batching::Batching,
    build::{Opened, Workshop},
    node_options::NodeOptions,
    problem::Findings,
    row::{DataError, Datum, Path, Row, needed},
    table::{At, Pairs, Table},
    tensors::to_tensor,
};

struct Infer {
    /// A file, or a folder whose newest `.onnx` file it is.
    model: At<String>,
    /// How often somebody looks whether there is a newer file.
    watch: Option<Duration>,
    /// Inputs of the model and the fields that they are taken from.
    inputs: Vec<(At<String>, String)>,
    /// Outputs of the model and the fields that they become; all, under their names, without it.
    outputs: Option<Vec<(At<String>, String)>>,
    /// The field that says which model it was.
    model_id: Option<String>,
    loading: Loading,
    /// The dims of an example's inputs where the model leaves them open: what is planned with before there are examples.
    dims: Vec<(At<String>, Vec<usize>)>,
    /// The longest that a run may take.
    time_limit: Option<Duration>,
    batching: Batching,
    options: NodeOptions,
}

/// What makes a handler of a model, of each of its versions.
#[derive(Clone)]
struct Loading {
    batch_axis: bool,
    lengths: Vec<Length>,
}

/// A length in which examples differ.
#[derive(Clone)]
struct Length {
    ragged: Ragged,
    masks: Vec<String>,
    place: crate::problem::Span,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    let options = NodeOptions::for_stage(table);
    let batching = Batching::read(table);
    let pairs = |key| table.read::<Pairs<String>>(key).map(|pairs| pairs.value.0);
    Some(Box::new(Infer {
        watch: table.read("watch").map(|every| every.value),
        inputs: pairs("inputs").unwrap_or_default(),
        outputs: pairs("outputs"),
        model_id: table.read("model_id").map(|field| field.value),
        loading: Loading { batch_axis: table.read("batch_axis").is_none_or(|axis| axis.value), lengths: table.tables("ragged").iter().map(length).collect() },
        dims: table.read::<Pairs<Vec<usize>>>("dims").map(|pairs| pairs.value.0).unwrap_or_default(),
        time_limit: table.read_if::<Duration>("time_limit", |limit| !limit.is_zero(), "more than nothing").map(|limit| limit.value),
        model: table.need("model")?,
        batching,
        options,
    }))
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

/// A model's stage as far as it is known before it runs: what `--dry` asks.
pub(crate) struct Inference {
    pub(crate) stage: String,
    pub(crate) handler: EngineModel,
    pub(crate) example: Vec<Tensor>,
    /// Dims for which 1 stands.
    pub(crate) open: Vec<String>,
    pub(crate) most: usize,
}

impl Loading {
    /// The model with everything that the file says of it.
    fn handler(&self, name: &str, version: u64, opened: &Opened) -> Result<EngineModel, (crate::problem::Span, StageError)> {
        let mut handler = EngineModel::new(ModelId::new(name, version.to_string()), opened.executable.clone()).memory_limit(opened.memory_limit);
        if !self.batch_axis {
            handler = handler.without_batch_axis();
        }
        self.lengths.iter().try_fold(handler, |handler, length| handler.ragged(length.ragged.clone()).map_err(|error| (length.place.clone(), error)))
    }

    /// The inputs that an example has: those that are no masks.
    fn columns<'s>(&self, signature: &'s Signature) -> Vec<&'s Port> {
        let made = |port: &&Port| self.lengths.iter().any(|length| length.masks.iter().any(|mask| **mask == *port.name));
        signature.inputs.iter().filter(|port| !made(port)).collect()
    }
}

impl Infer {
    /// The field of each output; `None` for one that nobody wants.
    fn results(&self, signature: &Signature) -> Vec<Option<String>> {
        let wanted = |name: &str| match &self.outputs {
            Some(pairs) => pairs.iter().find(|(output, _)| output.value == name).map(|(_, field)| field.clone()),
            None => Some(name.to_owned()),
        };
        signature.outputs.iter().map(|port| wanted(&port.name)).collect()
    }

    fn check_names(&self, signature: &Signature, findings: &Findings) {
        let inputs: Vec<&str> = self.loading.columns(signature).into_iter().map(|port| &*port.name).collect();
        let outputs: Vec<&str> = signature.outputs.iter().map(|port| &*port.name).collect();
        let given = self.inputs.iter().map(|(name, _)| name).chain(self.dims.iter().map(|(name, _)| name)).map(|name| (name, "input", &inputs));
        let given = given.chain(self.outputs.iter().flatten().map(|(name, _)| (name, "output", &outputs)));
        for (name, what, known) in given.filter(|(name, _, known)| !known.contains(&name.value.as_str())) {
            findings.suggest(&name.span, format!("the model has no {what} `{}`", name.value), &name.value, known);
        }
    }

    /// An example of zeroes, and the dims that had to be guessed.
    fn example(&self, columns: &[&Port], findings: &Findings) -> Option<(Vec<Tensor>, Vec<String>)> {
        let scalar = |port: &&Port| port.dims.as_ref().is_some_and(Vec::is_empty);
        let skip = usize::from(self.loading.batch_axis && !columns.iter().any(scalar));
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
                    let place = given.map_or(&self.model.span, |(name, _)| &name.span);
                    findings.add(place, format!("no example of input `{}`: {error}", port.name));
                    return None;
                }
            }
        }
        Some((example, open))
    }

    /// Puts the stage behind a flow.
    fn put<H>(&self, name: &str, flow: Flow<Row>, signature: &Signature, handler: H) -> Flow<Row>
    where
        H: ModelHandler<Input = Vec<Tensor>, Output = Vec<Tensor>>,
    {
        let field =
            |port: &Port| self.inputs.iter().find(|(input, _)| *input.value == *port.name).map_or_else(|| port.name.to_string(), |(_, field)| field.clone());
        let columns: Vec<(Path, DType)> =
            self.loading.columns(signature).into_iter().map(|port| (Path::new(field(port)), port.dtype.unwrap_or(DType::F32))).collect();
        let prepare = move |row: &Row| -> Result<Vec<Tensor>, DataError> {
            let tensor = |(field, dtype): &(Path, DType)| {
                let datum = needed(row, field)?.to_datum();
                to_tensor(&datum, *dtype, None).map_err(|error| DataError::Tensor { field: field.to_string(), error })
            };
            columns.iter().map(tensor).collect()
        };
        let run = self.batching.apply(self.options.infer(RunInference::new(handler).preprocess(prepare)));
        let (results, model_id) = (self.results(signature), self.model_id.clone());
        let run = run.measure(|prediction: &Prediction<Row, Vec<Tensor>>| {
            prediction.example.bytes() + prediction.inference.iter().map(|tensor| tensor.bytes_len() as u64).sum::<u64>()
        });
        let outputs = format!("{name}.outputs");
        flow.infer(name, run).try_map_with(
            &outputs,
            millstream_runtime::StageOptions::new().measure(Row::bytes),
            move |prediction: Prediction<Row, Vec<Tensor>>| {
                let Prediction { example: mut row, inference, model, .. } = prediction;
                if inference.len() != results.len() {
                    return Err(DataError::Outputs { expected: results.len(), found: inference.len() });
                }
                for (tensor, field) in inference.into_iter().zip(&results) {
                    if let Some(field) = field {
                        row.set(field, Datum::Tensor(tensor));
                    }
                }
                if let Some(field) = &model_id {
                    row.set(field, Datum::text(model.to_string()));
                }
                Ok(row)
            },
        )
    }

    /// A deployment of the model, and the watch over its file.
    fn watched(&self, name: &str, every: Duration, opened: Opened, workshop: &mut Workshop<'_>) -> Option<Deployment<EngineModel>> {
        let (models, stage, loading) = (workshop.models.clone(), name.to_owned(), self.loading.clone());
        let version = Arc::new(AtomicU64::new(0));
        let load = move |opened: &Opened| {
            let version = version.fetch_add(1, Ordering::Relaxed) + 1;
            loading.handler(&stage, version, opened).map_err(|(_, error)| error)
        };
        let first = load.clone();
        let deployment = match Deployment::new(LoadModel::new(move || first(&opened))) {
            Ok(deployment) => deployment,
            Err(error) => {
                workshop.findings.add(&self.model.span, format!("`model`: {error}"));
                return None;
            }
        };
        if workshop.to_run {
            let pattern = workshop.model_pattern(&self.model.value);
            let newer = move |path: &FilePath| {
                let (models, load, path) = (models.clone(), load.clone(), path.to_owned());
                LoadModel::new(move || load(&models.open(&path).map_err(StageError::permanent)?))
            };
            match watch_model(&deployment, &pattern, every, newer, |_| {}) {
                Ok(watch) => workshop.watches.push(watch),
                Err(error) => workshop.findings.add(&self.model.span, format!("`watch`: {error}")),
            }
        }
        Some(deployment)
    }
}

impl StagePart for Infer {
    fn detail(&self) -> String {
        format!("{}, {}", self.model.value, self.batching)
    }

    fn attach(&self, name: &str, flow: Flow<Row>, workshop: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        let opened = workshop.open_model(name, &self.model)?;
        let executable = opened.executable.clone();
        let signature = executable.signature();
        let handler = || self.loading.handler(name, 1, &opened).map_err(|(place, error)| workshop.findings.add(&place, format!("`ragged`: {error}"))).ok();
        let (own, planned) = (handler()?, handler()?);
        self.check_names(signature, workshop.findings);
        let (example, open) = self.example(&self.loading.columns(signature), workshop.findings)?;
        workshop.inferences.push(Inference { stage: name.to_owned(), handler: planned, example, open, most: self.batching.most() });
        Some(vec![match (self.watch, self.time_limit) {
            (None, None) => self.put(name, flow, signature, own),
            (None, Some(limit)) => self.put(name, flow, signature, within(limit, own)),
            (Some(every), limit) => {
                let model = self.watched(name, every, opened, workshop)?.handler();
                match limit {
                    None => self.put(name, flow, signature, model),
                    Some(limit) => self.put(name, flow, signature, within(limit, model)),
                }
            }
        }])
    }
}
