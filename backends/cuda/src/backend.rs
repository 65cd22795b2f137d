//! Graph to executable on a device of NVIDIA's.

use crate::{
    Gpu,
    body::Body,
    gpu::locked,
    host::{failed, run_open},
    plan::{Plan, Terms},
    run::{Engine, Watch, keep_few},
};
use millstream_compile::walkable;
use millstream_cpu::Pool;
use millstream_engine::{Backend, CompileError, Executable, Given, PlanBytes, Request, RunError, Signature, Workers, Workspace, hand_over};
use millstream_graph::{Control, EvalError, FOLD_LIMIT, Fact, Graph, Node, NodeId, ValueId};
use millstream_simd::Level;
use millstream_tensor::{Bool, DType, Shape, Value};
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// How many plans a model keeps.
const PLANS: usize = 16;

/// Runs graphs on a device; nodes without a kernel run on the host.
#[derive(Clone)]
pub struct CudaBackend {
    gpu: Gpu,
    level: Level,
    workers: Arc<dyn Workers>,
    library: bool,
}

impl CudaBackend {
    /// A backend on this device, with a thread a core for the host's nodes.
    pub fn new(gpu: Gpu) -> CudaBackend {
        CudaBackend { gpu, level: millstream_cpu::level(), workers: Arc::new(Pool::new(0)), library: true }
    }

    /// The same backend with these workers for the host's nodes.
    pub fn with_workers(self, workers: Arc<dyn Workers>) -> CudaBackend {
        CudaBackend { workers, ..self }
    }

    /// The same backend with products by our own kernels, even where cuBLASLt is.
    pub fn without_cublas(self) -> CudaBackend {
        CudaBackend { library: false, ..self }
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }
}

impl Backend for CudaBackend {
    fn name(&self) -> &str {
        "cuda"
    }

    fn compile(&self, graph: Graph) -> Result<Arc<dyn Executable>, CompileError> {
        Ok(Arc::new(self.model(graph)?))
    }
}

impl CudaBackend {
    pub(crate) fn model(&self, graph: Graph) -> Result<CudaModel, CompileError> {
        let signature = walkable(&graph)?;
        let body = Body::new(graph);
        let library = self.library && self.gpu.has_cublas();
        let engine = Engine::new(self.gpu.clone(), self.level, self.workers.clone(), library);
        Ok(CudaModel { engine, signature, body, plans: Mutex::default(), by_value: AtomicU64::new(0), settled: Mutex::default() })
    }
}

/// What a plan was made for: the shapes of all inputs, and the elements of those that shapes depend on.
#[derive(PartialEq)]
struct Key {
    shapes: Vec<Shape>,
    values: Vec<(usize, Vec<u8>)>,
}

impl Key {
    /// Bytes of the host's memory.
    fn bytes(&self) -> usize {
        self.shapes.len() * size_of::<Shape>() + self.values.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
    }
}

/// A graph on a device.
pub(crate) struct CudaModel {
    engine: Engine,
    signature: Signature,
    body: Body,
    /// Plans from the first node on, most recent first.
    plans: Mutex<VecDeque<(Key, Arc<Plan>)>>,
    /// One bit an input: plans depend on its elements, since shapes are computed from them.
    by_value: AtomicU64,
    /// Whether that was found out.
    settled: Mutex<bool>,
}

impl CudaModel {
    fn terms(&self, lines: bool) -> Terms {
        Terms { level: self.engine.level, workers: self.engine.workers.max(), library: self.engine.library, lines }
    }

    /// The facts of a run's inputs; with elements for those in `mask`.
    fn facts(&self, inputs: &[Value], mask: u64) -> Vec<(ValueId, Fact)> {
        let fact = |(i, (&id, value)): (usize, (&ValueId, &Value))| Some((id, fact_of(value, i < 64 && mask & (1 << i) != 0)?));
        self.body.graph.inputs().iter().zip(inputs).enumerate().filter_map(fact).collect()
    }

    fn key(&self, inputs: &[Value]) -> Result<Key, RunError> {
        let mask = self.by_value.load(Ordering::Relaxed);
        let mut key = Key { shapes: Vec::with_capacity(inputs.len()), values: vec![] };
        for (i, value) in inputs.iter().enumerate() {
            let Value::Tensor(tensor) = value else { continue };
            key.shapes.push(*tensor.shape());
            if i < 64 && mask & (1 << i) != 0 {
                key.values.push((i, tensor.view().bytes()?.to_vec()));
            }
        }
        Ok(key)
    }

    /// The plan from the first node on.
    fn first(&self, inputs: &[Value]) -> Result<Arc<Plan>, RunError> {
        let find = |key: &Key| {
            let mut plans = locked(&self.plans);
            let at = plans.iter().position(|(k, _)| k == key)?;
            let found = plans.remove(at)?;
            plans.push_front(found);
            plans.front().map(|(_, plan)| plan.clone())
        };
        if let Some(plan) = find(&self.key(inputs)?) {
            return Ok(plan);
        }
        let plan = |mask| Plan::new(&self.body, self.terms(false), 0, &self.facts(inputs, mask));
        let mut made = plan(self.by_value.load(Ordering::Relaxed))?;
        if made.end < self.body.order.len() {
            let mut settled = locked(&self.settled);
            if !*settled {
                *settled = true;
                self.by_value.fetch_or(self.wanted(inputs, &made), Ordering::Relaxed);
                made = plan(self.by_value.load(Ordering::Relaxed))?;
            }
        }
        let made = Arc::new(made);
        let mut plans = locked(&self.plans);
        plans.push_front((self.key(inputs)?, made.clone()));
        keep_few(&mut plans, PLANS, self.engine.kept_bytes, |(key, plan)| key.bytes() + plan.bytes());
        Ok(made)
    }

    /// The small inputs whose elements let a plan go further than without.
    fn wanted(&self, inputs: &[Value], without: &Plan) -> u64 {
        let small = |(i, v): &(usize, &Value)| *i < 64 && matches!(v, Value::Tensor(t) if t.dtype() != DType::String && t.shape().elements() <= FOLD_LIMIT);
        let all = inputs.iter().enumerate().filter(small).fold(0u64, |mask, (i, _)| mask | 1 << i);
        let reach = |mask| Plan::new(&self.body, self.terms(false), 0, &self.facts(inputs, mask)).map_or(0, |p| p.end);
        let most = reach(all);
        if most <= without.end {
            return 0;
        }
        // Those without which it goes as far are not wanted.
        (0..inputs.len().min(64)).fold(all, |mask, i| if mask & (1 << i) != 0 && reach(mask & !(1 << i)) == most { mask & !(1 << i) } else { mask })
    }

    /// Runs a body on its inputs, captures last.
    fn run_body(&self, body: &Body, inputs: Vec<Value>, first: Option<Arc<Plan>>, watch: &mut Watch<'_, '_>, limit: usize) -> Result<Vec<Value>, RunError> {
        let mut values: HashMap<ValueId, Value> = body.graph.inputs().iter().copied().zip(inputs).collect();
        let (mut at, mut next) = (0, first);
        while at < body.order.len() || next.is_some() {
            let given: Vec<(ValueId, Value)> = match next.is_some() {
                // The first plan was made for the inputs in their order.
                true => body.graph.inputs().iter().filter_map(|id| Some((*id, values.get(id)?.clone()))).filter(|(_, v)| fact_of(v, false).is_some()).collect(),
                false => values.iter().map(|(id, v)| (*id, v.clone())).filter(|(_, v)| fact_of(v, false).is_some()).collect(),
            };
            let plan = match next.take() {
                Some(plan) => plan,
                None => {
                    // What was computed is known now, as far as shapes may depend on it.
                    let small = |v: &Value| matches!(v, Value::Tensor(t) if t.shape().elements() <= FOLD_LIMIT);
                    let facts: Vec<_> = given.iter().filter_map(|(id, v)| Some((*id, fact_of(v, small(v))?))).collect();
                    Arc::new(Plan::new(body, self.terms(false), at, &facts)?)
                }
            };
            if plan.device_bytes + plan.host_bytes > limit {
                return Err(RunError::MemoryLimit { needed: plan.device_bytes + plan.host_bytes, limit });
            }
            if plan.end > at || plan.end == body.order.len() {
                let tensors: Vec<Value> = given.into_iter().map(|(_, v)| v).collect();
                values.extend(self.engine.run(body, &plan, &tensors, watch)?);
                at = plan.end;
            }
            if let Some(&id) = body.order.get(at) {
                let Some(node) = body.graph.node(id) else { continue };
                self.open(body, id, node, &mut values, watch, limit)?;
                at += 1;
            }
            values.retain(|&id, _| body.is_read_from(at, id));
        }
        let output =
            |id: &ValueId| value_of(body, &values, *id).ok_or_else(|| RunError::Backend(format!("output `{}` was not made", body.graph.value(*id).name)));
        body.graph.outputs().iter().map(output).collect()
    }

    /// Runs a node that no plan holds: on the host, or the branch that its condition chooses.
    fn open(
        &self,
        body: &Body,
        id: NodeId,
        node: &Node,
        values: &mut HashMap<ValueId, Value>,
        watch: &mut Watch<'_, '_>,
        limit: usize,
    ) -> Result<(), RunError> {
        let inputs: Vec<Option<Value>> = node.inputs.iter().map(|v| v.and_then(|v| value_of(body, values, v))).collect();
        let made = match node.op.control() {
            Some(Control::If) => {
                let invalid = |what| failed(node, &[], EvalError::Invalid(what));
                let condition = inputs.first().and_then(Option::as_ref).ok_or_else(|| invalid("the condition is missing"))?;
                let [flag] = condition.as_tensor()?.as_slice::<Bool>()? else { return Err(invalid("the condition is no scalar")) };
                let branch = if bool::from(*flag) { 0 } else { 1 };
                let (Some(inner), Some(subgraph)) = (body.branches.get(&id).and_then(|b| b.get(branch)), node.subgraphs.get(branch)) else {
                    return Err(invalid("there is no such branch"));
                };
                let captured = subgraph.captures.iter().map(|v| value_of(body, values, *v).ok_or_else(|| invalid("a captured value is missing")));
                self.run_body(inner, captured.collect::<Result<_, _>>()?, None, watch, limit)?
            }
            _ => run_open(node, self.engine.level, &inputs)?,
        };
        values.extend(node.outputs.iter().zip(made).filter_map(|(id, v)| Some(((*id)?, v))));
        Ok(())
    }

    /// The same model, keeping so many bytes of plans.
    #[cfg(test)]
    pub(crate) fn keeping(mut self, bytes: usize) -> CudaModel {
        self.engine.kept_bytes = bytes;
        self
    }

    /// How many plans are kept, and how many of them lanes have addresses for.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> [usize; 2] {
        [locked(&self.plans).len(), self.engine.bound()]
    }

    /// The plan for inputs of these shapes alone.
    fn plan_of(&self, inputs: &[Shape], lines: bool) -> Result<Plan, RunError> {
        let facts: Vec<_> = self.body.graph.inputs().iter().copied().zip(self.signature.facts(inputs)?).collect();
        Plan::new(&self.body, self.terms(lines), 0, &facts)
    }
}

impl Executable for CudaModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&self, workspace: &mut Workspace, request: Request<'_, '_>) -> Result<Vec<Option<Value>>, RunError> {
        let Request { inputs, outputs, cancel, profiler } = request;
        self.signature.check(Given::Values(inputs))?;
        let first = self.first(inputs)?;
        let mut watch = Watch { cancel, profiler, step: 0 };
        let made = self.run_body(&self.body, inputs.to_vec(), Some(first), &mut watch, workspace.limit())?;
        let mut buffers = outputs.iter_mut();
        made.into_iter().enumerate().map(|(index, value)| hand_over(index, value, buffers.next().and_then(Option::as_mut))).collect()
    }

    /// The arena's bytes are those on the device and those of pinned memory on the host.
    fn plan_bytes(&self, inputs: &[Shape]) -> Result<PlanBytes, RunError> {
        let plan = self.plan_of(inputs, false)?;
        if let Some(node) = self.body.order.get(plan.end).and_then(|&id| self.body.graph.node(id)) {
            return Err(RunError::DataDependent(node.path.clone()));
        }
        let weights = plan.constants.iter().filter_map(|&(id, _)| Some(self.body.graph.value(id).constant()?.bytes_len())).sum();
        let taken: usize = self.signature.inputs.iter().zip(inputs).map(|(p, s)| p.dtype.map_or(0, DType::size) * s.elements()).sum();
        let given: usize = plan.leaving.iter().map(|(_, from)| from.spec().bytes()).sum();
        Ok(PlanBytes::new(weights, plan.device_bytes + plan.host_bytes, plan.scratch.1, taken + given))
    }

    /// The nodes up to the first whose shape only a run can tell.
    fn describe(&self, inputs: &[Shape]) -> Result<Vec<String>, RunError> {
        Ok(self.plan_of(inputs, true)?.lines)
    }
}

/// What is known of a value, if it is a tensor that plans hold.
fn fact_of(value: &Value, with_elements: bool) -> Option<Fact> {
    match value {
        Value::Tensor(t) if t.dtype() != DType::String => {
            Some(if with_elements { Fact::constant(t.clone().into()) } else { Fact::concrete(t.dtype(), t.shape()) })
        }
        _ => None,
    }
}

fn value_of(body: &Body, values: &HashMap<ValueId, Value>, id: ValueId) -> Option<Value> {
    let constant = || Some(Value::Tensor(body.graph.value(id).constant()?.to_tensor().ok()?));
    values.get(&id).cloned().or_else(constant)
}
