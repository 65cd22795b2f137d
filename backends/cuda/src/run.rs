//! A run of a plan on a lane: copies, launches, and the host's nodes in between.

use crate::{
    CudaError, Gpu, blas,
    body::Body,
    call::{Argument, Call, Calls, joined},
    gpu::locked,
    host::failed,
    lane::{DeviceMemory, Lane, Launch, Multiplied, Recorded, Task},
    plan::{Copy, DeviceStep, Leaving, Place, Plan, Step},
};
use millstream_engine::{Cancel, Profiler, RunError, StepRecord, Workers};
use millstream_graph::{EvalError, Node, Spec, StepCx, ValueId};
use millstream_simd::Level;
use millstream_tensor::{Tensor, TensorError, TensorView, Value};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

/// How many plans a lane keeps bound, and how many bytes of them on the host.
const BOUND: usize = 8;

/// How many bytes of plans a model keeps, and each of its lanes.
pub(crate) const KEPT_BYTES: usize = 64 << 20;

/// Drops what was used longest ago beyond a number and a number of bytes, but never the first.
pub(crate) fn keep_few<T>(kept: &mut VecDeque<T>, most: usize, most_bytes: usize, bytes: impl Fn(&T) -> usize) {
    kept.truncate(most);
    let mut sum = 0usize;
    let fit = kept.iter().take_while(|plan| {
        sum = sum.saturating_add(bytes(plan));
        sum <= most_bytes
    });
    let fit = fit.count().max(1);
    kept.truncate(fit);
}

/// What every run of a model needs.
pub(crate) struct Engine {
    pub(crate) gpu: Gpu,
    pub(crate) level: Level,
    pub(crate) workers: Arc<dyn Workers>,
    /// Products are a library's.
    pub(crate) library: bool,
    /// Bytes of plans that the model keeps, and each lane.
    pub(crate) kept_bytes: usize,
    /// Constants on the device, by body and value, and whether they are transposed: brought there when a plan first reads them.
    constants: Mutex<HashMap<(usize, ValueId, bool), Arc<DeviceMemory>>>,
    /// Lanes that nobody uses now.
    lanes: Mutex<Vec<BoundLane>>,
}

/// A lane and the plans that were bound to its memory, most recent first.
#[derive(Default)]
struct BoundLane {
    bound: VecDeque<Bound>,
    lane: Option<Lane>,
}

/// A plan with the addresses of one lane.
struct Bound {
    plan: Arc<Plan>,
    /// For each stretch of launches, the launches of each node, and what was recorded of them.
    stretches: Vec<(Vec<Vec<Task>>, Option<Recorded>)>,
    /// What the addresses point to beside the lane's arena.
    _found: Vec<DeviceMemory>,
    _constants: Vec<Arc<DeviceMemory>>,
    /// It ran to its end.
    ran: bool,
}

/// What a caller wants to see or stop.
pub(crate) struct Watch<'a, 'p> {
    pub(crate) cancel: Option<&'a Cancel>,
    pub(crate) profiler: Option<&'p mut dyn Profiler>,
    pub(crate) step: usize,
}

impl Engine {
    pub(crate) fn new(gpu: Gpu, level: Level, workers: Arc<dyn Workers>, library: bool) -> Engine {
        Engine { gpu, level, workers, library, kept_bytes: KEPT_BYTES, constants: Mutex::default(), lanes: Mutex::default() }
    }

    /// Plans that idle lanes have addresses for.
    #[cfg(test)]
    pub(crate) fn bound(&self) -> usize {
        locked(&self.lanes).iter().map(|lane| lane.bound.len()).sum()
    }

    /// Runs a plan on the values that it was made for. Gives those that leave it.
    pub(crate) fn run(&self, body: &Body, plan: &Arc<Plan>, given: &[Value], watch: &mut Watch<'_, '_>) -> Result<Vec<(ValueId, Value)>, RunError> {
        let mut taken = locked(&self.lanes).pop().unwrap_or_default();
        let result = self.run_on(&mut taken, body, plan, given, watch);
        locked(&self.lanes).push(taken);
        result
    }

    fn run_on(&self, on: &mut BoundLane, body: &Body, plan: &Arc<Plan>, given: &[Value], watch: &mut Watch<'_, '_>) -> Result<Vec<(ValueId, Value)>, RunError> {
        let BoundLane { bound, lane } = on;
        let lane = match lane {
            Some(lane) => lane,
            None => lane.insert(Lane::new(&self.gpu)?),
        };
        let moved = lane.reserve(plan.device_bytes, plan.host_bytes);
        // The device's arena may lie elsewhere although there was no memory for the host's.
        if !matches!(moved, Ok(false)) {
            bound.clear();
        }
        moved?;
        // Plans of what only a run tells are made anew for each: none is met again, and they would drive out those that are.
        let at = bound.iter().position(|b| Arc::ptr_eq(&b.plan, plan));
        let mut current = match at.and_then(|at| bound.remove(at)) {
            Some(bound) => bound,
            None => self.bind(lane, body, plan)?,
        };
        let result = self.steps(lane, &mut current, body, given, watch);
        current.ran |= result.is_ok();
        if plan.start == 0 {
            bound.push_front(current);
            keep_few(bound, BOUND, self.kept_bytes, |b| b.plan.bytes());
        }
        result
    }

    fn steps(&self, lane: &mut Lane, bound: &mut Bound, body: &Body, given: &[Value], watch: &mut Watch<'_, '_>) -> Result<Vec<(ValueId, Value)>, RunError> {
        let plan = bound.plan.clone();
        let arena = lane.host()?;
        for &(i, at, bytes) in &plan.given {
            let from = given.get(i).ok_or(TensorError::Length { needed: i + 1, found: given.len() })?.as_tensor()?.view().bytes()?;
            arena[at..at + bytes].copy_from_slice(from);
        }
        let faults = plan.faults.len() * 4;
        if faults > 0 {
            lane.clear(plan.fault_places.0, faults)?;
        }
        let mut stretch = 0;
        for step in &plan.steps {
            if watch.cancel.is_some_and(Cancel::is_cancelled) {
                return Err(RunError::Cancelled);
            }
            match step {
                Step::Upload(Copy { device, host, bytes }) => lane.upload(*device, *host, *bytes)?,
                Step::Download(Copy { device, host, bytes }) => lane.download(*host, *device, *bytes)?,
                Step::Launches(nodes) => {
                    let ran = bound.ran;
                    if let Some(launches) = bound.stretches.get_mut(stretch) {
                        launch(lane, body, nodes, launches, ran, watch)?;
                    }
                    stretch += 1;
                }
                Step::Host(step) => {
                    let Some(node) = body.graph.node(step.node) else { continue };
                    let arena = lane.host()?;
                    let start = watch.now();
                    step.run(node, (self.level, &*self.workers), arena, plan.scratch, given)?;
                    let specs: Vec<Option<Spec>> = step.inputs.iter().map(|i| i.as_ref().map(Leaving::spec)).collect();
                    let outputs: Vec<Spec> = step.outputs.iter().flatten().map(|(_, s)| *s).collect();
                    let cx = StepCx { inputs: &specs, outputs: &outputs, packed: &[], level: self.level };
                    watch.record(start, node, &format!("host {}", node.op.kernel(&cx)), &cx);
                }
            }
        }
        if faults > 0 {
            lane.download(plan.fault_places.1, plan.fault_places.0, faults)?;
        }
        self.leave(lane, &plan, body, given)
    }

    /// Waits, looks whether data were at fault, and takes what leaves the plan.
    fn leave(&self, lane: &mut Lane, plan: &Plan, body: &Body, given: &[Value]) -> Result<Vec<(ValueId, Value)>, RunError> {
        let arena = lane.host()?;
        for (i, id) in plan.faults.iter().enumerate() {
            let at = plan.fault_places.1 + 4 * i;
            if arena[at..at + 4] != [0; 4]
                && let Some(node) = body.graph.node(*id)
            {
                return Err(failed(node, &[], EvalError::Invalid("an index is out of range")));
            }
        }
        let value = |from: &Leaving| -> Result<Value, TensorError> {
            Ok(Value::Tensor(match from {
                Leaving::Arena(at, spec) => Tensor::from_view(TensorView::new(spec.dtype, &spec.layout, &arena[*at..at + spec.bytes()])?)?,
                Leaving::Given(i, spec) => {
                    let tensor = given.get(*i).ok_or(TensorError::Length { needed: i + 1, found: given.len() })?.as_tensor()?;
                    if tensor.shape() == spec.shape() { tensor.clone() } else { tensor.reshaped(spec.shape().dims())? }
                }
                Leaving::Constant(tensor) => tensor.clone(),
            }))
        };
        Ok(plan.leaving.iter().map(|(id, from)| Ok((*id, value(from)?))).collect::<Result<_, TensorError>>()?)
    }

    /// Gives a plan the addresses of a lane.
    fn bind(&self, lane: &Lane, body: &Body, plan: &Arc<Plan>) -> Result<Bound, RunError> {
        let mut found = Vec::with_capacity(plan.found.len());
        for tensor in &plan.found {
            found.push(DeviceMemory::holding(&self.gpu, tensor.view().bytes()?)?);
        }
        let mut constants = HashMap::new();
        for &(id, turned) in &plan.constants {
            constants.insert((id, turned), self.constant(body, id, turned)?);
        }
        let address = |place: &Place, offset: usize| match place {
            Place::Arena(at) => Some(lane.device().at(at + offset)),
            Place::Constant(id) => constants.get(&(*id, false)).map(|m| m.at(offset)),
            Place::Turned(id) => constants.get(&(*id, true)).map(|m| m.at(offset)),
            Place::Found(i) => found.get(*i).map(|m| m.at(offset)),
        };
        let mut stretches = Vec::new();
        for step in &plan.steps {
            let Step::Launches(nodes) = step else { continue };
            let launches = nodes.iter().map(|node| self.launches(node, &address, lane.device().at(plan.fault_places.0))).collect::<Result<_, _>>()?;
            stretches.push((launches, None));
        }
        Ok(Bound { plan: plan.clone(), stretches, _found: found, _constants: constants.into_values().collect(), ran: false })
    }

    fn launches(&self, step: &DeviceStep, address: &dyn Fn(&Place, usize) -> Option<u64>, faults: u64) -> Result<Vec<Task>, CudaError> {
        let place = |places: &[Option<Place>], i: usize, offset: usize| places.get(i).and_then(Option::as_ref).and_then(|p| address(p, offset));
        let pointer = |argument: &Argument| match argument {
            Argument::Input(i, offset) => place(&step.inputs, *i, *offset),
            Argument::Turned(i) => place(&step.inputs, *i, 0),
            Argument::Output(i, offset) => place(&step.outputs, *i, *offset),
            Argument::Scratch(i, offset) => step.scratch.get(*i).and_then(|p| address(p, *offset)),
            Argument::Workspace => step.workspace.as_ref().and_then(|p| address(p, 0)),
            Argument::Fault => step.fault.map(|i| faults + 4 * i as u64),
            _ => None,
        };
        tasks(&self.gpu, &step.calls, pointer)
    }

    /// A constant's memory on the device.
    fn constant(&self, body: &Body, id: ValueId, turned: bool) -> Result<Arc<DeviceMemory>, RunError> {
        let mut constants = locked(&self.constants);
        if let Some(memory) = constants.get(&(body.id, id, turned)) {
            return Ok(memory.clone());
        }
        let weight = body.graph.value(id).constant().ok_or(TensorError::Kind { wanted: "a constant", found: "none" })?.to_tensor()?;
        let bytes = weight.view().bytes()?;
        let memory = Arc::new(match (turned, weight.shape().dims()) {
            (true, &[rows, columns]) => {
                let across: Vec<u8> = (0..columns).flat_map(|c| (0..rows).map(move |r| bytes[r * columns + c])).collect();
                DeviceMemory::holding(&self.gpu, &across)?
            }
            _ => DeviceMemory::holding(&self.gpu, bytes)?,
        });
        constants.insert((body.id, id, turned), memory.clone());
        Ok(memory)
    }
}

/// Sends a stretch of launches: as the graph that was recorded of them, if the plan has run on this lane before. With a
/// profiler, node by node, waiting for each.
fn launch(
    lane: &mut Lane,
    body: &Body,
    nodes: &[DeviceStep],
    (launches, recorded): &mut (Vec<Vec<Task>>, Option<Recorded>),
    ran: bool,
    watch: &mut Watch<'_, '_>,
) -> Result<(), RunError> {
    if watch.profiler.is_some() {
        for (step, launches) in nodes.iter().zip(launches) {
            lane.wait()?;
            let start = watch.now();
            launches.iter_mut().try_for_each(|one| lane.launch(one))?;
            lane.wait()?;
            let names: Vec<String> = launches.iter().map(Task::name).collect();
            if let Some(node) = body.graph.node(step.node) {
                let cx = StepCx { inputs: &step.input_specs, outputs: &step.output_specs, packed: &[], level: Level::scalar() };
                watch.record(start, node, &format!("cuda {}", joined(&names)), &cx);
            }
        }
        return Ok(());
    }
    // The first run loads what is loaded when it is first used, which a recording may not.
    if ran && recorded.is_none() {
        *recorded = Some(lane.record(launches.iter_mut().flatten())?);
    }
    match recorded {
        Some(recorded) => lane.replay(recorded)?,
        None => launches.iter_mut().flatten().try_for_each(|one| lane.launch(one))?,
    }
    Ok(())
}

impl Watch<'_, '_> {
    fn now(&self) -> Option<Duration> {
        self.profiler.as_ref().map(|p| p.clock().now())
    }

    /// Tells the profiler of a node that began at `start`.
    fn record(&mut self, start: Option<Duration>, node: &Node, kernel: &str, cx: &StepCx<'_>) {
        if let (Some(p), Some(start)) = (&mut self.profiler, start) {
            let time = p.clock().now().saturating_sub(start);
            p.step(StepRecord { index: self.step, path: &node.path, op: &node.op_name, kernel, cost: node.op.cost(cx), time });
        }
        self.step += 1;
    }
}

/// What goes to a stream for these calls, with what their pointers stand for.
pub(crate) fn tasks(gpu: &Gpu, calls: &Calls, pointer: impl Fn(&Argument) -> Option<u64>) -> Result<Vec<Task>, CudaError> {
    let kernel = |call: &Call| -> Result<Launch, CudaError> {
        let arguments: Option<Vec<_>> = call.arguments.iter().map(|a| a.bound(&pointer)).collect();
        let Some(arguments) = arguments else {
            let (kernel, found) = (call.kernel.clone(), format!("{:?}", call.arguments));
            return Err(CudaError::Arguments { kernel, wanted: "memory behind each pointer".into(), found });
        };
        Launch::new(gpu, &call.kernel, call.grid, call.shared, &arguments)
    };
    let mut launches = Vec::with_capacity(calls.calls.len());
    for call in &calls.calls {
        let plain = kernel(call)?;
        // What the library has no algorithm for is our kernel's.
        launches.push(match &call.product {
            Some(product) => match blas::Bound::new(gpu, product, &pointer)? {
                Some(bound) => Task::Product(Box::new(Multiplied::new(bound, product.then.as_deref().map(kernel).transpose()?, plain))),
                None => Task::Kernel(plain),
            },
            None => Task::Kernel(plain),
        });
    }
    Ok(launches)
}
