//! `remote`: asks a model behind HTTP. Fields of a record are an example, and what is answered for it becomes fields.
//!
//! ```text
//! a batch   POST {"instances": [EXAMPLE, …], …}      or, without `examples`, [EXAMPLE, …]
//! its answer     {"predictions": [ANSWER, …], …}     or, without `answers`, [ANSWER, …]
//! ```
//!
//! - `wire` is what is sent and what comes back.
//! - `headers` come from the file, and secrets from the environment.
//! - `manners` are how often, how long and how patiently the endpoint is asked.

mod headers;
mod manners;
mod wire;

use std::sync::Arc;

use millstream_remote::{RemoteError, RemoteModel};
use millstream_runtime::{Flow, Prediction, RunInference, StageOptions};
use serde_json::Value as Json;

use self::{
    headers::{Headers, holds_secret},
    manners::Manners,
    wire::Wire,
};
use super::StagePart;
use crate::{
    batching::Batching,
    build::Workshop,
    description::RemotePlan,
    node_options::NodeOptions,
    problem::Findings,
    row::{Datum, Row, weight},
    table::{At, Table},
};

/// What the batcher does for models of the engine, which know lengths and what a run takes.
const OF_ENGINES: [&str; 3] = ["max_tokens", "max_padding", "memory"];

struct Remote {
    url: At<String>,
    headers: Headers,
    wire: Arc<Wire>,
    manners: Manners,
    version: Option<String>,
    /// The field that says which model it was.
    model_id: Option<String>,
    batching: Batching,
    options: NodeOptions,
}

pub(super) fn read(table: &Table<'_>) -> Option<Box<dyn StagePart>> {
    let options = NodeOptions::for_stage(table);
    let batching = Batching::read(table);
    for key in OF_ENGINES.into_iter().filter(|key| table.has(key)) {
        table.findings.hint(&table.key_span(key), format!("`{key}` means nothing to a model behind HTTP"), "`batch` and `max_bytes` limit a request");
    }
    if table.has("retry") {
        let hint = "as in retries = { times = 4, pause = \"500 ms\", longest = \"30 s\" }";
        table.findings.hint(&table.key_span("retry"), "a request is tried again by `retries`, not by `retry`", hint);
    }
    let (wire, headers, manners) = (Wire::read(table), Headers::read(table), Manners::read(table));
    let (version, model_id) = (table.read("version").map(|text| text.value), table.read("model_id").map(|text| text.value));
    let url = table.need::<String>("url")?;
    check_address(&url, table.findings);
    Some(Box::new(Remote { url, headers, wire: Arc::new(wire?), manners, version, model_id, batching, options }))
}

/// An address that is none, that this program cannot speak to, or that tells a secret.
fn check_address(url: &At<String>, findings: &Findings) {
    if let Err(error) = RemoteModel::<Json, Json>::new("", &url.value, |_| Ok(Vec::new()), |_, _| Ok(Vec::new())).check() {
        findings.add(&url.span, format!("`url`: {error}"));
    }
    let rest = url.value.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    let told = query.split('&').filter_map(|pair| pair.split('=').next()).find(|name| holds_secret(name));
    if authority.contains('@') || told.is_some() {
        let hint = "a header from the environment keeps it: headers = { Authorization = { env = \"NAME\" } }";
        findings.hint(&url.span, "`url` holds a secret, and a file is no place for one", hint);
    }
}

impl Remote {
    /// The model, with what the environment holds for its headers.
    fn model(&self, name: &str, findings: &Findings) -> Option<RemoteModel<Json, Json>> {
        let (encoding, decoding) = (self.wire.clone(), self.wire.clone());
        let mut model = RemoteModel::new(name, &self.url.value, move |batch: &[&Json]| encoding.request(batch), move |answer, _| decoding.answers(answer));
        model = model.header("Content-Type", "application/json").header("Accept", "application/json").measure(weight);
        model = self.manners.apply(self.headers.apply(model, findings)?);
        if let Some(version) = &self.version {
            model = model.version(version);
        }
        match model.check() {
            Ok(()) => Some(model),
            Err(error) => {
                let place = match &error {
                    RemoteError::Header { name, .. } => self.headers.place(name),
                    _ => None,
                };
                findings.add(place.unwrap_or(&self.url.span), error.to_string());
                None
            }
        }
    }
}

impl StagePart for Remote {
    fn detail(&self) -> String {
        format!("{}, {}", self.url.value, self.batching)
    }

    fn options(&self) -> Option<&NodeOptions> {
        Some(&self.options)
    }

    fn attach(&self, name: &str, flow: Flow<Row>, workshop: &mut Workshop<'_>) -> Option<Vec<Flow<Row>>> {
        let model = self.model(name, workshop.findings)?;
        let mut plan = RemotePlan::new(name, &self.url.value, self.batching.most());
        plan.headers = self.headers.told();
        self.manners.tell(&mut plan);
        workshop.remotes.push(plan);
        let (preparing, taking, model_id) = (self.wire.clone(), self.wire.clone(), self.model_id.clone());
        let run = RunInference::new(model).preprocess(move |row: &Row| preparing.example(row));
        let run = self.batching.apply(self.options.infer(run));
        let run = run.measure(|prediction: &Prediction<Row, Json>| prediction.example.bytes() + weight(&prediction.inference));
        let into_row = move |prediction: Prediction<Row, Json>| {
            let Prediction { example: mut row, inference, model, .. } = prediction;
            taking.take(&mut row, inference)?;
            if let Some(field) = &model_id {
                row.set(field, Datum::text(model.to_string()));
            }
            Ok::<Row, wire::WireError>(row)
        };
        Some(vec![flow.infer(name, run).try_map_with(&format!("{name}.outputs"), StageOptions::new().measure(Row::bytes), into_row)])
    }
}
