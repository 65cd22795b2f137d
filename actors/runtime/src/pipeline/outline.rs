//! What a pipeline is made of and what it may hold, before it runs.

use std::sync::Arc;

use millstream_edge::Limits;

use super::{
    Options,
    assembly::{Budget, describe, problems},
    graph::{Node, Wiring},
};
use crate::{error::PipelineError, infer::ModelId};

/// A pipeline before it runs.
///
/// ```
/// use millstream_runtime::{Pipeline, collect, from_iter};
///
/// let (sink, _) = collect();
/// let pipeline = Pipeline::from(from_iter(0..9)).map("square", |x| x * x).sink(sink).edge_records(64).memory_budget(1 << 20);
/// let outline = pipeline.outline()?;
/// assert_eq!(outline.record_bytes, Some(1 << 20));
/// assert_eq!(outline.stages[1].edge.map(|edge| edge.records), Some(64));
/// # Ok::<(), millstream_runtime::PipelineError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outline {
    /// The stages, from sources to sinks.
    pub stages: Vec<StageOutline>,
    /// The most bytes that records may hold on their way, shadow copies left out; `None` without a budget.
    pub record_bytes: Option<u64>,
    /// The most bytes that shadow copies may hold.
    pub shadow_bytes: u64,
}

/// A stage before it runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StageOutline {
    /// Its name.
    pub name: String,
    /// The stages that it takes from, by their places; none for a source.
    pub takes_from: Vec<usize>,
    /// How many threads run it; the most, where they follow the load.
    pub replicas: usize,
    /// The fewest.
    pub fewest: usize,
    /// What may wait on the edge into it; `None` for a source.
    pub edge: Option<Limits>,
    /// Fewest and most items of a batch, for a stage that batches.
    pub batch: Option<(usize, usize)>,
    /// The model, for a stage that runs one.
    pub model: Option<ModelId>,
    /// The most bytes of one run of its model beyond the weights; `None` without a limit.
    pub run_bytes: Option<u64>,
    /// The most bytes of the states of its sequences; `None` without a limit, or without sequences.
    pub state_bytes: Option<u64>,
    /// The largest that a record which comes to it gets from there on, with all copies, as a multiple of what it weighs
    /// there.
    pub growth: f64,
}

pub(super) fn of(sinks: &[Arc<Node>], options: &Options) -> Result<Outline, PipelineError> {
    let wiring = Wiring::of(sinks);
    let infos = describe(&wiring);
    let problems = problems(&wiring, &infos, options);
    if !problems.is_empty() {
        return Err(PipelineError::Invalid(problems));
    }
    let budget = Budget::of(&wiring, &infos, options);
    let limited = |bytes: u64| (bytes != u64::MAX).then_some(bytes);
    let stages = infos.iter().zip(&wiring.before).zip(&wiring.peaks).map(|((info, before), growth)| StageOutline {
        name: info.name.to_string(),
        takes_from: before.clone(),
        replicas: info.replicas,
        fewest: info.fewest,
        edge: (!before.is_empty()).then(|| info.edge_limits(budget.edge_records, budget.edge_bytes)),
        batch: info.batch,
        model: info.model.as_deref().cloned(),
        run_bytes: info.memory.or(limited(budget.run_bytes)).filter(|_| info.runs_model()),
        state_bytes: info.remembers.flatten(),
        growth: *growth,
    });
    Ok(Outline { stages: stages.collect(), record_bytes: limited(budget.entry_bytes), shadow_bytes: budget.shadow_bytes })
}
