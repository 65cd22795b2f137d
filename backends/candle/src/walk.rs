//! A run: nodes one after the other, each on Candle or on our kernel. A walk over facts alone does the same without
//! elements, for plans and descriptions.

use crate::{
    body::Body,
    direct::{self, Direct},
    error::{Failure, backend, shape_error},
    held::Held,
    kernel::{self, Wanted},
    ledger::Ledger,
};
use candle_core::Device;
use millstream_engine::{Cancel, Profiler, RunError, StepRecord, Workers};
use millstream_graph::{Control, EvalError, FOLD_LIMIT, Fact, InferCx, InferError, Node, NodeId, Spec, StepCx, ValueId, infer_node};
use millstream_simd::Level;
use millstream_tensor::{Bool, DType, Value};
use std::sync::Arc;

/// What every walk needs.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) device: Device,
    pub(crate) level: Level,
    pub(crate) workers: Arc<dyn Workers>,
}

/// A value of a run with what is known of it, and its bytes in the ledger.
struct Entry {
    held: Held,
    fact: Option<Fact>,
    bytes: usize,
}

/// One run.
pub(crate) struct Walk<'a, 'p> {
    engine: &'a Engine,
    ledger: &'a mut Ledger,
    cancel: Option<&'a Cancel>,
    profiler: Option<&'p mut dyn Profiler>,
    step: usize,
}

impl<'a, 'p> Walk<'a, 'p> {
    pub(crate) fn new(engine: &'a Engine, ledger: &'a mut Ledger, cancel: Option<&'a Cancel>, profiler: Option<&'p mut dyn Profiler>) -> Walk<'a, 'p> {
        Walk { engine, ledger, cancel, profiler, step: 0 }
    }

    /// Runs a body on its inputs, captures last.
    pub(crate) fn run(&mut self, body: &Body, inputs: Vec<Held>) -> Result<Vec<Held>, RunError> {
        let mut values: Vec<Option<Entry>> = (0..body.graph.value_count()).map(|_| None).collect();
        let mut left = body.readers.clone();
        for (&id, held) in body.graph.inputs().iter().zip(inputs) {
            let fact = held.fact()?;
            values[id.0 as usize] = Some(Entry { held, fact, bytes: 0 });
        }
        for (&id, held) in &body.constants {
            let fact = match body.graph.fact(id) {
                Some(fact) => Some(fact.clone()),
                None => held.fact()?,
            };
            values[id.0 as usize] = Some(Entry { held: held.clone(), fact, bytes: 0 });
        }
        for &id in &body.order {
            if self.cancel.is_some_and(Cancel::is_cancelled) {
                return Err(RunError::Cancelled);
            }
            let Some(node) = body.graph.node(id) else { continue };
            self.node(body, id, node, &mut values)?;
            // A node that reads a value twice is one reader.
            let mut read: Vec<ValueId> = node.uses().collect();
            read.sort();
            read.dedup();
            for v in read {
                self.leave(&mut values, &mut left, v);
            }
            for &v in node.outputs.iter().flatten() {
                if left[v.0 as usize] == 0 {
                    self.drop_value(&mut values, v);
                }
            }
        }
        let missing = |id: ValueId| RunError::Backend(format!("output `{}` was not made", body.graph.value(id).name));
        let out = body.graph.outputs().iter().map(|&id| values[id.0 as usize].as_ref().map(|e| e.held.clone()).ok_or_else(|| missing(id)));
        let out = out.collect::<Result<Vec<_>, _>>()?;
        for entry in values.into_iter().flatten() {
            self.ledger.give(entry.bytes);
        }
        Ok(out)
    }

    fn leave(&mut self, values: &mut [Option<Entry>], left: &mut [u32], v: ValueId) {
        let at = v.0 as usize;
        left[at] = left[at].saturating_sub(1);
        if left[at] == 0 {
            self.drop_value(values, v);
        }
    }

    fn drop_value(&mut self, values: &mut [Option<Entry>], v: ValueId) {
        if let Some(entry) = values[v.0 as usize].take() {
            self.ledger.give(entry.bytes);
        }
    }

    fn node(&mut self, body: &Body, id: NodeId, node: &Node, values: &mut [Option<Entry>]) -> Result<(), RunError> {
        if node.op.control() == Some(Control::If) {
            return self.branch(body, id, node, values);
        }
        let specs = input_specs(node, values)?;
        let facts = infer(node, values, &specs)?;
        let known: Option<Vec<Option<Held>>> = node.outputs.iter().zip(&facts).map(|(v, f)| constant(v.is_some(), f, &self.engine.device)).collect();
        let wanted = wanted(node, &facts);
        let planned: Vec<Spec> = facts.iter().map_while(|f| Some(Spec::row_major(f.dtype, f.shape()?.ok()?))).collect();
        let mut input_facts: Vec<Option<&Fact>> = Vec::with_capacity(node.inputs.len());
        let mut held: Vec<Option<&Held>> = Vec::with_capacity(node.inputs.len());
        for v in &node.inputs {
            let entry = v.and_then(|v| values[v.0 as usize].as_ref());
            input_facts.push(entry.and_then(|e| e.fact.as_ref()));
            held.push(entry.map(|e| &e.held));
        }
        let direct = direct::select(node, &input_facts, &planned);
        self.ledger.take(bytes_of(&wanted), scratch(node, self.engine, &specs, &planned, direct.as_ref()))?;
        let start = self.profiler.as_ref().map(|p| p.clock().now());
        let fail = |e: Failure| e.at(node, &specs);
        let made: Vec<Option<Held>> = match (known, &direct) {
            (Some(known), _) => known,
            (None, Some(direct)) => {
                let inputs: Vec<Option<&candle_core::Tensor>> = held.iter().map(|h| h.and_then(Held::candle)).collect();
                let made = direct.run(&inputs).map_err(|e| fail(e.into()))?;
                let mut all = vec![Some(Held::Candle(made))];
                all.resize(node.outputs.len(), None);
                all
            }
            (None, None) => kernel::run(&*node.op, (self.engine.level, &*self.engine.workers), &held, &wanted, &self.engine.device).map_err(fail)?,
        };
        if let (Some(p), Some(start)) = (&mut self.profiler, start) {
            let time = p.clock().now().saturating_sub(start);
            let cx = StepCx { inputs: &specs, outputs: &planned, packed: &[], level: self.engine.level };
            let kernel = engine_name(direct.as_ref(), node, &cx);
            p.step(StepRecord { index: self.step, path: &node.path, op: &node.op_name, kernel: &kernel, cost: node.op.cost(&cx), time });
        }
        self.step += 1;
        for ((made, wanted), (v, fact)) in
            made.into_iter().zip(&wanted).zip(node.outputs.iter().zip(facts.into_iter().map(Some).chain(std::iter::repeat(None))))
        {
            let (Some(held), Some(v)) = (made, v) else { continue };
            let fact = match fact.filter(|f| f.as_const().is_some()) {
                Some(fact) => Some(fact),
                None => held.fact()?,
            };
            let bytes = match wanted {
                Wanted::Planned(s) => s.bytes(),
                _ => {
                    // Its size is known only now.
                    let bytes = held.spec()?.map_or(0, |s| s.bytes());
                    self.ledger.take(bytes, 0)?;
                    bytes
                }
            };
            values[v.0 as usize] = Some(Entry { held, fact, bytes });
        }
        Ok(())
    }

    /// Runs the branch that the condition chooses.
    fn branch(&mut self, body: &Body, id: NodeId, node: &Node, values: &mut [Option<Entry>]) -> Result<(), RunError> {
        let specs = input_specs(node, values)?;
        let fail = |what| Failure::Eval(EvalError::Invalid(what)).at(node, &specs);
        let condition = node.input(0).and_then(|v| values[v.0 as usize].as_ref()).ok_or_else(|| fail("the condition is missing"))?;
        let condition = condition.held.to_value().map_err(backend)?;
        let [flag] = condition.as_tensor()?.as_slice::<Bool>()? else { return Err(fail("the condition is no scalar")) };
        let branch = if bool::from(*flag) { 0 } else { 1 };
        let inner = body.branches.get(&id).and_then(|b| b.get(branch)).ok_or_else(|| fail("no such branch"))?;
        let captures = &node.subgraphs[branch].captures;
        let inputs = captures.iter().map(|v| values[v.0 as usize].as_ref().map(|e| e.held.clone()).ok_or_else(|| fail("a captured value is missing")));
        let made = self.run(inner, inputs.collect::<Result<Vec<_>, _>>()?)?;
        for (v, held) in node.outputs.iter().zip(made) {
            let Some(v) = v else { continue };
            let bytes = held.spec()?.map_or(0, |s| s.bytes());
            self.ledger.take(bytes, 0)?;
            let fact = held.fact()?;
            values[v.0 as usize] = Some(Entry { held, fact, bytes });
        }
        Ok(())
    }
}

impl Walk<'_, '_> {
    /// The same walk without elements: counts bytes, and says which engine runs each node.
    pub(crate) fn dry(engine: &Engine, ledger: &mut Ledger, log: &mut Vec<String>, body: &Body, inputs: Vec<Fact>) -> Result<Vec<Fact>, RunError> {
        let mut facts: Vec<Option<Fact>> = body.graph.values().map(|(id, _)| body.constants.get(&id).and(body.graph.fact(id)).cloned()).collect();
        let mut left = body.readers.clone();
        let mut taken = vec![0; facts.len()];
        for (&id, fact) in body.graph.inputs().iter().zip(inputs) {
            facts[id.0 as usize] = Some(fact);
        }
        for &id in &body.order {
            let Some(node) = body.graph.node(id) else { continue };
            let open = || RunError::DataDependent(node.path.clone());
            if node.op.control().is_some() {
                return Err(open());
            }
            let input_facts: Vec<Option<&Fact>> = node.inputs.iter().map(|v| v.and_then(|v| facts[v.0 as usize].as_ref())).collect();
            let specs: Vec<Option<Spec>> = input_facts.iter().map(|f| f.and_then(|f| Some(Spec::row_major(f.dtype, f.shape()?.ok()?)))).collect();
            let made = infer_node(node, &input_facts).map_err(|e| match e {
                InferError::NeedsValue(_) | InferError::NeedsDims(_) => open(),
                e => shape_error(node, &specs, e),
            })?;
            let planned: Vec<Spec> = made.iter().map(|f| Some(Spec::row_major(f.dtype, f.shape()?.ok()?))).collect::<Option<_>>().ok_or_else(open)?;
            let direct = direct::select(node, &input_facts, &planned);
            let wanted = wanted(node, &made);
            ledger.take(bytes_of(&wanted), scratch(node, engine, &specs, &planned, direct.as_ref()))?;
            let cx = StepCx { inputs: &specs, outputs: &planned, packed: &[], level: engine.level };
            let shape = planned.first().map_or(String::new(), |s| format!("{}[{}]", s.dtype, s.shape()));
            log.push(format!("{} {} -> {shape} by {}", node.path, node.op_name, engine_name(direct.as_ref(), node, &cx)));
            for ((v, fact), wanted) in node.outputs.iter().zip(made).zip(&wanted) {
                if let (Some(v), Wanted::Planned(s)) = (v, wanted) {
                    taken[v.0 as usize] = s.bytes();
                    facts[v.0 as usize] = Some(fact);
                }
            }
            let mut read: Vec<ValueId> = node.uses().collect();
            read.sort();
            read.dedup();
            for &v in &read {
                left[v.0 as usize] = left[v.0 as usize].saturating_sub(1);
            }
            for v in read.into_iter().chain(node.outputs.iter().flatten().copied()) {
                if left[v.0 as usize] == 0 {
                    ledger.give(std::mem::take(&mut taken[v.0 as usize]));
                }
            }
        }
        body.graph.outputs().iter().map(|&id| facts[id.0 as usize].clone().ok_or_else(|| RunError::DataDependent(body.graph.value(id).name.clone()))).collect()
    }
}

fn input_specs(node: &Node, values: &[Option<Entry>]) -> Result<Vec<Option<Spec>>, RunError> {
    let spec = |v: &Option<ValueId>| v.and_then(|v| values[v.0 as usize].as_ref()).map_or(Ok(None), |e| e.held.spec());
    Ok(node.inputs.iter().map(spec).collect::<Result<_, _>>()?)
}

/// The outputs' facts. Elements are looked up only for operators whose shapes need them.
fn infer(node: &Node, values: &mut [Option<Entry>], specs: &[Option<Spec>]) -> Result<Vec<Fact>, RunError> {
    let mut asked_all = false;
    loop {
        let facts: Vec<Option<&Fact>> = node.inputs.iter().map(|v| v.and_then(|v| values[v.0 as usize].as_ref()?.fact.as_ref())).collect();
        let error = match node.op.infer(&InferCx { path: &node.path, inputs: &facts, outputs: node.outputs.len() }) {
            Ok(made) if asked_all || made.iter().all(|f| matches!(f.shape(), Some(Ok(_)))) => return Ok(made),
            Ok(_) => InferError::NeedsDims(0),
            Err(e) => e,
        };
        let asked: Vec<ValueId> = match error {
            InferError::NeedsValue(i) if !asked_all => node.input(i).into_iter().collect(),
            // Perhaps small elements help, or those of integers.
            InferError::NeedsDims(_) if !asked_all => {
                asked_all = true;
                let helps = |spec: &Option<Spec>| spec.is_some_and(|s| s.shape().elements() <= FOLD_LIMIT || matches!(s.dtype, DType::I64 | DType::I32));
                node.inputs.iter().zip(specs).filter(|(_, s)| helps(s)).filter_map(|(v, _)| *v).collect()
            }
            error => return Err(shape_error(node, specs, error)),
        };
        let mut learnt = asked_all;
        for v in asked {
            if let Some(entry) = &mut values[v.0 as usize]
                && entry.fact.as_ref().is_none_or(|f| f.as_const().is_none())
                && let Value::Tensor(t) = entry.held.to_value().map_err(backend)?
            {
                entry.fact = Some(Fact::constant(t.into()));
                learnt = true;
            }
        }
        asked_all |= !learnt;
    }
}

/// Outputs that inference knows need no kernel: all or none.
fn constant(read: bool, fact: &Fact, device: &Device) -> Option<Option<Held>> {
    if !read {
        return Some(None);
    }
    let value = Value::Tensor(fact.as_const()?.to_tensor().ok()?);
    Held::from_value(&value, device).ok().map(Some)
}

fn wanted(node: &Node, facts: &[Fact]) -> Vec<Wanted> {
    let one = |(i, v): (usize, &Option<ValueId>)| match (v, facts.get(i)) {
        (None, _) => Wanted::Unused,
        (Some(_), Some(f)) if f.dtype != DType::String => match f.shape() {
            Some(Ok(shape)) => Wanted::Planned(Spec::row_major(f.dtype, shape)),
            _ => Wanted::Open,
        },
        _ => Wanted::Open,
    };
    node.outputs.iter().enumerate().map(one).collect()
}

fn bytes_of(wanted: &[Wanted]) -> usize {
    let bytes = |w: &Wanted| match w {
        Wanted::Planned(s) => s.bytes(),
        _ => 0,
    };
    wanted.iter().map(bytes).sum()
}

/// The most that a node takes beside its outputs.
fn scratch(node: &Node, engine: &Engine, inputs: &[Option<Spec>], outputs: &[Spec], direct: Option<&Direct>) -> usize {
    if let Some(direct) = direct {
        return direct.scratch();
    }
    let need = node.op.scratch(&StepCx { inputs, outputs, packed: &[], level: engine.level });
    // Inputs that lie strided on Candle's side are copied.
    inputs.iter().flatten().map(Spec::bytes).sum::<usize>() + need.shared + need.per_worker * engine.workers.max()
}

fn engine_name(direct: Option<&Direct>, node: &Node, cx: &StepCx<'_>) -> String {
    match direct {
        Some(_) => "candle".into(),
        None => format!("millstream {}", node.op.kernel(cx)),
    }
}
