//! The graph itself: values, nodes, subgraphs, and the edits that passes make.

use crate::{Fact, Op};
use alloc::{string::String, sync::Arc, vec::Vec};
use millstream_tensor::{DType, Weight};

/// A value of a graph. Ids are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u32);

/// A node of a graph. Ids are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// Where a value comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The graph's input at this position.
    Input(usize),
    /// A constant.
    Constant(Weight),
    /// An output of a node.
    Node(NodeId, usize),
    /// Nothing produces it (any more).
    None,
}

/// What the model file says of a value. A hint for people and for symbol names, never a fact.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Declared {
    /// The element type.
    pub dtype: Option<DType>,
    /// The dims: a number, a name, or nothing.
    pub dims: Option<Vec<DeclaredDim>>,
}

/// One declared dim: a number, a symbol's name, or nothing.
pub type DeclaredDim = Option<Result<usize, String>>;

/// A value and its links.
#[derive(Debug, Clone)]
pub struct ValueInfo {
    /// The name in the model, or one that a pass made.
    pub name: Arc<str>,
    /// The producer.
    pub source: Source,
    /// What the model file says.
    pub declared: Declared,
    /// What analysis found.
    pub fact: Option<Fact>,
    /// Nodes that read the value (through inputs or captures), each once, ascending.
    consumers: Vec<NodeId>,
}

impl ValueInfo {
    /// Nodes that read the value, each once, in the order in which they were added.
    pub fn consumers(&self) -> &[NodeId] {
        &self.consumers
    }

    /// The constant, if the value is one.
    pub fn constant(&self) -> Option<&Weight> {
        match &self.source {
            Source::Constant(w) => Some(w),
            _ => None,
        }
    }
}

/// A graph inside a node. Its last `captures.len()` inputs are the outer values of `captures`, in the same order.
#[derive(Debug, Clone)]
pub struct Subgraph {
    /// The body.
    pub graph: Graph,
    /// Values of the enclosing graph that the body reads.
    pub captures: Vec<ValueId>,
}

/// An operator applied to values.
#[derive(Debug, Clone)]
pub struct Node {
    /// The path for people: the enclosing nodes' names and its own, or its operator and number.
    pub path: Arc<str>,
    /// The operator's name in the model, for people.
    pub op_name: Arc<str>,
    /// The operator.
    pub op: Arc<dyn Op>,
    /// The inputs; `None` where an optional one is absent.
    pub inputs: Vec<Option<ValueId>>,
    /// The outputs; `None` where an optional one is not used.
    pub outputs: Vec<Option<ValueId>>,
    /// Bodies of control flow.
    pub subgraphs: Vec<Subgraph>,
}

impl Node {
    /// All values that the node reads: its inputs, then its subgraphs' captures.
    pub fn uses(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.inputs.iter().flatten().copied().chain(self.subgraphs.iter().flat_map(|s| s.captures.iter().copied()))
    }

    /// Output `i`, if the node has it.
    pub fn output(&self, i: usize) -> Option<ValueId> {
        self.outputs.get(i).copied().flatten()
    }

    /// Input `i`, if the node has it.
    pub fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }
}

/// Values and nodes. Edits keep the links between them consistent.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// The model's name for the graph.
    pub name: String,
    values: Vec<ValueInfo>,
    nodes: Vec<Option<Node>>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    fn add_value(&mut self, name: &str, source: Source, declared: Declared) -> ValueId {
        let fact = match &source {
            Source::Constant(w) => Some(Fact::constant(w.clone())),
            _ => None,
        };
        self.values.push(ValueInfo { name: name.into(), source, declared, fact, consumers: Vec::new() });
        ValueId(self.values.len() as u32 - 1)
    }

    /// Adds a graph input.
    pub fn add_input(&mut self, name: &str, declared: Declared) -> ValueId {
        let id = self.add_value(name, Source::Input(self.inputs.len()), declared);
        self.inputs.push(id);
        id
    }

    /// Adds a constant.
    pub fn add_constant(&mut self, name: &str, weight: impl Into<Weight>) -> ValueId {
        self.add_value(name, Source::Constant(weight.into()), Declared::default())
    }

    /// Adds a value that some node, added later, produces.
    pub fn add_placeholder(&mut self, name: &str, declared: Declared) -> ValueId {
        self.add_value(name, Source::None, declared)
    }

    /// Adds a node that produces `node.outputs` (placeholders, or values whose producer it replaces).
    pub fn add_node(&mut self, node: Node) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        for v in node.uses() {
            self.link(v, id);
        }
        for (i, v) in node.outputs.iter().enumerate() {
            if let Some(v) = v {
                self.values[v.0 as usize].source = Source::Node(id, i);
            }
        }
        self.nodes.push(Some(node));
        id
    }

    fn link(&mut self, value: ValueId, node: NodeId) {
        let consumers = &mut self.values[value.0 as usize].consumers;
        if let Err(at) = consumers.binary_search(&node) {
            consumers.insert(at, node);
        }
    }

    fn unlink(&mut self, value: ValueId, node: NodeId) {
        let consumers = &mut self.values[value.0 as usize].consumers;
        if let Ok(at) = consumers.binary_search(&node) {
            consumers.remove(at);
        }
    }

    /// Marks a value as the next graph output.
    pub fn add_output(&mut self, value: ValueId) {
        self.outputs.push(value);
    }

    /// Removes the inputs at these positions (ascending), which nothing may read any more.
    pub fn remove_inputs(&mut self, positions: &[usize]) {
        for &i in positions.iter().rev() {
            let id = self.inputs.remove(i);
            self.values[id.0 as usize].source = Source::None;
        }
        for (i, &id) in self.inputs.iter().enumerate() {
            self.values[id.0 as usize].source = Source::Input(i);
        }
    }

    /// Forgets captures of a node: for each of its subgraphs, those at these positions (ascending), whose inputs were
    /// removed from the body.
    pub fn drop_captures(&mut self, id: NodeId, positions: &[Vec<usize>]) {
        let Some(node) = self.nodes[id.0 as usize].as_mut() else { return };
        let before: Vec<ValueId> = node.uses().collect();
        for (subgraph, gone) in node.subgraphs.iter_mut().zip(positions) {
            for &i in gone.iter().rev() {
                subgraph.captures.remove(i);
            }
        }
        let mut after: Vec<ValueId> = node.uses().collect();
        after.sort();
        for v in before.into_iter().filter(|v| after.binary_search(v).is_err()) {
            self.unlink(v, id);
        }
    }

    /// The inputs.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The outputs.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// A value.
    pub fn value(&self, id: ValueId) -> &ValueInfo {
        &self.values[id.0 as usize]
    }

    /// How many value ids have been given out.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// All values with their ids.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &ValueInfo)> {
        self.values.iter().enumerate().map(|(i, v)| (ValueId(i as u32), v))
    }

    /// The value's fact, if analysis found one.
    pub fn fact(&self, id: ValueId) -> Option<&Fact> {
        self.value(id).fact.as_ref()
    }

    /// Records what analysis found.
    pub fn set_fact(&mut self, id: ValueId, fact: Option<Fact>) {
        self.values[id.0 as usize].fact = fact;
    }

    /// Makes a value a constant; its producer no longer has it as an output.
    pub fn set_constant(&mut self, id: ValueId, weight: impl Into<Weight>) {
        let weight = weight.into();
        if let Source::Node(n, i) = self.values[id.0 as usize].source
            && let Some(node) = &mut self.nodes[n.0 as usize]
        {
            node.outputs[i] = None;
        }
        let value = &mut self.values[id.0 as usize];
        value.fact = Some(Fact::constant(weight.clone()));
        value.source = Source::Constant(weight);
    }

    /// Lets go of a constant's elements; its type and dims stay known. For constants that live on in packed forms only.
    pub fn forget_constant(&mut self, id: ValueId) {
        let value = &mut self.values[id.0 as usize];
        if let Source::Constant(w) = &value.source {
            value.fact = Some(Fact::concrete(w.dtype(), w.shape()));
            value.source = Source::None;
        }
    }

    /// A node, unless it was removed.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.0 as usize)?.as_ref()
    }

    /// All nodes with their ids, in the order in which they were added.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().filter_map(|(i, n)| Some((NodeId(i as u32), n.as_ref()?)))
    }

    /// The node that produces a value.
    pub fn producer(&self, id: ValueId) -> Option<(NodeId, &Node)> {
        match self.value(id).source {
            Source::Node(n, _) => Some((n, self.node(n)?)),
            _ => None,
        }
    }

    /// Replaces a node's operator.
    pub fn set_op(&mut self, id: NodeId, op_name: &str, op: Arc<dyn Op>) {
        if let Some(node) = &mut self.nodes[id.0 as usize] {
            node.op = op;
            node.op_name = op_name.into();
        }
    }

    /// Replaces the bodies of a node's subgraphs (same inputs and outputs).
    pub fn map_subgraphs(&mut self, id: NodeId, mut f: impl FnMut(&mut Graph)) {
        if let Some(node) = &mut self.nodes[id.0 as usize] {
            for s in &mut node.subgraphs {
                f(&mut s.graph);
            }
        }
    }

    /// Replaces a node's inputs.
    pub fn set_inputs(&mut self, id: NodeId, inputs: Vec<Option<ValueId>>) {
        let Some(node) = self.nodes[id.0 as usize].as_mut() else { return };
        let before: Vec<ValueId> = node.uses().collect();
        node.inputs = inputs;
        let after: Vec<ValueId> = node.uses().collect();
        for v in before {
            self.unlink(v, id);
        }
        for v in after {
            self.link(v, id);
        }
    }

    /// Gives a value another name.
    pub fn rename(&mut self, id: ValueId, name: Arc<str>) {
        self.values[id.0 as usize].name = name;
    }

    /// Makes all readers of `old` (nodes, captures, graph outputs) read `new`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        let readers = core::mem::take(&mut self.values[old.0 as usize].consumers);
        for &id in &readers {
            if let Some(node) = self.nodes[id.0 as usize].as_mut() {
                let captures = node.subgraphs.iter_mut().flat_map(|s| s.captures.iter_mut());
                for v in node.inputs.iter_mut().flatten().chain(captures).filter(|v| **v == old) {
                    *v = new;
                }
            }
        }
        // Two ascending runs, which this sort merges in one go.
        let consumers = &mut self.values[new.0 as usize].consumers;
        consumers.extend(readers);
        consumers.sort();
        consumers.dedup();
        for v in self.outputs.iter_mut().filter(|v| **v == old) {
            *v = new;
        }
    }

    /// Removes a node; its outputs keep their ids and have no producer.
    pub fn remove_node(&mut self, id: NodeId) {
        let Some(node) = self.nodes[id.0 as usize].take() else { return };
        for v in node.uses() {
            self.unlink(v, id);
        }
        for v in node.outputs.iter().flatten() {
            if matches!(self.values[v.0 as usize].source, Source::Node(n, _) if n == id) {
                self.values[v.0 as usize].source = Source::None;
            }
        }
    }

    /// True if nothing reads the value.
    pub fn is_unused(&self, id: ValueId) -> bool {
        self.value(id).consumers.is_empty() && !self.outputs.contains(&id)
    }

    /// Removes nodes of which no output is read, and what only they needed. Constants that nobody reads let go of their
    /// memory. Linear in the size of the graph.
    pub fn prune(&mut self) {
        let mut is_output = alloc::vec![false; self.values.len()];
        for v in &self.outputs {
            is_output[v.0 as usize] = true;
        }
        let mut work: Vec<NodeId> = (0..self.nodes.len()).map(|i| NodeId(i as u32)).collect();
        while let Some(id) = work.pop() {
            let Some(node) = &self.nodes[id.0 as usize] else { continue };
            let live = |v: &ValueId| is_output[v.0 as usize] || !self.values[v.0 as usize].consumers.is_empty();
            if node.outputs.iter().flatten().any(live) {
                continue;
            }
            work.extend(node.uses().filter_map(|v| match self.values[v.0 as usize].source {
                Source::Node(n, _) => Some(n),
                _ => None,
            }));
            self.remove_node(id);
        }
        for (i, value) in self.values.iter_mut().enumerate() {
            if value.consumers.is_empty() && !is_output[i] && matches!(value.source, Source::Constant(_)) {
                value.source = Source::None;
                value.fact = None;
            }
        }
    }

    /// The nodes so that producers come first, or `None` if they form a cycle. Ties keep the order of addition.
    pub fn topological_order(&self) -> Option<Vec<NodeId>> {
        let mut waits: Vec<usize> = alloc::vec![0; self.nodes.len()];
        let mut ready = alloc::collections::BinaryHeap::new();
        let mut total = 0;
        for (id, node) in self.nodes() {
            let mut producers: Vec<NodeId> = node.uses().filter_map(|v| self.producer(v).map(|(n, _)| n)).collect();
            producers.sort();
            producers.dedup();
            waits[id.0 as usize] = producers.len();
            total += 1;
            if producers.is_empty() {
                ready.push(core::cmp::Reverse(id));
            }
        }
        let mut order = Vec::with_capacity(total);
        while let Some(core::cmp::Reverse(id)) = ready.pop() {
            order.push(id);
            let Some(node) = self.node(id) else { continue };
            let mut readers: Vec<NodeId> = node.outputs.iter().flatten().flat_map(|v| self.value(*v).consumers.iter().copied()).collect();
            readers.sort();
            readers.dedup();
            for r in readers {
                waits[r.0 as usize] -= 1;
                if waits[r.0 as usize] == 0 {
                    ready.push(core::cmp::Reverse(r));
                }
            }
        }
        (order.len() == total).then_some(order)
    }
}
