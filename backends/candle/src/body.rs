//! A graph ready to be walked: its constants on the device, its nodes in order, and how many readers each value has.

use crate::held::Held;
use candle_core::Device;
use millstream_engine::CompileError;
use millstream_graph::{FOLD_LIMIT, Graph, NodeId, Source, ValueId};
use millstream_tensor::TensorError;
use std::collections::HashMap;

/// A graph or the body of a branch.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) graph: Graph,
    pub(crate) order: Vec<NodeId>,
    pub(crate) constants: HashMap<ValueId, Held>,
    /// For each value, the nodes and outputs that read it.
    pub(crate) readers: Vec<u32>,
    pub(crate) branches: HashMap<NodeId, Vec<Body>>,
}

impl Body {
    /// Moves the constants of a graph whose control flow is choices alone to the device.
    pub(crate) fn new(mut graph: Graph, device: &Device) -> Result<Body, CompileError> {
        let mut constants = HashMap::new();
        let weights: Vec<_> = graph.values().filter_map(|(id, v)| Some((id, v.name.clone(), v.constant()?.clone()))).collect();
        for (id, name, weight) in weights {
            let broken = |error| CompileError::Constant { name: name.clone(), error };
            let value = weight.to_tensor().map_err(broken)?.into();
            let held = Held::from_value(&value, device).map_err(|_| broken(TensorError::OutOfMemory(weight.bytes_len())))?;
            constants.insert(id, held);
            if weight.shape().elements() > FOLD_LIMIT {
                weight.release();
                graph.forget_constant(id);
            }
        }
        let order = graph.topological_order().unwrap_or_default();
        let mut readers = vec![0; graph.value_count()];
        for (id, v) in graph.values() {
            readers[id.0 as usize] = v.consumers().len() as u32;
        }
        for id in graph.outputs() {
            readers[id.0 as usize] += 1;
        }
        let mut branches = HashMap::new();
        for (id, node) in graph.nodes() {
            let bodies = node.subgraphs.iter().map(|s| Body::new(s.graph.clone(), device)).collect::<Result<Vec<_>, _>>()?;
            if !bodies.is_empty() {
                branches.insert(id, bodies);
            }
        }
        // Subgraphs live on in `branches`: their constants in the graph's own copies would stay twice.
        for &id in branches.keys() {
            graph.map_subgraphs(id, forget);
        }
        Ok(Body { graph, order, constants, readers, branches })
    }

    /// Bytes of constants, branches included.
    pub(crate) fn weight_bytes(&self) -> usize {
        let own = self.constants.values().filter_map(|h| Some(h.spec().ok()??.bytes())).sum::<usize>();
        own + self.branches.values().flatten().map(Body::weight_bytes).sum::<usize>()
    }
}

fn forget(graph: &mut Graph) {
    let constants: Vec<ValueId> = graph.values().filter(|(_, v)| matches!(v.source, Source::Constant(_))).map(|(id, _)| id).collect();
    for id in constants {
        graph.forget_constant(id);
    }
}
