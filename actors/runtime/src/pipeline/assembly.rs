//! Turns a description into edges, stages and a control plane.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::{Duration, Instant},
};

use millstream_edge::{Edge, EdgeOptions, Limits, MAX_CHUNK};

use super::{
    Handle, Options, Order, Pipeline,
    graph::{Fan, Way, Wiring},
};
use crate::{
    checkpoint::{CheckpointOptions, Checkpoints},
    dead_letter::DeadLetters,
    delivery::Acks,
    envelope::Envelope,
    error::{PipelineError, StageError},
    infer::ModelId,
    metrics::StageMetrics,
    panics,
    sequence::{Door, Sequence},
    signal::{Signal, Switch},
    source::Committer,
    spans::{Numbers, StageSpans, Tracer},
    stage::{Admission, OnError, Orders, StageOptions, StageShared},
    supervise::{AnyEdge, Exceeded, Groups, Host, Mode, Plumbing},
    ticket::Accounts,
    time::Clock,
};

/// Records on an edge, unless something asks for more.
const EDGE_RECORDS: u32 = 1024;
/// Bytes on an edge, unless the budget is smaller.
const EDGE_BYTES: u64 = 64 << 20;
/// Shards on the edge into a stage whose replicas come and go: as many for each of one, two, three or four ...
const SHARDS: usize = 12;
/// ... and at least so many for each of more.
const SHARDS_EACH: usize = 3;
/// Shadow copies get this part of what is for records.
const SHADOW_SHARE: u64 = 4;

/// What the description of a stage says without its types.
#[derive(Clone, Debug)]
pub(crate) struct StageInfo {
    pub(crate) name: Arc<str>,
    /// The name was given to this very stage: no other may have it. (A second sink of a kind is numbered instead.)
    pub(crate) named: bool,
    /// The most.
    pub(crate) replicas: usize,
    pub(crate) fewest: usize,
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
    /// For a stage that remembers sequences: the most bytes of their states, if that is said.
    pub(crate) remembers: Option<Option<u64>>,
    /// Each replica takes from a lane of its own, where it can be woken.
    pub(crate) own_lanes: bool,
    /// Watermarks begin here.
    pub(crate) keeps_time: bool,
    /// Records of their own begin here.
    pub(crate) bears: bool,
    /// What is wrong with its description.
    pub(crate) problem: Option<&'static str>,
    /// Why no checkpoint could hold what it does.
    pub(crate) unstored: Option<&'static str>,
}

impl StageInfo {
    /// A stage of one replica that does nothing special.
    pub(crate) fn new(name: impl Into<Arc<str>>, keyed: bool) -> Self {
        StageInfo {
            name: name.into(),
            named: true,
            replicas: 1,
            fewest: 1,
            batch: None,
            expansion: 1.0,
            keyed,
            on_error: OnError::Skip,
            model: None,
            memory: None,
            remembers: None,
            own_lanes: false,
            keeps_time: false,
            bears: false,
            problem: None,
            unstored: None,
        }
    }

    /// With what the options of a stage say.
    pub(crate) fn with<T, U>(mut self, options: &StageOptions<T, U>) -> Self {
        self.replicas = options.replicas;
        self.fewest = options.fewest;
        self.expansion = options.expansion;
        self.on_error = options.on_error;
        self
    }

    /// What the edge into the stage holds: room for the batches of all replicas, and one in the making.
    pub(super) fn edge_limits(&self, records: u32, bytes: u64) -> Limits {
        let batch = self.batch.map_or(0, |(_, most)| most);
        let room = u32::try_from(batch.saturating_mul(self.replicas + 1)).unwrap_or(u32::MAX);
        Limits { records: records.max(room), bytes }
    }

    /// Whether its replicas come and go.
    fn varies(&self) -> bool {
        self.fewest < self.replicas
    }

    pub(super) fn runs_model(&self) -> bool {
        self.model.is_some()
    }
}

/// What the stages are made with.
pub(crate) struct Assembly {
    infos: Vec<StageInfo>,
    wiring: Wiring,
    edges: Vec<(usize, Arc<dyn AnyEdge>)>,
    stop: Signal,
    abort: Signal,
    metrics: Vec<Arc<StageMetrics>>,
    accounts: Arc<Accounts>,
    dead: Arc<DeadLetters>,
    entry_bytes: u64,
    edge_records: u32,
    edge_bytes: u64,
    acks: Vec<Option<Arc<Acks>>>,
    clock: Arc<dyn Clock>,
    commit_every: Duration,
    order: Order,
    keeps_time: bool,
    doors: Vec<(Arc<dyn AnyEdge>, Arc<AtomicBool>)>,
    run_bytes: u64,
    checkpoints: Option<Arc<Checkpoints>>,
    tracer: Option<(Arc<dyn Tracer>, Arc<Numbers>)>,
    /// What was found while stages were made.
    problems: Vec<String>,
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
            clock: self.clock.clone(),
            checkpoints: self.checkpoints.clone(),
            stop: self.stop.clone(),
            spans: self.tracer.as_ref().map(|(tracer, numbers)| StageSpans::new(tracer.clone(), numbers.clone(), info.name.clone())),
            orders: Orders::new(info.replicas),
        })
    }

    /// The edge into stage `index`.
    pub(crate) fn edge_into<T: Send + 'static>(&mut self, index: usize) -> Arc<Edge<Envelope<T>>> {
        let info = &self.infos[index];
        let limits = info.edge_limits(self.edge_records, self.edge_bytes);
        // Watermarks and barriers need a lane for each consumer, and windows all records of a key.
        let keyed = self.keeps_time
            || info.own_lanes
            || self.checkpoints.is_some()
            || match self.order {
                Order::None => info.bears,
                Order::PerKey => info.keyed,
                Order::Total { .. } => true,
            };
        let producers = self.wiring.before[index].iter().map(|before| self.infos[*before].replicas).sum();
        let mut options = EdgeOptions::new(limits).producers(producers).consumers(info.replicas).keyed(info.replicas > 1 && keyed);
        if info.varies() {
            options = options.shards(SHARDS.max(info.replicas * SHARDS_EACH), info.fewest);
        }
        let edge = Edge::new(options);
        self.edges.push((index, edge.clone()));
        edge
    }

    /// The door before the sink that takes from this edge, if there is to be one.
    pub(crate) fn door<T: Send + 'static>(&mut self, inlet: &Arc<Edge<Envelope<T>>>) -> Option<Door<T>> {
        let door = Door::new(self.accounts.sequence.clone()?);
        self.doors.push((inlet.clone(), door.rung()));
        Some(door)
    }

    /// Says that the replicas of stage `index` take part in checkpoints. For a sink, with the edge that it takes from.
    pub(crate) fn takes_part(&self, index: usize, sink: Option<Arc<dyn AnyEdge>>) {
        if let Some(checkpoints) = &self.checkpoints {
            let info = &self.infos[index];
            checkpoints.expect(&info.name, info.replicas, self.wiring.before[index].is_empty(), sink);
        }
    }

    /// What a source says of its position before it has begun, where there are checkpoints.
    pub(crate) fn check_position(&mut self, index: usize, position: impl FnOnce() -> Result<Option<Vec<u8>>, StageError>) {
        if self.checkpoints.is_some() && !matches!(panics::guard(position), Ok(Ok(Some(_)))) {
            self.problems.push(format!("source `{}` does not tell positions, checkpoints need them", self.infos[index].name));
        }
    }

    /// The most bytes of one run of stage `index`.
    pub(crate) fn run_bytes(&self, index: usize) -> u64 {
        self.infos[index].memory.unwrap_or(self.run_bytes)
    }

    /// On what terms the source at `index` lets records in. Sources ask in the order of their numbers.
    pub(crate) fn admission(&mut self, index: usize, committer: Result<Option<Box<dyn Committer>>, StageError>) -> Admission {
        self.acks.push(matches!(committer, Ok(Some(_))).then(Acks::new));
        let number = self.wiring.before[..index].iter().filter(|before| before.is_empty()).count() as u32;
        Admission { number, stop: self.stop.clone(), expansion: self.wiring.peaks[index], budget: self.entry_bytes, committer, commit_every: self.commit_every }
    }

    /// The largest that a record gets behind a way out of stage `index`, as a multiple of what it weighs there.
    pub(crate) fn peak_behind(&self, index: usize, way: usize) -> f64 {
        self.wiring.behind[index][way].map_or(1.0, |behind| self.wiring.peaks[behind])
    }
}

/// Every reason why the description cannot work.
pub(super) fn problems(wiring: &Wiring, infos: &[StageInfo], options: &Options) -> Vec<String> {
    let mut problems = Vec::new();
    let mut names = HashSet::new();
    for (index, stage) in infos.iter().enumerate() {
        if !names.insert(&stage.name) {
            problems.push(format!("two stages are called `{}`", stage.name));
        }
        for (way, behind) in wiring.behind[index].iter().enumerate() {
            if behind.is_none() {
                problems.push(format!("way {way} out of stage `{}` leads to no sink of this pipeline", stage.name));
            }
        }
        if stage.varies() {
            let why = [
                (options.checkpoints.is_some(), "checkpoints need a number"),
                (infos.iter().any(|info| info.keeps_time), "event time needs a number"),
                (stage.bears, "windows need a number"),
                (stage.remembers.is_some(), "states of sequences need a number"),
            ];
            for (_, why) in why.iter().filter(|(holds, _)| *holds) {
                problems.push(format!("stage `{}` has a range of replicas, {why}", stage.name));
            }
        }
        if let Some(problem) = stage.problem {
            problems.push(format!("stage `{}` has {problem}", stage.name));
        }
        if options.checkpoints.is_some() {
            if let Some(unstored) = stage.unstored {
                problems.push(format!("stage `{}` {unstored}, checkpoints do not hold that", stage.name));
            }
            if wiring.behind[index].is_empty() && stage.replicas > 1 {
                problems.push(format!("sink `{}` has {} replicas, checkpoints need one", stage.name, stage.replicas));
            }
        }
        if let Order::Total { window } = options.order {
            if wiring.behind[index].is_empty() && stage.replicas > 1 {
                problems.push(format!("sink `{}` has {} replicas, total order needs one", stage.name, stage.replicas));
            }
            if stage.bears {
                problems.push(format!("results of stage `{}` are new records, which have no place in a total order", stage.name));
            }
            let most = stage.batch.map_or(0, |(_, most)| most).max(MAX_CHUNK);
            if (window as usize) < most {
                problems.push(format!("the window of total order is {window}, stage `{}` needs {most}", stage.name));
            }
        }
        if let Some(bytes) = stage.remembers {
            if options.order == Order::None {
                problems.push(format!("stage `{}` has sequences, whose order an unordered pipeline does not keep", stage.name));
            }
            if bytes.is_none() && options.memory_budget.is_some() {
                problems.push(format!("stage `{}` holds states without a limit in bytes, a memory budget needs one", stage.name));
            }
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
    grouping(wiring, infos, options, &mut problems);
    if options.memory_budget == Some(0) {
        problems.push("the memory budget is 0".to_owned());
    }
    problems
}

/// What is wrong with the groups of stages.
fn grouping(wiring: &Wiring, infos: &[StageInfo], options: &Options, problems: &mut Vec<String>) {
    let mut group_of: HashMap<&str, &str> = HashMap::new();
    for (group, stages, _) in &options.groups {
        for stage in stages {
            match infos.iter().position(|info| *info.name == **stage) {
                None => problems.push(format!("group `{group}` has a stage `{stage}`, the pipeline has none")),
                Some(index) if wiring.before[index].is_empty() => {
                    problems.push(format!("group `{group}` has the source `{stage}`, which cannot be restarted"));
                }
                Some(_) => {}
            }
            if let Some(other) = group_of.insert(stage, group) {
                problems.push(format!("stage `{stage}` is in the groups `{other}` and `{group}`"));
            }
        }
    }
    let quarantines = options.groups.iter().map(|(_, _, rules)| rules).chain([&options.supervision]).any(|rules| rules.exceeded == Exceeded::Quarantine);
    if options.checkpoints.is_some() && quarantines {
        problems.push("stages may go into quarantine, checkpoints do not hold what is in the dead letters".to_owned());
    }
}

/// The stages' descriptions. Sources and sinks that were not given a name of their own are numbered where it is taken.
pub(super) fn describe(wiring: &Wiring) -> Vec<StageInfo> {
    let mut infos: Vec<_> = wiring.nodes.iter().map(|node| node.info.clone()).collect();
    let mut taken: HashSet<Arc<str>> = infos.iter().filter(|info| info.named).map(|info| info.name.clone()).collect();
    for info in infos.iter_mut().filter(|info| !info.named) {
        let plain = info.name.clone();
        let mut number = 2;
        while !taken.insert(info.name.clone()) {
            info.name = format!("{plain}-{number}").into();
            number += 1;
        }
    }
    infos
}

pub(super) fn start(pipeline: Pipeline) -> Result<Handle, PipelineError> {
    let Pipeline { sinks, mut options } = pipeline;
    let wiring = Wiring::of(&sinks);
    let infos = describe(&wiring);
    let problems = problems(&wiring, &infos, &options);
    if !problems.is_empty() {
        return Err(PipelineError::Invalid(problems));
    }
    panics::warn_if_aborting();
    let (checkpoints, store) = match options.checkpoints.take() {
        Some(CheckpointOptions { mut store, every }) => {
            let latest = panics::guard(|| store.latest()).unwrap_or_else(|fault| Err(StageError::fatal(fault.to_string())));
            let latest = latest.map_err(|error| PipelineError::Invalid(vec![format!("the store of checkpoints: {error}")]))?;
            (Some(Checkpoints::new(latest)), Some((store, every)))
        }
        None => (None, None),
    };

    let Budget { entry_bytes, shadow_bytes, run_bytes, edge_bytes, edge_records } = Budget::of(&wiring, &infos, &options);
    let (stop, abort) = (Switch::new(), Switch::new());
    let (entry, shadow) = (Limits { records: u32::MAX, bytes: entry_bytes }, Limits { records: u32::MAX, bytes: shadow_bytes });
    let keeps_time = infos.iter().any(|info| info.keeps_time);
    let sequence = match options.order {
        Order::Total { window } => Some(Sequence::new(window)),
        Order::None | Order::PerKey => None,
    };
    let groups = groups(&infos, &wiring, &options);
    let accounts = Accounts::new(entry, shadow, sequence.clone(), options.observer);
    let sources = infos.iter().zip(&wiring.before).filter(|(_, before)| before.is_empty()).map(|(info, _)| info.name.clone());
    let dead = Arc::new(DeadLetters::new(sources.collect(), options.dead_letters));
    let metrics: Vec<_> = infos.iter().map(|info| Arc::new(StageMetrics::new(info.name.clone(), (info.fewest, info.replicas)))).collect();

    let mut assembly = Assembly {
        infos,
        wiring,
        edges: Vec::new(),
        stop: stop.signal(),
        abort: abort.signal(),
        metrics: metrics.clone(),
        accounts: accounts.clone(),
        dead: dead.clone(),
        entry_bytes,
        edge_records,
        edge_bytes,
        acks: Vec::new(),
        clock: options.clock.clone(),
        commit_every: options.commit_every,
        order: options.order,
        keeps_time,
        doors: Vec::new(),
        run_bytes,
        checkpoints: checkpoints.clone(),
        tracer: options.tracer.map(|tracer| (tracer, Arc::new(Numbers::new()))),
        problems: Vec::new(),
    };
    let nodes = assembly.wiring.nodes.clone();
    // All edges first: a stage is made with those that it sends on.
    let builds: Vec<_> = nodes.iter().enumerate().filter_map(|(index, node)| Some(node.connect()?(&mut assembly, index))).collect();
    let stages = builds.into_iter().map(|build| build(&mut assembly)).collect();
    let Assembly { edges, infos, doors, acks, mut problems, .. } = assembly;
    if checkpoints.is_some() && acks.iter().any(Option::is_some) {
        problems.push("a source that commits offsets of its own does not go together with checkpoints".to_owned());
    }
    problems.extend(checkpoints.as_ref().and_then(|checkpoints| checkpoints.mismatch()));
    if !problems.is_empty() {
        return Err(PipelineError::Invalid(problems));
    }
    if acks.iter().any(Option::is_some) {
        if let Some(window) = infos.iter().find(|info| info.bears) {
            let name = &window.name;
            return Err(PipelineError::Invalid(vec![format!("what stage `{name}` holds does not outlive the process, and a source counts on that")]));
        }
        accounts.acknowledge(acks);
    }
    if let Some(sequence) = sequence {
        sequence.watch(doors);
    }
    for (_, edge) in edges.iter().filter(|_| !options.clock.ticks()) {
        let edge = Arc::downgrade(edge);
        options.clock.watch(Box::new(move || edge.upgrade().into_iter().for_each(|edge| edge.wake())));
    }
    let (into, edges) = edges.into_iter().map(|(index, edge)| (infos[index].name.to_string(), edge)).unzip();

    let started = Instant::now();
    let plumbing = Arc::new(Plumbing { edges, stop, abort, accounts: accounts.clone(), checkpoints, threads: AtomicUsize::new(0) });
    let host = Host::start(stages, plumbing.clone(), groups, options.scaling)?;
    if let (Some(checkpoints), Some((store, every))) = (&plumbing.checkpoints, store)
        && let Err(error) = checkpoints.start(store, every)
    {
        host.stopper().stop(Mode::Abort, None);
        return Err(error.into());
    }
    Ok(Handle::new(host, plumbing, metrics, into, dead, started, options.on_drop))
}

fn groups(infos: &[StageInfo], wiring: &Wiring, options: &Options) -> Groups {
    let numbers = |stages: &[String]| infos.iter().enumerate().filter(|(_, info)| stages.iter().any(|stage| **stage == *info.name)).map(|(at, _)| at).collect();
    let named: Vec<_> = options.groups.iter().map(|(_, stages, rules)| (numbers(stages), *rules)).collect();
    Groups::new(options.supervision, &named, &wiring.behind)
}

/// What the parts of a pipeline may hold.
pub(super) struct Budget {
    /// Records on their way.
    pub(super) entry_bytes: u64,
    /// Shadow copies.
    pub(super) shadow_bytes: u64,
    /// Each run of a model that declares nothing.
    pub(super) run_bytes: u64,
    /// Each edge.
    pub(super) edge_bytes: u64,
    pub(super) edge_records: u32,
}

impl Budget {
    pub(super) fn of(wiring: &Wiring, infos: &[StageInfo], options: &Options) -> Self {
        let budget = options.memory_budget.unwrap_or(u64::MAX);
        let (record_bytes, run_bytes) = divide(budget, infos);
        let shadows = wiring.nodes.iter().any(|node| matches!(node.fan(), Fan::All(ways) if ways.contains(&Way::Shadow)));
        let shadow_bytes = if shadows { record_bytes / SHADOW_SHARE } else { 0 };
        let entry_bytes = if budget == u64::MAX { u64::MAX } else { record_bytes - shadow_bytes };
        Budget { entry_bytes, shadow_bytes, run_bytes, edge_bytes: EDGE_BYTES.min(entry_bytes), edge_records: options.edge_records.unwrap_or(EDGE_RECORDS) }
    }
}

/// How the budget is shared: bytes for records on their way, and bytes for each run of a model. States of sequences come off it.
fn divide(budget: u64, infos: &[StageInfo]) -> (u64, u64) {
    if budget == u64::MAX {
        return (u64::MAX, u64::MAX);
    }
    let runs = infos.iter().filter_map(|info| Some(info.memory?.saturating_mul(info.replicas as u64)));
    let states = infos.iter().filter_map(|info| info.remembers?);
    let declared = runs.chain(states).fold(0, u64::saturating_add);
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
        let mut info = StageInfo::new("s", false);
        (info.replicas, info.memory) = (replicas, memory);
        info.model = model.then(|| Arc::new(ModelId::new("m", "1")));
        info
    }

    #[test]
    fn the_parts_of_the_budget_add_up() {
        assert_eq!(divide(100, &[info(1, false, None)]), (100, u64::MAX));
        assert_eq!(divide(100, &[info(2, true, None)]), (50, 25));
        assert_eq!(divide(100, &[info(2, true, Some(10)), info(1, true, None)]), (40, 40));
        let mut remembering = info(1, true, None);
        remembering.remembers = Some(Some(20));
        assert_eq!(divide(100, &[remembering]), (40, 40));
    }
}
