//! From a file that was read to a pipeline that runs.

use std::{
    collections::HashMap,
    error::Error,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use millstream_engine::Executable;
use millstream_io::{MetricsPage, Watch, newest, serve_metrics};
use millstream_runtime::{Flow, Handle, Monitor, Pipeline, PipelineError, from_iter};
use millstream_telemetry::OtlpTracer;

use crate::{
    description::{Description, RemotePlan},
    file::{Node, Part, PipelineFile},
    problem::{Findings, Problems},
    row::Row,
    stages::Inference,
    table::At,
};

/// How long spans that are left at the end may take to be sent.
const SPANS: Duration = Duration::from_secs(5);

/// Opens the models that a file names: the engine and its backend are the caller's.
pub trait Models: Send + Sync {
    /// Opens a model's file.
    ///
    /// # Errors
    /// If it cannot be read, or is no model that the engine can run.
    fn open(&self, path: &Path) -> Result<Opened, Box<dyn Error + Send + Sync>>;
}

impl<F: Fn(&Path) -> Result<Opened, Box<dyn Error + Send + Sync>> + Send + Sync> Models for F {
    fn open(&self, path: &Path) -> Result<Opened, Box<dyn Error + Send + Sync>> {
        self(path)
    }
}

/// A model, ready to run.
#[derive(Clone)]
pub struct Opened {
    /// The model, compiled. Inside a pipeline replicas fill the cores, so it should be compiled for one thread.
    pub executable: Arc<dyn Executable>,
    /// What its file says of it, by name: `labels`, for example.
    pub properties: Vec<(String, String)>,
    /// The most bytes that one run's arena may take.
    pub memory_limit: usize,
}

/// A pipeline from a file, running. Dropping it aborts it.
pub struct Running {
    handle: Handle,
    page: Option<MetricsPage>,
    watches: Vec<Watch>,
    tracer: Option<Arc<OtlpTracer>>,
}

impl Running {
    /// The running pipeline.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Where its metrics are served.
    pub fn metrics(&self) -> Option<std::net::SocketAddr> {
        self.page.as_ref().map(MetricsPage::address)
    }

    /// What sends its spans, where the file says so.
    pub fn tracer(&self) -> Option<&Arc<OtlpTracer>> {
        self.tracer.as_ref()
    }

    /// Waits for its end; metrics are served until then, and spans that are left are sent, for 5 seconds at most.
    ///
    /// # Errors
    /// If the pipeline failed; the error carries the report.
    pub fn join(self) -> Result<millstream_runtime::Report, PipelineError> {
        let Running { handle, page, watches, tracer } = self;
        let report = handle.join();
        if let Some(tracer) = tracer {
            tracer.shutdown(SPANS);
        }
        drop((page, watches));
        report
    }
}

/// Why a file's pipeline does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The file is wrong.
    #[error(transparent)]
    File(#[from] Problems),
    /// The pipeline could not be started.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
}

/// What parts are built with, and what they leave behind.
pub(crate) struct Workshop<'a> {
    pub(crate) findings: &'a Findings,
    pub(crate) models: &'a Arc<dyn Models>,
    /// The pipeline will run, and is not only looked at.
    pub(crate) to_run: bool,
    /// The pipeline has checkpoints.
    pub(crate) checkpoints: bool,
    pub(crate) inferences: Vec<Inference>,
    pub(crate) remotes: Vec<RemotePlan>,
    pub(crate) watches: Vec<Watch>,
    root: &'a Path,
    /// What the model of each stage says of itself; `None` where it could not be opened.
    properties: HashMap<String, Option<Vec<(String, String)>>>,
}

impl Workshop<'_> {
    /// A path of the file: relative ones begin at the file's folder.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A pattern of the file.
    pub(crate) fn pattern(&self, pattern: &str) -> String {
        if Path::new(pattern).is_absolute() || self.root.as_os_str().is_empty() {
            return pattern.to_owned();
        }
        format!("{}/{pattern}", literal(self.root))
    }

    /// What matches the files that a model may come from.
    pub(crate) fn model_pattern(&self, model: &str) -> String {
        let path = self.path(model);
        match () {
            () if path.is_dir() => format!("{}/*.onnx", literal(&path)),
            () if is_pattern(&path) => self.pattern(model),
            () => literal(&path),
        }
    }

    /// The file that a model comes from: itself, or the newest of those that it may come from.
    fn model_file(&self, model: &str) -> Result<PathBuf, String> {
        let path = self.path(model);
        if !path.is_dir() && !is_pattern(&path) {
            return Ok(path);
        }
        let pattern = self.model_pattern(model);
        let none = if path.is_dir() { format!("no .onnx file in {}", path.display()) } else { format!("no file matches {pattern}") };
        newest(&pattern).map_err(|error| error.to_string())?.ok_or(none)
    }

    /// Opens the model of a stage.
    pub(crate) fn open_model(&mut self, stage: &str, model: &At<String>) -> Option<Opened> {
        let opened = self.model_file(&model.value).and_then(|path| self.models.open(&path).map_err(|error| error.to_string()));
        let opened = opened.map_err(|error| self.findings.add(&model.span, format!("`model`: {error}"))).ok();
        self.properties.insert(stage.to_owned(), opened.as_ref().map(|opened| opened.properties.clone()));
        opened
    }

    /// The names of the classes of a stage's model.
    pub(crate) fn labels(&self, stage: &At<String>) -> Option<Vec<String>> {
        let Some(properties) = self.properties.get(&stage.value) else {
            let known: Vec<&str> = self.properties.keys().map(String::as_str).collect();
            self.findings.suggest(&stage.span, format!("`labels_of`: no stage `{}` before this one runs a model", stage.value), &stage.value, &known);
            return None;
        };
        let labels = properties.as_ref()?.iter().find(|(name, _)| name == "labels");
        if labels.is_none() {
            self.findings.hint(&stage.span, format!("the model of `{}` has no property `labels`", stage.value), "give `labels` as a list");
        }
        labels.map(|(_, labels)| labels.split(',').map(|label| label.trim().to_owned()).collect())
    }
}

/// A path as a pattern that matches it alone.
fn literal(path: &Path) -> String {
    let special = |c: char| if "?*[]{}\\".contains(c) { format!("[{c}]") } else { c.to_string() };
    path.to_string_lossy().chars().map(special).collect()
}

/// Whether it is a pattern, and no file that is called so.
fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['?', '*', '[', '{']) && !path.exists()
}

/// A pipeline, and what stands beside it.
struct Built {
    pipeline: Pipeline,
    inferences: Vec<Inference>,
    remotes: Vec<RemotePlan>,
    watches: Vec<Watch>,
}

impl PipelineFile {
    /// What the pipeline is made of and what it may hold. Opens the models, and runs nothing.
    ///
    /// # Errors
    /// Everything that keeps the pipeline from running.
    pub fn describe(&self, models: &Arc<dyn Models>) -> Result<Description, Problems> {
        let built = self.build(models, false)?;
        let outline = built.pipeline.outline().map_err(|error| self.refused(error))?;
        Ok(Description::new(self, outline, &built.inferences, built.remotes))
    }

    /// Starts the pipeline.
    ///
    /// # Errors
    /// Everything that keeps it from running.
    pub fn spawn(&self, models: &Arc<dyn Models>) -> Result<Running, RunError> {
        let Built { mut pipeline, watches, .. } = self.build(models, true)?;
        pipeline.outline().map_err(|error| self.refused(error))?;
        // Before anything runs: an address that is taken must not cost the files that sinks begin anew.
        let monitor: Arc<OnceLock<Monitor>> = Arc::default();
        let page = self.serve(monitor.clone())?;
        let tracer = self.tracer()?;
        if let Some(tracer) = &tracer {
            pipeline = pipeline.trace(tracer.clone());
        }
        let handle = pipeline.spawn().map_err(|error| match error {
            error @ PipelineError::Invalid(_) => RunError::File(self.refused(error)),
            other => RunError::Pipeline(other),
        })?;
        let _ = monitor.set(handle.monitor());
        Ok(Running { handle, page, watches, tracer })
    }

    /// Serves the metrics, where the file says so; an empty page until there are some.
    fn serve(&self, monitor: Arc<OnceLock<Monitor>>) -> Result<Option<MetricsPage>, Problems> {
        let Some(address) = &self.settings.metrics else { return Ok(None) };
        let name = self.settings.name.clone();
        let page = move || monitor.get().map_or_else(String::new, |monitor| monitor.snapshot().prometheus(&name));
        serve_metrics(address.value.as_str(), page).map(Some).map_err(|error| {
            let findings = Findings::default();
            findings.add(&address.span, format!("`address`: {error}"));
            findings.problems(&self.file, &self.text)
        })
    }

    /// Begins to send spans, where the file says so.
    fn tracer(&self) -> Result<Option<Arc<OtlpTracer>>, Problems> {
        let Some(telemetry) = &self.settings.telemetry else { return Ok(None) };
        telemetry.otlp().start().map(Some).map_err(|error| {
            let findings = Findings::default();
            findings.add(&telemetry.url.span, format!("`otlp`: {error}"));
            findings.problems(&self.file, &self.text)
        })
    }

    fn build(&self, models: &Arc<dyn Models>, to_run: bool) -> Result<Built, Problems> {
        let findings = Findings::default();
        let root = &self.root;
        let mut workshop = Workshop {
            findings: &findings,
            models,
            to_run,
            checkpoints: self.settings.checkpoints.is_some(),
            inferences: Vec::new(),
            remotes: Vec::new(),
            watches: Vec::new(),
            root,
            properties: HashMap::new(),
        };
        let pipeline = self.assemble(&mut workshop);
        let Workshop { inferences, remotes, watches, .. } = workshop;
        match pipeline {
            Some(pipeline) if findings.is_empty() => Ok(Built { pipeline, inferences, remotes, watches }),
            _ => Err(findings.problems(&self.file, &self.text)),
        }
    }

    /// Builds every node, in an order in which each comes behind those that it takes from.
    fn assemble(&self, workshop: &mut Workshop<'_>) -> Option<Pipeline> {
        let mut flows: HashMap<(usize, usize), Vec<Flow<Row>>> = HashMap::new();
        let mut whole: Option<Pipeline> = None;
        for index in &self.order {
            let node = &self.nodes[*index];
            let (own, partners) = node.inputs.split_at(node.inputs.len() - node.partners);
            let mut taken = |ports: &[(usize, usize)]| ports.iter().filter_map(|port| flows.get_mut(port)?.pop()).collect::<Vec<_>>();
            let (input, partners) = (Flow::merge(taken(own)), taken(partners));
            let out = match &node.part {
                Part::Source(source) => source.open(&node.name, workshop).map(|flow| vec![flow]),
                Part::Stage(stage) if node.partners > 0 => stage.join(&node.name, input, partners),
                Part::Stage(stage) => stage.attach(&node.name, input, workshop),
                Part::Sink(sink) => {
                    let ended = sink.close(&node.name, input, workshop);
                    whole = match (whole, ended) {
                        (Some(whole), Some(ended)) => Some(whole.and(ended)),
                        (whole, ended) => whole.or(ended),
                    };
                    continue;
                }
            };
            // Behind a node that could not be built, the others are looked at all the same.
            let out = out.unwrap_or_else(|| (0..node.ways()).map(|_| Pipeline::from(from_iter([]))).collect());
            for (way, flow) in out.into_iter().enumerate() {
                flows.insert((*index, way), self.copies(node, (*index, way), flow));
            }
        }
        whole.map(|pipeline| self.settings.apply(pipeline, workshop))
    }

    /// One flow for each node that takes from this way out.
    fn copies(&self, node: &Node, port: (usize, usize), flow: Flow<Row>) -> Vec<Flow<Row>> {
        match self.nodes.iter().filter(|node| node.inputs.contains(&port)).count() {
            0 | 1 => vec![flow],
            many => flow.tee_to(&format!("{}.tee", node.way_name(port.1)), many),
        }
    }

    /// What the runtime says against the pipeline, at the nodes that it speaks of.
    fn refused(&self, error: PipelineError) -> Problems {
        let findings = Findings::default();
        match error {
            PipelineError::Invalid(problems) => {
                for problem in problems {
                    let node = self.nodes.iter().find(|node| problem.contains(&format!("`{}`", node.name)));
                    findings.add(&node.map_or(0..0, |node| node.place.clone()), problem);
                }
            }
            other => findings.add(&(0..0), other.to_string()),
        }
        findings.problems(&self.file, &self.text)
    }
}
