//! Turns a description into edges, stages and a control plane.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::AtomicUsize},
    time::Instant,
};

use millstream_edge::{Edge, EdgeOptions, Limits};

use super::{Handle, Options, Pipeline};
use crate::{
    dead_letter::DeadLetters,
    envelope::Envelope,
    error::PipelineError,
    infer::ModelId,
    metrics::StageMetrics,
    panics,
    signal::{Signal, Switch},
    stage::{OnError, Stage, StageShared},
    supervise::{AnyEdge, Host, Plumbing},
    ticket::Accounts,
};

/// Records on an edge, unless something asks for more.
const EDGE_RECORDS: u32 = 1024;
/// Bytes on an edge, unless the budget is smaller.
const EDGE_BYTES: u64 = 64 << 20;

/// What the description of a stage says without its types.
#[derive(Clone, Debug)]
pub(crate) struct StageInfo {
    pub(crate) name: Arc<str>,
    pub(crate) replicas: usize,
    /// The largest batch, for a stage that batches.
    pub(crate) batch: Option<(usize, usize)>,
    /// How many times larger a record leaves it.
    pub(crate) expansion: f64,
    /// Whether records have keys when they come in.
    pub(crate) keyed: bool,
    pub(crate) on_error: OnError,
    pub(crate) model: Option<Arc<ModelId>>,
    /// The most bytes of a run, for a stage that says so.
    pub(crate) memory: Option<u64>,
}

impl StageInfo {
    fn runs_model(&self) -> bool {
        self.model.is_some()
    }
}

/// What the stages are connected into, from the sink to the source.
pub(crate) struct Assembly {
    pub(crate) infos: Vec<StageInfo>,
    pub(crate) stages: Vec<Box<dyn Stage>>,
    pub(crate) stop: Signal,
    /// The largest that a record gets on its way, as a multiple of what it weighs at the source.
    pub(crate) expansion: f64,
    pub(crate) entry_bytes: u64,
    edges: Vec<Arc<dyn AnyEdge>>,
    abort: Signal,
    metrics: Vec<Arc<StageMetrics>>,
    accounts: Arc<Accounts>,
    dead: Arc<DeadLetters>,
    edge_records: u32,
    edge_bytes: u64,
    ordered: bool,
    run_bytes: u64,
}

impl Assembly {
    /// What the workers of stage `index` share.
    pub(crate) fn shared(&self, index: usize) -> Arc<StageShared> {
        let info = &self.infos[index];
        Arc::new(StageShared {
            metrics: self.metrics[index].clone(),
            accounts: self.accounts.clone(),
            dead: self.dead.clone(),
            abort: self.abort.clone(),
            on_error: info.on_error,
            model: info.model.clone(),
        })
    }

    /// The edge into stage `index`.
    pub(crate) fn edge_into<T: Send + 'static>(&mut self, index: usize) -> Arc<Edge<Envelope<T>>> {
        let info = &self.infos[index];
        let batch = info.batch.map_or(0, |(_, most)| most);
        let room = u32::try_from(batch.saturating_mul(info.replicas + 1)).unwrap_or(u32::MAX);
        let limits = Limits { records: self.edge_records.max(room), bytes: self.edge_bytes };
        let options =
            EdgeOptions::new(limits).producers(self.infos[index - 1].replicas).consumers(info.replicas).keyed(self.ordered && info.keyed && info.replicas > 1);
        let edge = Edge::new(options);
        self.edges.push(edge.clone());
        edge
    }

    /// The most bytes of one run of stage `index`.
    pub(crate) fn run_bytes(&self, index: usize) -> u64 {
        self.infos[index].memory.unwrap_or(self.run_bytes)
    }
}

/// Every reason why the description cannot work.
fn problems(stages: &[StageInfo], options: &Options) -> Vec<String> {
    let mut problems = Vec::new();
    let mut names = HashSet::new();
    for stage in stages {
        if !names.insert(&stage.name) {
            problems.push(format!("two stages are called `{}`", stage.name));
        }
        if let Some((fewest, most)) = stage.batch {
            if most == 0 || fewest > most {
                problems.push(format!("stage `{}` has an empty range of batch sizes", stage.name));
            }
            if let Some(records) = options.edge_records {
                let needed = most.saturating_mul(stage.replicas + 1);
                if (records as usize) < needed {
                    problems.push(format!(
                        "stage `{}` needs an edge of {needed} records for batches of {most} in {} replicas, it gets {records}",
                        stage.name, stage.replicas
                    ));
                }
            }
        }
    }
    if options.memory_budget == Some(0) {
        problems.push("the memory budget is 0".to_owned());
    }
    problems
}

pub(super) fn start(pipeline: Pipeline) -> Result<Handle, PipelineError> {
    let Pipeline { stages: infos, connect, options } = pipeline;
    let problems = problems(&infos, &options);
    if !problems.is_empty() {
        return Err(PipelineError::Invalid(problems));
    }
    panics::warn_if_aborting();

    let budget = options.memory_budget.unwrap_or(u64::MAX);
    let (entry_bytes, run_bytes) = divide(budget, &infos);
    let (stop, abort) = (Switch::new(), Switch::new());
    let accounts = Accounts::new(Limits { records: u32::MAX, bytes: entry_bytes }, options.observer);
    let source_name = infos.first().map_or_else(|| "source".into(), |info| info.name.clone());
    let dead = Arc::new(DeadLetters::new(source_name, options.dead_letters));
    let metrics: Vec<_> = infos.iter().map(|info| Arc::new(StageMetrics::new(info.name.clone(), info.replicas))).collect();
    let mut growth = 1.0;
    let expansion = infos.iter().fold(1.0, |peak: f64, info| {
        growth *= info.expansion;
        peak.max(growth)
    });

    let mut assembly = Assembly {
        stages: Vec::new(),
        stop: stop.signal(),
        expansion,
        entry_bytes,
        edges: Vec::new(),
        abort: abort.signal(),
        metrics: metrics.clone(),
        accounts: accounts.clone(),
        dead: dead.clone(),
        edge_records: options.edge_records.unwrap_or(EDGE_RECORDS),
        edge_bytes: EDGE_BYTES.min(entry_bytes),
        ordered: options.ordered,
        run_bytes,
        infos,
    };
    connect(&mut assembly);
    let Assembly { mut stages, mut edges, infos, .. } = assembly;
    // They were connected from the sink on.
    stages.reverse();
    edges.reverse();

    let started = Instant::now();
    let plumbing = Arc::new(Plumbing { edges, stop, abort, accounts: accounts.clone(), threads: AtomicUsize::new(0) });
    let host = Host::start(stages, plumbing.clone(), options.supervision)?;
    let into = infos.iter().skip(1).map(|info| info.name.to_string()).collect();
    Ok(Handle::new(host, plumbing, metrics, into, dead, started, options.on_drop))
}

/// How the budget is shared: bytes for records on their way, and bytes for each run of a model.
fn divide(budget: u64, infos: &[StageInfo]) -> (u64, u64) {
    if budget == u64::MAX {
        return (u64::MAX, u64::MAX);
    }
    let declared: u64 = infos.iter().filter_map(|info| Some(info.memory? * info.replicas as u64)).sum();
    let undeclared: usize = infos.iter().filter(|info| info.runs_model() && info.memory.is_none()).map(|info| info.replicas).sum();
    let left = budget.saturating_sub(declared).max(1);
    if undeclared == 0 {
        return (left, u64::MAX);
    }
    let runs = left / 2;
    (left - runs, (runs / undeclared as u64).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(replicas: usize, model: bool, memory: Option<u64>) -> StageInfo {
        StageInfo {
            name: "s".into(),
            replicas,
            batch: None,
            expansion: 1.0,
            keyed: false,
            on_error: OnError::Skip,
            model: model.then(|| Arc::new(ModelId::new("m", "1"))),
            memory,
        }
    }

    #[test]
    fn the_parts_of_the_budget_add_up() {
        assert_eq!(divide(100, &[info(1, false, None)]), (100, u64::MAX));
        assert_eq!(divide(100, &[info(2, true, None)]), (50, 25));
        assert_eq!(divide(100, &[info(2, true, Some(10)), info(1, true, None)]), (40, 40));
    }
}
