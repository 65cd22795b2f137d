//! A graph ready to be planned: its nodes in order, who reads each value last, and the bodies of its branches.

use millstream_graph::{Graph, NodeId, ValueId};
use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Tells bodies apart whose values have the same numbers.
static NEXT_ID: AtomicUsize = AtomicUsize::new(0);

/// A graph or the body of a branch.
pub(crate) struct Body {
    pub(crate) id: usize,
    pub(crate) graph: Graph,
    pub(crate) order: Vec<NodeId>,
    pub(crate) branches: HashMap<NodeId, Vec<Body>>,
    /// For each value, one past the position in `order` of the last node that reads it; outputs are read behind all nodes.
    last_read: Vec<usize>,
}

impl Body {
    /// Of a graph whose control flow is choices alone.
    pub(crate) fn new(graph: Graph) -> Body {
        let order = graph.topological_order().unwrap_or_default();
        let mut last_read = vec![0; graph.value_count()];
        let mut branches = HashMap::new();
        for (position, &id) in order.iter().enumerate() {
            let Some(node) = graph.node(id) else { continue };
            for value in node.uses() {
                last_read[value.0 as usize] = position + 1;
            }
            if !node.subgraphs.is_empty() {
                branches.insert(id, node.subgraphs.iter().map(|s| Body::new(s.graph.clone())).collect());
            }
        }
        for value in graph.outputs() {
            last_read[value.0 as usize] = order.len() + 1;
        }
        Body { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), graph, order, branches, last_read }
    }

    /// True if a node from `position` on, or the caller, reads the value.
    pub(crate) fn is_read_from(&self, position: usize, value: ValueId) -> bool {
        self.last_read.get(value.0 as usize).is_some_and(|&last| last > position)
    }
}
