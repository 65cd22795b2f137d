//! A plan: what a stretch of a graph does for inputs of known shapes, as plain data. Launches with offsets into an arena of the
//! device, copies, and the nodes that the host runs with offsets into an arena of its own.

use crate::{
    blas::WORKSPACE,
    body::Body,
    call::{Argument, Call, Calls},
    host::HostStep,
    select::select,
};
use millstream_compile::planner::{Buffer, place};
use millstream_engine::{RunError, ShapeError, describe};
use millstream_graph::{FOLD_LIMIT, Fact, InferError, Node, NodeId, Spec, StepCx, ValueId, infer_node};
use millstream_simd::Level;
use millstream_tensor::{DType, Tensor, TensorError, align_up};
use std::collections::HashMap;

/// Bytes of one integer of faults.
const FAULT: usize = 4;

/// Memory of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// By its offset in the arena, once buffers are placed; before that, the buffer's number.
    Arena(usize),
    /// A constant of the graph.
    Constant(ValueId),
    /// A constant of the graph, a matrix of bytes, transposed.
    Turned(ValueId),
    /// A constant that inference found, by its position in [`Plan::found`].
    Found(usize),
}

/// One node's launches, with the places of what they read and write.
#[derive(Debug, Clone)]
pub(crate) struct DeviceStep {
    pub(crate) node: NodeId,
    pub(crate) calls: Calls,
    pub(crate) input_specs: Vec<Option<Spec>>,
    pub(crate) output_specs: Vec<Spec>,
    pub(crate) inputs: Vec<Option<Place>>,
    pub(crate) outputs: Vec<Option<Place>>,
    pub(crate) scratch: Vec<Place>,
    /// Memory of a library's products.
    pub(crate) workspace: Option<Place>,
    /// The position of its integer among the faults, if it can have one.
    pub(crate) fault: Option<usize>,
}

/// A copy between the arenas.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copy {
    pub(crate) device: usize,
    pub(crate) host: usize,
    pub(crate) bytes: usize,
}

/// One thing after the other.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Launches that follow each other with nothing in between: recorded as one graph.
    Launches(Vec<DeviceStep>),
    Upload(Copy),
    Download(Copy),
    Host(HostStep),
}

/// Where a value that leaves the plan is found on the host.
#[derive(Debug, Clone)]
pub(crate) enum Leaving {
    /// In the host's arena.
    Arena(usize, Spec),
    /// It is one of those that the plan was given, perhaps under another shape.
    Given(usize, Spec),
    Constant(Tensor),
}

impl Leaving {
    /// Type and shape.
    pub(crate) fn spec(&self) -> Spec {
        match self {
            Leaving::Arena(_, spec) | Leaving::Given(_, spec) => *spec,
            Leaving::Constant(tensor) => Spec::row_major(tensor.dtype(), *tensor.shape()),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// Bytes of the device's arena, and of the host's.
    pub(crate) device_bytes: usize,
    pub(crate) host_bytes: usize,
    /// The part of the host's arena that the kernels of its nodes take for scratch: an offset and its bytes.
    pub(crate) scratch: (usize, usize),
    /// What is copied into the host's arena before anything else: the position of a given value, the offset, its bytes.
    pub(crate) given: Vec<(usize, usize, usize)>,
    pub(crate) found: Vec<Tensor>,
    /// Constants of the graph that launches read, as they are or transposed.
    pub(crate) constants: Vec<(ValueId, bool)>,
    /// The nodes whose data may be at fault; their integers begin at this offset of both arenas.
    pub(crate) faults: Vec<NodeId>,
    pub(crate) fault_places: (usize, usize),
    /// Where in the body's order the plan begins and ends.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Values that somebody behind the plan's end reads.
    pub(crate) leaving: Vec<(ValueId, Leaving)>,
    /// A line for each node.
    pub(crate) lines: Vec<String>,
}

/// A value while a plan is made.
#[derive(Clone)]
struct Held {
    fact: Fact,
    spec: Spec,
    device: Option<Place>,
    host: Option<OnHost>,
}

#[derive(Clone)]
enum OnHost {
    /// A buffer of the host's arena.
    Buffer(usize),
    /// A value that the plan was given.
    Given(usize),
    Constant(Tensor),
}

/// What a plan is made for beside the graph.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) level: Level,
    pub(crate) workers: usize,
    /// Whether a library does products.
    pub(crate) library: bool,
    /// Whether somebody reads the lines.
    pub(crate) lines: bool,
}

/// Makes a plan.
struct Planner<'a> {
    body: &'a Body,
    terms: Terms,
    plan: Plan,
    held: HashMap<ValueId, Held>,
    /// Live ranges in nodes: 0 is before them.
    device: Vec<Buffer>,
    host: Vec<Buffer>,
    now: usize,
    host_scratch: usize,
}

impl Plan {
    /// A plan from position `start` of the body's order, as far as shapes are known. `given` are facts of the values that are
    /// there, tensors all.
    pub(crate) fn new(body: &Body, terms: Terms, start: usize, given: &[(ValueId, Fact)]) -> Result<Plan, RunError> {
        let mut planner =
            Planner { body, terms, plan: Plan { start, ..Plan::default() }, held: HashMap::new(), device: vec![], host: vec![], now: 0, host_scratch: 0 };
        for (i, (value, fact)) in given.iter().enumerate() {
            let Some(shape) = fact.shape() else { continue };
            let spec = Spec::row_major(fact.dtype, shape?);
            planner.held.insert(*value, Held { fact: fact.clone(), spec, device: None, host: Some(OnHost::Given(i)) });
        }
        for (value, info) in body.graph.values() {
            let Some(weight) = info.constant() else { continue };
            if weight.dtype() == DType::String || !body.is_read_from(start, value) {
                continue;
            }
            let spec = Spec::row_major(weight.dtype(), *weight.shape());
            let fact = if weight.shape().elements() <= FOLD_LIMIT { Fact::constant(weight.clone()) } else { Fact::concrete(weight.dtype(), weight.shape()) };
            planner.held.insert(value, Held { fact, spec, device: Some(Place::Constant(value)), host: None });
        }
        let mut position = start;
        while let Some(&id) = body.order.get(position) {
            if let Some(node) = body.graph.node(id)
                && !planner.node(id, node)?
            {
                break;
            }
            position += 1;
        }
        planner.finish(position)
    }
}

impl Planner<'_> {
    /// Adds a node; false if the plan ends before it, because not enough is known.
    fn node(&mut self, id: NodeId, node: &Node) -> Result<bool, RunError> {
        self.now += 1;
        let Some(made) = self.infer(node)? else { return Ok(false) };
        let mut specs = Vec::with_capacity(made.len());
        for fact in &made {
            match fact.shape() {
                Some(Ok(shape)) if fact.dtype != DType::String => specs.push(Spec::row_major(fact.dtype, shape)),
                _ => return Ok(false),
            }
        }
        let by = if made.iter().zip(&node.outputs).all(|(f, v)| v.is_none() || f.as_const().is_some()) {
            self.known(node, &made, &specs)?;
            "nobody (it is known)".to_owned()
        } else if node.op.is_alias() {
            self.alias(node, &made, &specs)
        } else {
            let facts: Vec<Option<&Fact>> = node.inputs.iter().map(|v| v.and_then(|v| Some(&self.held.get(&v)?.fact))).collect();
            let weight = |i: usize| node.input(i).is_some_and(|v| self.body.graph.value(v).constant().is_some());
            match select(node, &facts, &specs, &weight) {
                Some(calls) => self.launches(id, node, calls, &specs)?,
                None => self.on_host(id, node, &specs)?,
            }
        };
        for ((value, fact), spec) in node.outputs.iter().zip(made).zip(&specs) {
            if let Some(held) = value.and_then(|v| self.held.get_mut(&v)) {
                (held.fact, held.spec) = (fact, *spec);
            }
        }
        if self.terms.lines {
            let shape = specs.first().map_or(String::new(), |s| format!("{}[{}]", s.dtype, s.shape()));
            self.plan.lines.push(format!("{} {} -> {shape} by {by}", node.path, node.op_name));
        }
        Ok(true)
    }

    /// Facts of the outputs; `None` if something is missing to tell them.
    fn infer(&self, node: &Node) -> Result<Option<Vec<Fact>>, RunError> {
        if node.op.control().is_some() || node.inputs.iter().flatten().any(|v| !self.held.contains_key(v)) {
            return Ok(None);
        }
        let facts: Vec<Option<&Fact>> = node.inputs.iter().map(|v| v.and_then(|v| Some(&self.held.get(&v)?.fact))).collect();
        match infer_node(node, &facts) {
            Ok(made) => Ok(Some(made)),
            Err(InferError::NeedsValue(_) | InferError::NeedsDims(_)) => Ok(None),
            Err(error) => {
                let inputs = describe(node.inputs.iter().map(|v| v.and_then(|v| Some(self.held.get(&v)?.spec))));
                Err(RunError::Shape(Box::new(ShapeError { path: node.path.clone(), op: node.op_name.clone(), inputs, error })))
            }
        }
    }

    /// Outputs that inference knows.
    fn known(&mut self, node: &Node, made: &[Fact], specs: &[Spec]) -> Result<(), RunError> {
        for ((value, fact), spec) in node.outputs.iter().zip(made).zip(specs) {
            if let (Some(value), Some(weight)) = (value, fact.as_const()) {
                let host = Some(OnHost::Constant(weight.to_tensor()?));
                self.held.insert(*value, Held { fact: fact.clone(), spec: *spec, device: None, host });
            }
        }
        Ok(())
    }

    /// An output that is its input under another shape.
    fn alias(&mut self, node: &Node, made: &[Fact], specs: &[Spec]) -> String {
        if let (Some(to), Some(from), Some(fact), Some(spec)) = (node.output(0), node.input(0).and_then(|v| self.held.get(&v)), made.first(), specs.first()) {
            let mut held = Held { fact: fact.clone(), spec: *spec, ..from.clone() };
            if let Some(OnHost::Constant(t)) = &held.host {
                held.host = t.reshaped(spec.shape().dims()).ok().map(OnHost::Constant);
            }
            self.held.insert(to, held);
        }
        "nobody (the same elements)".to_owned()
    }

    /// The host's buffer into which a given value is copied at the beginning.
    fn given(&mut self, i: usize, bytes: usize) -> usize {
        if let Some((_, buffer, _)) = self.plan.given.iter().find(|(given, ..)| *given == i) {
            return *buffer;
        }
        let buffer = self.buffer_of_host(bytes, 0);
        self.plan.given.push((i, buffer, bytes));
        buffer
    }

    fn buffer_of_host(&mut self, bytes: usize, first: usize) -> usize {
        self.host.push(Buffer { bytes, first, last: self.now });
        self.host.len() - 1
    }

    fn buffer_of_device(&mut self, bytes: usize, first: usize) -> usize {
        self.device.push(Buffer { bytes, first, last: self.now });
        self.device.len() - 1
    }

    /// The place of a value on the device, which it is brought to if it is not there.
    fn on_device(&mut self, value: ValueId) -> Option<Place> {
        let held = self.held.get(&value)?.clone();
        let place = match (held.device, held.host) {
            (Some(place), _) => place,
            (None, Some(OnHost::Constant(tensor))) => {
                self.plan.found.push(tensor);
                Place::Found(self.plan.found.len() - 1)
            }
            (None, Some(OnHost::Given(i))) => {
                // Inputs go up before everything else, so that launches stay together.
                let bytes = held.spec.bytes();
                let (host, device) = (self.given(i, bytes), self.buffer_of_device(bytes, 0));
                let inputs = self.plan.steps.iter().take_while(|s| matches!(s, Step::Upload(_))).count();
                self.plan.steps.insert(inputs, Step::Upload(Copy { device, host, bytes }));
                Place::Arena(device)
            }
            (None, Some(OnHost::Buffer(host))) => {
                let bytes = held.spec.bytes();
                let device = self.buffer_of_device(bytes, self.now);
                self.host[host].last = self.now;
                self.plan.steps.push(Step::Upload(Copy { device, host, bytes }));
                Place::Arena(device)
            }
            (None, None) => return None,
        };
        match place {
            Place::Arena(buffer) => self.device[buffer].last = self.now,
            Place::Constant(id) => self.constant(id, false),
            _ => {}
        }
        self.held.get_mut(&value)?.device = Some(place);
        Some(place)
    }

    fn constant(&mut self, id: ValueId, turned: bool) {
        if !self.plan.constants.contains(&(id, turned)) {
            self.plan.constants.push((id, turned));
        }
    }

    /// A value where the host finds it, which it is fetched to if it is not there.
    fn fetched(&mut self, value: ValueId) -> Result<Option<OnHost>, RunError> {
        let Some(held) = self.held.get(&value).cloned() else { return Ok(None) };
        let host = match (held.host, held.device) {
            (Some(host), _) => host,
            (None, Some(Place::Constant(id))) => match self.body.graph.value(id).constant() {
                // It may have another shape by now.
                Some(weight) => OnHost::Constant(weight.to_tensor()?.reshaped(held.spec.shape().dims())?),
                None => return Ok(None),
            },
            (None, Some(Place::Found(i))) => OnHost::Constant(self.plan.found[i].reshaped(held.spec.shape().dims())?),
            (None, Some(Place::Arena(device))) => {
                let bytes = held.spec.bytes();
                let host = self.buffer_of_host(bytes, self.now);
                self.device[device].last = self.now;
                self.plan.steps.push(Step::Download(Copy { device, host, bytes }));
                OnHost::Buffer(host)
            }
            (None, Some(Place::Turned(_)) | None) => return Ok(None),
        };
        if let OnHost::Buffer(buffer) = host {
            self.host[buffer].last = self.now;
        }
        if let Some(held) = self.held.get_mut(&value) {
            held.host = Some(host.clone());
        }
        Ok(Some(host))
    }

    fn launches(&mut self, id: NodeId, node: &Node, calls: Calls, specs: &[Spec]) -> Result<String, RunError> {
        let calls = if self.terms.library { calls } else { calls.by_kernels() };
        let names = calls.names();
        let input_specs = node.inputs.iter().map(|v| v.and_then(|v| Some(self.held.get(&v)?.spec))).collect();
        // Only what kernels read goes up: sizes and axes stay.
        let any = |wanted: &dyn Fn(&Argument) -> bool| calls.calls.iter().any(|c| c.arguments.iter().any(wanted));
        let read = |i: usize| any(&|a| matches!(a, Argument::Input(input, _) if *input == i));
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for (i, value) in node.inputs.iter().enumerate() {
            inputs.push(match value {
                Some(value) if read(i) => self.on_device(*value),
                Some(value) if any(&|a| *a == Argument::Turned(i)) => {
                    self.constant(*value, true);
                    Some(Place::Turned(*value))
                }
                _ => None,
            });
        }
        let mut outputs = Vec::with_capacity(specs.len());
        for (value, spec) in node.outputs.iter().zip(specs) {
            let Some(value) = value else {
                outputs.push(None);
                continue;
            };
            let place = Place::Arena(self.buffer_of_device(spec.bytes(), self.now));
            outputs.push(Some(place));
            self.held.insert(*value, Held { fact: Fact::concrete(spec.dtype, spec.shape()), spec: *spec, device: Some(place), host: None });
        }
        let scratch = calls.scratch.clone().into_iter().map(|bytes| Place::Arena(self.buffer_of_device(bytes, self.now))).collect();
        let workspace = calls.has_products().then(|| Place::Arena(self.buffer_of_device(WORKSPACE, self.now)));
        let fault = calls.may_fault().then(|| {
            self.plan.faults.push(id);
            self.plan.faults.len() - 1
        });
        let step = DeviceStep { node: id, calls, input_specs, output_specs: specs.to_vec(), inputs, outputs, scratch, workspace, fault };
        match self.plan.steps.last_mut() {
            Some(Step::Launches(steps)) => steps.push(step),
            _ => self.plan.steps.push(Step::Launches(vec![step])),
        }
        Ok(format!("cuda {names}"))
    }

    fn on_host(&mut self, id: NodeId, node: &Node, specs: &[Spec]) -> Result<String, RunError> {
        let input_specs: Vec<Option<Spec>> = node.inputs.iter().map(|v| v.and_then(|v| Some(self.held.get(&v)?.spec))).collect();
        let cx = StepCx { inputs: &input_specs, outputs: specs, packed: &[], level: self.terms.level };
        let need = node.op.scratch(&cx);
        self.host_scratch = self.host_scratch.max(align_up(need.shared) + align_up(need.per_worker) * self.terms.workers);
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for (value, spec) in node.inputs.iter().zip(&input_specs) {
            let (Some(value), Some(spec)) = (value, spec) else {
                inputs.push(None);
                continue;
            };
            let from = match self.fetched(*value)? {
                Some(OnHost::Buffer(buffer)) => Leaving::Arena(buffer, *spec),
                Some(OnHost::Given(i)) => Leaving::Given(i, *spec),
                Some(OnHost::Constant(tensor)) => Leaving::Constant(tensor),
                None => return Err(TensorError::Kind { wanted: "a value", found: "none" }.into()),
            };
            inputs.push(Some(from));
        }
        let mut outputs = Vec::with_capacity(specs.len());
        for (value, spec) in node.outputs.iter().zip(specs) {
            let Some(value) = value else {
                outputs.push(None);
                continue;
            };
            let buffer = self.buffer_of_host(spec.bytes(), self.now);
            outputs.push(Some((buffer, *spec)));
            self.held.insert(*value, Held { fact: Fact::concrete(spec.dtype, spec.shape()), spec: *spec, device: None, host: Some(OnHost::Buffer(buffer)) });
        }
        let kernel = node.op.kernel(&cx);
        self.plan.steps.push(Step::Host(HostStep { node: id, inputs, outputs, need }));
        Ok(format!("the host's {kernel}"))
    }

    /// Places buffers, and says where what leaves is found.
    fn finish(mut self, end: usize) -> Result<Plan, RunError> {
        self.now += 1;
        self.plan.end = end;
        let mut leaving: Vec<ValueId> =
            self.held.keys().copied().filter(|&v| self.body.is_read_from(end, v) && self.body.graph.value(v).constant().is_none()).collect();
        // Outputs of the graph may be constants of it.
        if end == self.body.order.len() {
            leaving = self.body.graph.outputs().to_vec();
        }
        leaving.sort();
        leaving.dedup();
        for value in leaving {
            let Some(spec) = self.held.get(&value).map(|h| h.spec) else { continue };
            let from = match self.fetched(value)? {
                Some(OnHost::Buffer(buffer)) => Leaving::Arena(buffer, spec),
                Some(OnHost::Given(i)) => Leaving::Given(i, spec),
                Some(OnHost::Constant(tensor)) => Leaving::Constant(tensor),
                None => continue,
            };
            self.plan.leaving.push((value, from));
        }
        let faults = self.plan.faults.len() * FAULT;
        let everywhere = |bytes| Buffer { bytes, first: 0, last: self.now };
        self.device.push(everywhere(faults));
        self.host.extend([everywhere(faults), everywhere(self.host_scratch)]);
        let (device, host) = (place(&self.device), place(&self.host));
        let mut plan = self.plan;
        (plan.device_bytes, plan.host_bytes) = (device.bytes, host.bytes);
        let last = |offsets: &[usize], back: usize| offsets[offsets.len() - back];
        plan.fault_places = (last(&device.offsets, 1), last(&host.offsets, 2));
        plan.scratch = (last(&host.offsets, 1), self.host_scratch);
        plan.settle(&device.offsets, &host.offsets);
        Ok(plan)
    }
}

impl Plan {
    /// Bytes of the host's memory that the plan holds, near enough: its steps, and constants that inference found.
    pub(crate) fn bytes(&self) -> usize {
        let call = |call: &Call| size_of::<Call>() + call.arguments.iter().map(Argument::bytes).sum::<usize>();
        let step = |step: &DeviceStep| size_of::<DeviceStep>() + step.calls.calls.iter().map(call).sum::<usize>();
        let one = |one: &Step| match one {
            Step::Launches(steps) => steps.iter().map(step).sum(),
            _ => size_of::<HostStep>(),
        };
        let found: usize = self.found.iter().map(|t| Spec::row_major(t.dtype(), *t.shape()).bytes()).sum();
        found + self.steps.iter().map(one).sum::<usize>() + size_of::<Plan>()
    }

    /// Puts offsets in the place of buffers' numbers.
    fn settle(&mut self, device: &[usize], host: &[usize]) {
        let on_device = |place: &mut Place| {
            if let Place::Arena(at) = place {
                *at = device[*at];
            }
        };
        let on_host = |from: &mut Leaving| {
            if let Leaving::Arena(at, _) = from {
                *at = host[*at];
            }
        };
        for step in &mut self.steps {
            match step {
                Step::Launches(steps) => {
                    for step in steps {
                        step.inputs.iter_mut().chain(&mut step.outputs).flatten().chain(&mut step.scratch).chain(&mut step.workspace).for_each(on_device);
                    }
                }
                Step::Upload(copy) | Step::Download(copy) => (copy.device, copy.host) = (device[copy.device], host[copy.host]),
                Step::Host(step) => {
                    step.inputs.iter_mut().flatten().for_each(on_host);
                    step.outputs.iter_mut().flatten().for_each(|(at, _)| *at = host[*at]);
                }
            }
        }
        self.given.iter_mut().for_each(|(_, at, _)| *at = host[*at]);
        self.leaving.iter_mut().for_each(|(_, from)| on_host(from));
    }
}
