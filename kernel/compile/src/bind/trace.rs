//! First half of binding: facts flow, known values vanish, control flow is laid flat, memory orders are chosen.

use super::{ProtoGuard, ProtoStep, Val, ValKind};
use crate::program::{NodeKey, Program};
use alloc::{boxed::Box, collections::BTreeMap, collections::BTreeSet, format, string::String, sync::Arc, vec, vec::Vec};
use millstream_engine::{RunError, ShapeError};
use millstream_graph::{Fact, InferError, Node, Spec, StepCx, ValueId, infer_node};
use millstream_ops::movement::transpose::Transpose;
use millstream_simd::Level;
use millstream_tensor::{Layout, Order, Shape, Tensor};

/// A value of some graph of the program.
pub(crate) type Key = (usize, ValueId);

/// What exists when a segment begins: the values that earlier segments made, and the nodes that are done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Boundary {
    /// Values that are the segment's inputs, in order.
    pub(crate) inputs: Vec<(Key, Fact)>,
    /// Values that are known already.
    pub(crate) known: Vec<(Key, Fact)>,
    /// Nodes that need not run any more.
    pub(crate) done: BTreeSet<NodeKey>,
}

/// A segment: steps over values, and what is left for the next one.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) vals: Vec<Val>,
    pub(crate) steps: Vec<ProtoStep>,
    /// Conditions under which steps run, by the number that steps name.
    pub(crate) guards: Vec<ProtoGuard>,
    /// What the segment gives: the graph's outputs if it is the last one, else the values that the rest needs.
    pub(crate) outputs: Vec<usize>,
    /// The next segment's beginning. Its inputs are this one's outputs, their facts still without the run's sizes.
    pub(crate) rest: Option<Boundary>,
    /// Inputs of the segment whose elements would have let it go further.
    pub(crate) wanted_inputs: BTreeSet<usize>,
}

pub(super) struct Tracer<'p> {
    pub(super) program: &'p Program,
    level: Level,
    pub(super) out: Trace,
    /// The flat index of each graph's values, where they exist in this segment.
    pub(super) table: Vec<BTreeMap<ValueId, usize>>,
    pub(super) done: BTreeSet<NodeKey>,
    /// Copies that were made, by value and order.
    pub(super) reordered: BTreeMap<(usize, Vec<usize>), usize>,
    /// The graph inputs that each value depends on, for `wanted_inputs`.
    pub(super) origins: Vec<BTreeSet<usize>>,
    pub(super) blocked: Option<ShapeError>,
    /// The guard of the branch that is being traced.
    pub(super) guard: Option<usize>,
}

/// Traces as far as facts reach.
pub(crate) fn trace(program: &Program, level: Level, boundary: &Boundary) -> Result<Trace, RunError> {
    let mut t = Tracer {
        program,
        level,
        out: Trace::default(),
        table: vec![BTreeMap::new(); program.bodies.len()],
        done: boundary.done.clone(),
        reordered: BTreeMap::new(),
        origins: Vec::new(),
        blocked: None,
        guard: None,
    };
    for (i, ((graph, value), fact)) in boundary.inputs.iter().enumerate() {
        let val = t.add_val(fact.clone(), ValKind::Input(i));
        t.origins[val].insert(i);
        t.table[*graph].insert(*value, val);
    }
    for ((graph, value), fact) in &boundary.known {
        let val = t.known(fact.clone())?;
        t.table[*graph].insert(*value, val);
    }
    t.body(0)?;
    t.finish()
}

impl Tracer<'_> {
    pub(super) fn add_val(&mut self, fact: Fact, kind: ValKind) -> usize {
        let layout = fact.shape().and_then(Result::ok).map(Layout::row_major);
        self.out.vals.push(Val { fact, kind, layout });
        self.origins.push(BTreeSet::new());
        self.out.vals.len() - 1
    }

    pub(super) fn known(&mut self, fact: Fact) -> Result<usize, RunError> {
        let tensor: Tensor = match fact.as_const() {
            Some(w) => w.to_tensor()?,
            None => return Err(RunError::DataDependent("a known value".into())),
        };
        Ok(self.add_val(fact, ValKind::Known(tensor)))
    }

    /// The flat index of a value of graph `graph`: constants come into being when they are first read.
    pub(super) fn lookup(&mut self, graph: usize, value: ValueId) -> Option<usize> {
        if let Some(&val) = self.table[graph].get(&value) {
            return Some(val);
        }
        let info = self.program.bodies[graph].graph.value(value);
        let kind = match info.constant() {
            Some(w) => ValKind::Weight(w.clone()),
            None if matches!(info.source, millstream_graph::Source::None) && info.fact.is_some() => ValKind::PackedOnly,
            None => return None,
        };
        let val = self.add_val(info.fact.clone()?, kind);
        self.table[graph].insert(value, val);
        Some(val)
    }

    pub(super) fn body(&mut self, graph: usize) -> Result<(), RunError> {
        let program = self.program;
        for &id in &program.bodies[graph].order {
            let key = NodeKey { graph, node: id };
            if self.done.contains(&key) {
                continue;
            }
            if let Some(node) = program.bodies[graph].graph.node(id) {
                let inputs: Vec<Option<Option<usize>>> = node.inputs.iter().map(|v| v.map(|v| self.lookup(graph, v))).collect();
                match node.op.control() {
                    Some(control) => self.control(key, node, control, &inputs)?,
                    None => self.node(key, node, &inputs)?,
                }
            }
        }
        Ok(())
    }

    fn node(&mut self, key: NodeKey, node: &Node, inputs: &[Option<Option<usize>>]) -> Result<(), RunError> {
        // A node waits for the next segment if an input does not exist in this one, or exists without a size.
        let mut present = Vec::with_capacity(inputs.len());
        for input in inputs {
            match input {
                None => present.push(None),
                Some(Some(v)) if !self.is_unsized(*v) => present.push(Some(*v)),
                Some(_) => return Ok(()),
            }
        }
        let facts: Vec<Option<&Fact>> = present.iter().map(|v| v.map(|v| &self.out.vals[v].fact)).collect();
        let facts = match infer_node(node, &facts) {
            Ok(facts) => facts,
            Err(error @ (InferError::NeedsValue(i) | InferError::NeedsDims(i))) => {
                if let Some(v) = present.get(i).copied().flatten() {
                    let origins = self.origins[v].clone();
                    self.out.wanted_inputs.extend(origins);
                }
                self.blocked.get_or_insert_with(|| self.out.shape_error(node, &present, error));
                return Ok(());
            }
            Err(error) => return Err(RunError::Shape(Box::new(self.out.shape_error(node, &present, error)))),
        };
        self.done.insert(key);
        self.outputs(key, node, &present, facts)
    }

    /// Makes the node's outputs: known ones vanish, aliases share memory, the others come from a step.
    fn outputs(&mut self, key: NodeKey, node: &Node, inputs: &[Option<usize>], facts: Vec<Fact>) -> Result<(), RunError> {
        let origins: BTreeSet<usize> = inputs.iter().flatten().flat_map(|v| self.origins[*v].iter().copied()).collect();
        let used = |i: usize| node.output(i).is_some();
        if facts.iter().enumerate().all(|(i, f)| !used(i) || f.as_const().is_some()) {
            for (i, fact) in facts.into_iter().enumerate() {
                if let Some(v) = node.output(i) {
                    let val = self.known(fact)?;
                    self.origins[val] = origins.clone();
                    self.table[key.graph].insert(v, val);
                }
            }
            return Ok(());
        }
        if let (true, Some(&Some(input)), Some(out)) = (node.op.is_alias(), inputs.first(), node.output(0))
            && self.can_alias(input)
            && let Some(fact) = facts.first()
            && Val::is_sized(fact)
        {
            let source = self.in_order(input, None);
            let val = self.add_val(fact.clone(), ValKind::Alias(source));
            self.origins[val] = origins;
            self.table[key.graph].insert(out, val);
            return Ok(());
        }
        let (inputs, orders) = self.choose_orders(key, node, inputs, &facts);
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for (i, fact) in facts.into_iter().enumerate().take(node.outputs.len()) {
            let kind = if Val::is_sized(&fact) { ValKind::Planned } else { ValKind::Slot };
            let val = self.add_val(fact, kind);
            self.origins[val] = origins.clone();
            if let (Some(order), Some(layout)) = (orders.get(i), self.out.vals[val].layout) {
                self.out.vals[val].layout = Some(Layout::dense(*layout.shape(), *order));
            }
            outputs.push(Some(val));
            if let Some(v) = node.output(i) {
                self.table[key.graph].insert(v, val);
            }
        }
        for (i, out) in outputs.iter_mut().enumerate() {
            if node.output(i).is_none() {
                *out = None;
            }
        }
        let (path, name, op) = (node.path.clone(), node.op_name.clone(), node.op.clone());
        self.out.steps.push(ProtoStep { node: Some(key), path, name, op, inputs, outputs, guard: self.guard });
        Ok(())
    }

    fn is_unsized(&self, val: usize) -> bool {
        matches!(self.out.vals[val].kind, ValKind::Slot) && !matches!(self.out.vals[val].fact.shape(), Some(Ok(_)))
    }

    fn can_alias(&self, val: usize) -> bool {
        matches!(self.out.vals[val].kind, ValKind::Input(_) | ValKind::Planned | ValKind::Alias(_)) && Val::is_sized(&self.out.vals[val].fact)
    }

    /// The value in memory order `order` (row-major for `None`), through a copy if it lies otherwise.
    fn in_order(&mut self, val: usize, order: Option<Order>) -> usize {
        let Some(layout) = self.out.vals[val].layout else { return val };
        let order = order.unwrap_or_else(|| Order::row_major(layout.shape().rank()));
        let wanted = Layout::dense(*layout.shape(), order);
        if layout.same_memory(&wanted) {
            return val;
        }
        let cached = (val, order.axes().collect::<Vec<_>>());
        if let Some(&copy) = self.reordered.get(&cached) {
            return copy;
        }
        let copy = self.copy(val, wanted);
        self.reordered.insert(cached, copy);
        copy
    }

    pub(super) fn copy(&mut self, val: usize, layout: Layout) -> usize {
        let fact = Fact { known: None, ..self.out.vals[val].fact.clone() };
        let origins = self.origins[val].clone();
        let copy = self.add_val(fact, ValKind::Planned);
        self.out.vals[copy].layout = Some(layout);
        self.origins[copy] = origins;
        self.copy_into(val, copy);
        copy
    }

    /// Adds a step that copies one value's elements to another, which may lie in another memory order.
    pub(super) fn copy_into(&mut self, from: usize, to: usize) {
        let path: Arc<str> = self.out.steps.last().map_or_else(|| "input".into(), |s| s.path.clone());
        let rank = self.out.vals[from].fact.rank();
        let (inputs, outputs) = (vec![Some(from)], vec![Some(to)]);
        self.out.steps.push(ProtoStep {
            node: None,
            path,
            name: "Reorder".into(),
            op: Arc::new(Transpose::identity(rank)),
            inputs,
            outputs,
            guard: self.guard,
        });
    }

    /// Asks the operator which memory orders it wants and gives, and brings its inputs into them.
    fn choose_orders(&mut self, key: NodeKey, node: &Node, inputs: &[Option<usize>], facts: &[Fact]) -> (Vec<Option<usize>>, Vec<Order>) {
        let is_dynamic =
            |t: &Trace, v: usize| matches!(t.vals[v].kind, ValKind::Input(_) | ValKind::Planned | ValKind::Alias(_)) && Val::is_sized(&t.vals[v].fact);
        let offered: Vec<Option<Order>> =
            inputs.iter().map(|v| v.filter(|&v| is_dynamic(&self.out, v)).and_then(|v| self.out.vals[v].layout?.order())).collect();
        let specs: Vec<Option<Spec>> = inputs.iter().map(|v| v.and_then(|v| self.out.spec(v))).collect();
        let outputs: Vec<Spec> = facts.iter().map(|f| Spec::row_major(f.dtype, f.shape().and_then(Result::ok).unwrap_or(Shape::SCALAR))).collect();
        let packed: Vec<bool> = (0..inputs.len()).map(|i| self.program.packed(key, i).is_some()).collect();
        let answer = node.op.permute(&StepCx { inputs: &specs, outputs: &outputs, packed: &packed, level: self.level }, &offered);
        let wanted = |i: usize| match &answer {
            Some(p) => p.inputs.get(i).copied().flatten().or(offered[i]),
            None => None,
        };
        let placed = inputs
            .iter()
            .enumerate()
            .map(|(i, v)| {
                v.map(|v| {
                    if offered[i].is_some() || is_dynamic(&self.out, v) {
                        let order = wanted(i);
                        self.in_order(v, order)
                    } else {
                        v
                    }
                })
            })
            .collect();
        (placed, answer.map(|p| p.outputs).unwrap_or_default())
    }

    /// Ends the segment: its outputs, each in row-major memory that no other output claims, and what is left.
    fn finish(mut self) -> Result<Trace, RunError> {
        let program = self.program;
        let graph = &program.bodies[0].graph;
        let complete: Option<Vec<usize>> = graph.outputs().iter().map(|&v| self.lookup(0, v)).collect();
        let wanted = match complete {
            Some(outputs) => outputs,
            None => {
                let Some(rest) = self.rest()? else {
                    let error = self.blocked.take().map(|e| RunError::Shape(Box::new(e)));
                    return Err(error.unwrap_or_else(|| RunError::DataDependent("the graph's outputs".into())));
                };
                let (outputs, boundary) = rest;
                self.out.rest = Some(boundary);
                outputs
            }
        };
        let mut claimed = BTreeSet::new();
        for val in wanted {
            let mut val = self.in_order(val, None);
            let root = self.out.root(val);
            let direct = root == val;
            let shared = match self.out.vals[root].kind {
                ValKind::Input(_) => !direct,
                ValKind::Planned => !claimed.insert(root),
                _ => false,
            };
            if shared && let Some(layout) = self.out.vals[val].layout {
                val = self.copy(val, layout);
                claimed.insert(val);
            }
            self.out.outputs.push(val);
        }
        Ok(self.out)
    }

    /// The values that nodes which are not done need, and those that are graph outputs already. `None` if nothing was done.
    fn rest(&mut self) -> Result<Option<(Vec<usize>, Boundary)>, RunError> {
        let program = self.program;
        if self.out.steps.is_empty() {
            return Ok(None);
        }
        let mut needed: BTreeSet<Key> = program.bodies[0].graph.outputs().iter().map(|&v| (0, v)).collect();
        for (graph, body) in program.bodies.iter().enumerate() {
            for &id in &body.order {
                if !self.done.contains(&NodeKey { graph, node: id }) {
                    needed.extend(body.graph.node(id).into_iter().flat_map(Node::uses).map(|v| (graph, v)));
                }
            }
        }
        let mut boundary = Boundary { done: core::mem::take(&mut self.done), ..Boundary::default() };
        let mut outputs = Vec::new();
        for key @ (graph, value) in needed {
            let Some(&val) = self.table[graph].get(&value) else { continue };
            match &self.out.vals[val].kind {
                ValKind::Known(_) => boundary.known.push((key, self.out.vals[val].fact.clone())),
                ValKind::Weight(_) | ValKind::PackedOnly => {}
                _ => {
                    outputs.push(val);
                    boundary.inputs.push((key, self.out.vals[val].fact.clone()));
                }
            }
        }
        Ok(Some((outputs, boundary)))
    }
}

impl Trace {
    /// The value whose memory `val` shows.
    pub(crate) fn root(&self, mut val: usize) -> usize {
        while let ValKind::Alias(of) = self.vals[val].kind {
            val = of;
        }
        val
    }

    /// Type and layout of a value, if its size is known.
    pub(crate) fn spec(&self, val: usize) -> Option<Spec> {
        Some(Spec { dtype: self.vals[val].fact.dtype, layout: self.vals[val].layout? })
    }

    pub(super) fn shape_error(&self, node: &Node, inputs: &[Option<usize>], error: InferError) -> ShapeError {
        let mut text = String::new();
        for (i, v) in inputs.iter().enumerate() {
            let one = v.map_or_else(|| String::from("-"), |v| format!("{}", self.vals[v].fact));
            text.push_str(if i == 0 { "" } else { ", " });
            text.push_str(&one);
        }
        ShapeError { path: node.path.clone(), op: node.op_name.clone(), inputs: text, error }
    }
}
