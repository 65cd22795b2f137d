//! What a rule may see and do.

use alloc::{format, sync::Arc, vec, vec::Vec};
use millstream_graph::{Declared, Fact, Graph, Node, NodeId, Op, Source, ValueId, infer_node};
use millstream_tensor::{DType, Tensor, Weight};

/// A graph at a node, with the questions that rules ask and the edits that they make.
pub(crate) struct Rewrite<'g> {
    graph: &'g mut Graph,
    anchor: NodeId,
    touched: Vec<NodeId>,
}

impl<'g> Rewrite<'g> {
    pub(crate) fn new(graph: &'g mut Graph, anchor: NodeId) -> Rewrite<'g> {
        Rewrite { graph, anchor, touched: vec![] }
    }

    /// The graph as it is.
    pub(crate) fn graph(&self) -> &Graph {
        self.graph
    }

    /// The node at which the rule looks.
    pub(crate) fn node(&self) -> Option<&Node> {
        self.graph.node(self.anchor)
    }

    /// The node that produces a value, if its operator is a `T`.
    pub(crate) fn producer<T: Op>(&self, value: ValueId) -> Option<(NodeId, &Node, &T)> {
        let (id, node) = self.graph.producer(value)?;
        Some((id, node, node.op.downcast_ref::<T>()?))
    }

    /// The only reader of a value that is no graph output.
    pub(crate) fn only_reader(&self, value: ValueId) -> Option<(NodeId, &Node)> {
        let [reader] = self.graph.value(value).consumers() else { return None };
        let node = self.graph.node(*reader)?;
        (!self.graph.outputs().contains(&value) && node.uses().filter(|&v| v == value).count() == 1).then_some((*reader, node))
    }

    /// For a value that one `T` of two operands alone reads: the other operand, and the result.
    pub(crate) fn followed_by<T: Op>(&self, value: ValueId) -> Option<(ValueId, ValueId)> {
        let (_, next) = self.only_reader(value).filter(|(_, n)| n.op.downcast_ref::<T>().is_some())?;
        Some((other_operand(next, value)?, next.output(0)?))
    }

    /// The same, if the other operand is a constant of one element for each index of the value's last axis.
    pub(crate) fn followed_by_vector<T: Op>(&self, value: ValueId) -> Option<(ValueId, ValueId)> {
        let (vector, result) = self.followed_by::<T>(value)?;
        let (fact, whole) = (self.graph.fact(vector)?, self.graph.fact(value)?);
        (fact.as_const().is_some() && fact.rank() == 1 && fact.dims.last() == whole.dims.last()).then_some((vector, result))
    }

    /// The constant that the value is, if it is one, where it lies.
    pub(crate) fn weight(&self, value: ValueId) -> Option<&Weight> {
        self.graph.fact(value)?.as_const()
    }

    /// The elements of a constant, if the value is one. They may be copied: a rule asks for them once it knows that it applies.
    pub(crate) fn constant(&self, value: ValueId) -> Option<Tensor> {
        self.weight(value)?.to_tensor().ok()
    }

    /// The only element of an f32 constant of one element.
    fn scalar(&self, value: ValueId) -> Option<f32> {
        let fact = self.graph.fact(value)?;
        if fact.dtype != DType::F32 || !fact.dims.iter().all(|d| d.is(1)) {
            return None;
        }
        fact.floats()?.first().copied()
    }

    /// The only element of an f32 constant of one element which broadcasts to `other` without adding axes to it.
    pub(crate) fn scalar_beside(&self, value: ValueId, other: ValueId) -> Option<f32> {
        let adds_none = self.graph.fact(value)?.rank() <= self.graph.fact(other)?.rank();
        self.scalar(value).filter(|_| adds_none)
    }

    /// For a binary node: the operand that is an f32 constant of one element, and the other one, whose dims the result has.
    pub(crate) fn with_scalar(&self, node: &Node) -> Option<(ValueId, f32)> {
        let (a, b) = (node.input(0)?, node.input(1)?);
        let beside = |value, other| self.scalar_beside(value, other).map(|c| (other, c));
        beside(b, a).or_else(|| beside(a, b))
    }

    /// Makes a value a constant.
    pub(crate) fn set_constant(&mut self, value: ValueId, tensor: Tensor) {
        self.touched.extend_from_slice(self.graph.value(value).consumers());
        self.graph.set_constant(value, tensor);
    }

    /// Adds a constant.
    pub(crate) fn add_constant(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.graph.add_constant(name, tensor)
    }

    /// Adds a node of one output and returns that output. Its path is that of `like`.
    pub(crate) fn add(&mut self, like: NodeId, op_name: &str, op: Arc<dyn Op>, inputs: Vec<Option<ValueId>>) -> ValueId {
        let path = self.graph.node(like).map_or_else(|| "rewritten".into(), |n| n.path.clone());
        let out = self.graph.add_placeholder(&format!("{path}:{op_name}"), Declared::default());
        let node = Node { path, op_name: op_name.into(), op, inputs, outputs: vec![Some(out)], subgraphs: vec![] };
        let facts: Vec<Option<Fact>> = node.inputs.iter().map(|v| v.and_then(|v| self.graph.fact(v).cloned())).collect();
        let refs: Vec<Option<&Fact>> = facts.iter().map(Option::as_ref).collect();
        let fact = if node.inputs.iter().zip(&refs).all(|(v, f)| v.is_none() || f.is_some()) { infer_node(&node, &refs).ok() } else { None };
        let id = self.graph.add_node(node);
        self.graph.set_fact(out, fact.and_then(|f| f.into_iter().next()));
        self.touched.push(id);
        out
    }

    /// Makes all readers of `old` read `new`. If `old` is an output of the graph, `new` takes its name, by which callers know it.
    pub(crate) fn replace(&mut self, old: ValueId, new: ValueId) {
        self.touched.extend_from_slice(self.graph.value(old).consumers());
        // Whoever made `old` may have no reader left, nor those that only it read.
        self.touched.extend(self.graph.producer(old).map(|(id, _)| id));
        if self.graph.fact(new).is_none() {
            let fact = self.graph.fact(old).cloned();
            self.graph.set_fact(new, fact);
        }
        if self.graph.outputs().contains(&old) {
            let name = self.graph.value(old).name.clone();
            self.graph.rename(new, name);
        }
        self.graph.replace_uses(old, new);
    }

    /// True if the value is made by a node or is an input, and not a constant.
    pub(crate) fn is_dynamic(&self, value: ValueId) -> bool {
        !matches!(self.graph.value(value).source, Source::Constant(_) | Source::None)
    }

    /// Removes what is not read any more, and returns the nodes that other rules may want to look at.
    pub(crate) fn finish(self) -> Vec<NodeId> {
        let mut near = self.touched;
        let mut work = vec![self.anchor];
        work.extend_from_slice(&near);
        while let Some(id) = work.pop() {
            let Some(node) = self.graph.node(id) else { continue };
            let neighbours: Vec<NodeId> = node.uses().filter_map(|v| self.graph.producer(v).map(|(n, _)| n)).collect();
            if node.outputs.iter().flatten().all(|&v| self.graph.is_unused(v)) {
                self.graph.remove_node(id);
                work.extend(neighbours);
            } else if !near.contains(&id) {
                near.push(id);
            }
        }
        near.retain(|&id| self.graph.node(id).is_some());
        near
    }
}

/// The operand of a binary node that is not `one`.
pub(crate) fn other_operand(node: &Node, one: ValueId) -> Option<ValueId> {
    match (node.input(0)?, node.input(1)?) {
        (a, b) if a == one => Some(b),
        (a, b) if b == one => Some(a),
        _ => None,
    }
}
