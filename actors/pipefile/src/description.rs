//! What a pipeline is made of and what it may hold, before it runs: what `--dry` prints.

use std::{fmt, time::Duration};

use millstream_runtime::Outline;
use serde::Serialize;

use crate::{file::PipelineFile, stages::Inference, units::show_bytes};

/// A pipeline before it runs. Its text is for people; it serialises for programs.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Description {
    /// What metrics call it.
    pub name: String,
    /// The most bytes that records may hold on their way, and models while they run; `None` without a budget.
    pub memory_budget: Option<u64>,
    /// The part of it that is for records.
    pub record_bytes: Option<u64>,
    /// Where spans go, and those of how large a share of the records.
    pub spans: Option<(String, f64)>,
    /// The stages, from sources to sinks.
    pub stages: Vec<StagePlan>,
    /// The models.
    pub models: Vec<ModelPlan>,
    /// The models behind HTTP.
    pub remotes: Vec<RemotePlan>,
    /// Stages that stand and fall together, and how their crashes are answered.
    pub groups: Vec<String>,
    /// How long records wait before a stage that follows its load gets another thread; `None` where none does.
    pub scaling_delay: Option<Duration>,
}

/// A stage before it runs.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StagePlan {
    /// Its name.
    pub name: String,
    /// Its kind in the file; `None` for what stands beside a stage of the file.
    pub kind: Option<&'static str>,
    /// How many threads run it; the most, where they follow the load.
    pub replicas: usize,
    /// The fewest.
    pub fewest_replicas: usize,
    /// The group of stages that it stands and falls with.
    pub group: Option<String>,
    /// The stages that it takes from.
    pub takes_from: Vec<String>,
    /// How many records may wait on the edge into it; `None` for a source.
    pub edge_records: Option<u32>,
    /// How many bytes may wait there; `None` for a source, and without a limit.
    pub edge_bytes: Option<u64>,
}

/// A model's stage before it runs.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ModelPlan {
    /// The stage.
    pub stage: String,
    /// The weights, which all replicas share.
    pub weight_bytes: u64,
    /// The most examples of a batch, by the stage and by the model.
    pub largest_batch: usize,
    /// What a run of the largest batch takes beyond the weights, exactly; `None` where the engine cannot tell before it runs.
    pub largest_batch_bytes: Option<u64>,
    /// What a run may take; `None` without a limit.
    pub run_bytes: Option<u64>,
    /// The most examples that a run within its limit has. Larger batches are divided.
    pub fitting_batch: Option<usize>,
    /// Dims of the model's inputs for which 1 stands here, because neither the model nor the file says what they are.
    pub open_dims: Vec<String>,
    /// The most sequences whose state it holds, for a model that remembers.
    pub sequences: Option<usize>,
    /// What a sequence's state takes when it begins.
    pub first_state_bytes: Option<u64>,
    /// The most bytes of all states; `None` without a limit.
    pub state_bytes: Option<u64>,
    /// How newer versions of it come into place, where they do.
    pub versions: Option<String>,
}

/// A stage that asks a model behind HTTP, before it runs.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RemotePlan {
    /// The stage.
    pub stage: String,
    /// Where it asks.
    pub url: String,
    /// The most examples of a request.
    pub largest_batch: usize,
    /// How long one try may take.
    pub timeout: Duration,
    /// How often a request is tried again.
    pub retries: u32,
    /// The first pause before that, and the longest.
    pub pauses: (Duration, Duration),
    /// An endpoint that refuses is asked less.
    pub throttled: bool,
    /// The most requests a second; `None` without a limit.
    pub requests_per_second: Option<f64>,
    /// Headers, and what they say; `$NAME` for what the environment holds.
    pub headers: Vec<(String, String)>,
}

impl RemotePlan {
    pub(crate) fn new(stage: &str, url: &str, largest_batch: usize) -> Self {
        RemotePlan {
            stage: stage.to_owned(),
            url: url.to_owned(),
            largest_batch,
            timeout: Duration::ZERO,
            retries: 0,
            pauses: (Duration::ZERO, Duration::ZERO),
            throttled: false,
            requests_per_second: None,
            headers: Vec::new(),
        }
    }
}

impl fmt::Display for RemotePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "model of `{}`: asked at {}, up to {} records a request, {:?} a try", self.stage, self.url, self.largest_batch, self.timeout)?;
        match self.retries {
            0 => write!(f, ", once")?,
            times => write!(f, ", again {times} times after {:?} to {:?}", self.pauses.0, self.pauses.1)?,
        }
        if let Some(rate) = self.requests_per_second {
            write!(f, ", {rate} requests a second at most")?;
        }
        write!(f, "{}", if self.throttled { ", less where it refuses" } else { "" })?;
        self.headers.iter().enumerate().try_for_each(|(index, (name, said))| write!(f, "{}{name}: {said}", if index == 0 { "; " } else { ", " }))
    }
}

impl ModelPlan {
    fn new(inference: &Inference, outline: &Outline) -> Self {
        let stage = outline.stages.iter().find(|other| other.name == inference.stage);
        let run_bytes = stage.and_then(|stage| stage.run_bytes);
        let largest_batch = inference.most.min(inference.max_batch().unwrap_or(usize::MAX));
        let bytes = |batch: usize| inference.plan_bytes(batch);
        let largest_batch_bytes = bytes(largest_batch);
        let fits = |batch: usize| bytes(batch).zip(run_bytes).is_none_or(|(bytes, limit)| bytes <= limit);
        let fitting_batch = largest_batch_bytes.map(|_| {
            // What a run takes grows with its batch.
            let (mut fitting, mut too_large) = (0, largest_batch + 1);
            while too_large - fitting > 1 {
                let middle = fitting + (too_large - fitting) / 2;
                if fits(middle) { fitting = middle } else { too_large = middle }
            }
            fitting
        });
        ModelPlan {
            stage: inference.stage.clone(),
            weight_bytes: inference.weight_bytes,
            largest_batch,
            largest_batch_bytes,
            run_bytes,
            fitting_batch,
            open_dims: inference.open.clone(),
            sequences: inference.sequences.map(|(most, _)| most),
            first_state_bytes: inference.sequences.map(|(_, bytes)| bytes),
            state_bytes: stage.and_then(|stage| stage.state_bytes),
            versions: inference.versions.clone(),
        }
    }
}

impl Description {
    pub(crate) fn new(file: &PipelineFile, outline: Outline, inferences: &[Inference], remotes: Vec<RemotePlan>) -> Self {
        let stages = outline.stages.iter().map(|stage| StagePlan {
            name: stage.name.clone(),
            kind: file.nodes.iter().find(|node| node.name == stage.name).map(|node| node.kind),
            replicas: stage.replicas,
            fewest_replicas: stage.fewest,
            group: stage.name.split('.').next().and_then(|node| file.settings.supervised.group_of(node)).map(str::to_owned),
            takes_from: stage.takes_from.iter().map(|before| outline.stages[*before].name.clone()).collect(),
            edge_records: stage.edge.map(|edge| edge.records),
            edge_bytes: stage.edge.map(|edge| edge.bytes).filter(|bytes| *bytes != u64::MAX),
        });
        Description {
            name: file.name().to_owned(),
            memory_budget: file.settings.memory_budget,
            record_bytes: outline.record_bytes,
            spans: file.settings.telemetry.as_ref().map(|telemetry| (telemetry.url.value.clone(), telemetry.sample)),
            stages: stages.collect(),
            groups: file.settings.supervised.groups.iter().map(ToString::to_string).collect(),
            scaling_delay: outline.stages.iter().any(|stage| stage.fewest < stage.replicas).then_some(file.settings.scaling.delay),
            remotes,
            models: inferences.iter().map(|inference| ModelPlan::new(inference, &outline)).collect(),
        }
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = |bytes: Option<u64>| bytes.map_or_else(|| "no limit".to_owned(), show_bytes);
        let head = ["stage", "kind", "replicas", "takes from", "its edge holds"].map(str::to_owned);
        let row = |stage: &StagePlan| {
            let edge = stage.edge_records.map_or_else(|| "-".to_owned(), |records| format!("{records} records, {}", limit(stage.edge_bytes)));
            let before = if stage.takes_from.is_empty() { "-".to_owned() } else { stage.takes_from.join(", ") };
            let replicas = match stage.fewest_replicas {
                fewest if fewest < stage.replicas => format!("{fewest} to {}", stage.replicas),
                _ => stage.replicas.to_string(),
            };
            [stage.name.clone(), stage.kind.unwrap_or("-").to_owned(), replicas, before, edge]
        };
        let rows: Vec<[String; 5]> = std::iter::once(head).chain(self.stages.iter().map(row)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..4).map(width).collect();
        for [name, kind, replicas, before, edge] in &rows {
            writeln!(f, "{name:0$}  {kind:1$}  {replicas:2$}  {before:3$}  {edge}", widths[0], widths[1], widths[2], widths[3])?;
        }
        match (self.memory_budget, self.record_bytes) {
            (Some(budget), Some(records)) => {
                write!(f, "\nmemory budget {}: {} for records on their way", show_bytes(budget), show_bytes(records))?;
                if records < budget {
                    write!(f, ", {} for runs of models", show_bytes(budget - records))?;
                }
                writeln!(f)?;
            }
            _ => writeln!(f, "\nno memory budget")?,
        }
        if let Some((url, share)) = &self.spans {
            writeln!(f, "spans of {} % of the records go to {url}", share * 100.0)?;
        }
        if let Some(delay) = self.scaling_delay {
            writeln!(f, "stages with a range of replicas get another where records would wait longer than {delay:?}")?;
        }
        self.groups.iter().try_for_each(|group| writeln!(f, "{group}"))?;
        for model in &self.models {
            write!(f, "model of `{}`: weights {}, a batch of {} takes ", model.stage, show_bytes(model.weight_bytes), model.largest_batch)?;
            match model.largest_batch_bytes {
                Some(bytes) => write!(f, "{bytes} bytes ({}) of {}", show_bytes(bytes), limit(model.run_bytes))?,
                None => write!(f, "what only a run can tell, of {}", limit(model.run_bytes))?,
            }
            match model.fitting_batch {
                Some(0) => write!(f, "; NOT ONE EXAMPLE FITS")?,
                Some(fitting) if fitting < model.largest_batch => write!(f, "; batches of more than {fitting} are divided")?,
                _ => {}
            }
            if let (Some(most), Some(bytes)) = (model.sequences, model.first_state_bytes) {
                write!(f, "; remembers {most} sequences, which begin with {}, of {}", show_bytes(bytes), limit(model.state_bytes))?;
            }
            if let Some(versions) = &model.versions {
                write!(f, "; {versions}")?;
            }
            if !model.open_dims.is_empty() {
                write!(f, "; 1 stands for {}, unless `dims` says more", model.open_dims.join(", "))?;
            }
            writeln!(f)?;
        }
        self.remotes.iter().try_for_each(|remote| writeln!(f, "{remote}"))
    }
}
