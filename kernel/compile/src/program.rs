//! A lowered graph, its subgraphs laid out flat, with the packed forms of constants.

use alloc::{sync::Arc, vec, vec::Vec};
use hashbrown::HashMap;
use millstream_engine::CompileError;
use millstream_graph::{Fact, Graph, NodeId, Packed, PrepackCx, ValueId, VerifyError};
use millstream_simd::Level;
use millstream_tensor::{AlignedBytes, Weight};

/// The largest constant, in bytes, whose copy is used for packing alone.
const ROOM: usize = 16 << 20;

/// A node of a graph or of one of its subgraphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeKey {
    /// The graph's number; 0 is the outermost.
    pub(crate) graph: usize,
    /// The node in it.
    pub(crate) node: NodeId,
}

/// One graph of a program.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) graph: Graph,
    /// The nodes so that producers come first.
    pub(crate) order: Vec<NodeId>,
    /// The numbers of each node's subgraphs.
    pub(crate) children: HashMap<NodeId, Vec<usize>>,
    /// Constants in the form of the node that reads them as its input at this position.
    packed: HashMap<(NodeId, usize), Arc<dyn Packed>>,
}

/// Graphs by number: what is left of a model once it is lowered.
#[derive(Debug)]
pub struct Program {
    pub(crate) bodies: Vec<Body>,
    weight_bytes: usize,
}

impl Program {
    /// Lays the graph and its subgraphs out and packs constants, one after the other: the original of a packed constant is
    /// released before the next one is packed.
    pub(crate) fn new(graph: Graph, level: Level) -> Result<Program, CompileError> {
        let mut program = Program { bodies: Vec::new(), weight_bytes: 0 };
        program.add(graph)?;
        for body in &mut program.bodies {
            program.weight_bytes += body.pack(level)?;
        }
        Ok(program)
    }

    fn add(&mut self, mut graph: Graph) -> Result<usize, CompileError> {
        let order = graph.topological_order().ok_or(VerifyError::Cycle)?;
        let number = self.bodies.len();
        let mut subgraphs: Vec<(NodeId, Vec<Graph>)> = Vec::new();
        for &id in &order {
            let mut taken = Vec::new();
            graph.map_subgraphs(id, |g| taken.push(core::mem::take(g)));
            if !taken.is_empty() {
                subgraphs.push((id, taken));
            }
        }
        self.bodies.push(Body { graph, order, children: HashMap::new(), packed: HashMap::new() });
        for (id, graphs) in subgraphs {
            let mut children = vec![];
            for g in graphs {
                children.push(self.add(g)?);
            }
            self.bodies[number].children.insert(id, children);
        }
        Ok(number)
    }

    /// Bytes of all constants as they are kept: packed, or in their original form.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// The packed form of a node's constant input.
    pub(crate) fn packed(&self, key: NodeKey, input: usize) -> Option<&Arc<dyn Packed>> {
        self.bodies[key.graph].packed.get(&(key.node, input))
    }
}

impl Body {
    /// Offers every constant to the operators that read it. Returns the bytes of constants afterwards.
    fn pack(&mut self, level: Level) -> Result<usize, CompileError> {
        let mut bytes = 0;
        let mut room = AlignedBytes::default();
        let constants: Vec<ValueId> = self.graph.values().filter(|(_, v)| v.constant().is_some()).map(|(id, _)| id).collect();
        for value in constants {
            bytes += self.pack_constant(value, level, &mut room)?;
        }
        Ok(bytes)
    }

    /// Offers a constant to the operators that read it. `room` is where bytes are copied to that are not aligned.
    fn pack_constant(&mut self, value: ValueId, level: Level, room: &mut AlignedBytes) -> Result<usize, CompileError> {
        let info = self.graph.value(value);
        let Some(weight) = info.constant().cloned() else { return Ok(0) };
        let failed = |error| CompileError::Constant { name: info.name.clone(), error };
        let mut needed = self.graph.outputs().contains(&value);
        let mut packed = Vec::new();
        // Mapped bytes may begin anywhere. Constants beyond the room are copied for good: they are seldom packed.
        let large = weight.view().is_err() && weight.bytes_len() > ROOM;
        let mut kept = if large { Weight::from(weight.to_tensor().map_err(failed)?) } else { weight.clone() };
        let view = kept.view_in(room).map_err(failed)?;
        for &id in info.consumers() {
            let Some(node) = self.graph.node(id) else { continue };
            let facts: Vec<Option<&Fact>> = node.inputs.iter().map(|v| v.and_then(|v| self.graph.fact(v))).collect();
            for (i, _) in node.inputs.iter().enumerate().filter(|(_, v)| **v == Some(value)) {
                match node.op.prepack(i, view, &PrepackCx { level, inputs: &facts }).map_err(failed)? {
                    Some(p) => packed.push(((id, i), p)),
                    None => needed = true,
                }
            }
            needed |= node.subgraphs.iter().any(|s| s.captures.contains(&value));
        }
        if needed && kept.view().is_err() {
            kept = Weight::from(kept.to_tensor().map_err(failed)?);
        }
        let bytes = packed.iter().map(|(_, p)| p.bytes_len()).sum::<usize>() + if needed { kept.bytes_len() } else { 0 };
        if needed {
            if !weight.same_memory(&kept) {
                self.graph.set_constant(value, kept);
                weight.release();
            }
        } else if !packed.is_empty() {
            self.graph.forget_constant(value);
            weight.release();
        }
        self.packed.extend(packed);
        Ok(bytes)
    }
}
