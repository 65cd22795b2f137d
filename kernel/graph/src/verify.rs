//! Checks that a graph is whole, for importers, passes and tests.

use crate::{Graph, NodeId, Source, ValueId};
use alloc::vec;

/// A broken link in a graph: a defect of an importer or a pass, or a model that contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A value is read and nothing produces it.
    #[error("value {0:?} is read and nothing produces it")]
    NoProducer(ValueId),
    /// A value's producer does not have it as that output, or two nodes claim it.
    #[error("value {0:?} and its producer disagree")]
    WrongProducer(ValueId),
    /// A node reads a value that does not list it as a consumer.
    #[error("value {0:?} does not know its consumer {1:?}")]
    MissingConsumer(ValueId, NodeId),
    /// A subgraph has fewer inputs than captures.
    #[error("a subgraph of {0:?} has fewer inputs than captures")]
    Captures(NodeId),
    /// Nodes that need each other.
    #[error("the graph has a cycle")]
    Cycle,
}

impl Graph {
    /// Checks the invariants of the graph and of all subgraphs.
    pub fn verify(&self) -> Result<(), VerifyError> {
        let mut produced = vec![false; self.value_count()];
        for (id, node) in self.nodes() {
            for v in node.outputs.iter().flatten() {
                if core::mem::replace(&mut produced[v.0 as usize], true) || !matches!(self.value(*v).source, Source::Node(n, _) if n == id) {
                    return Err(VerifyError::WrongProducer(*v));
                }
            }
            for v in node.uses() {
                if matches!(self.value(v).source, Source::None) {
                    return Err(VerifyError::NoProducer(v));
                }
                if self.value(v).consumers().binary_search(&id).is_err() {
                    return Err(VerifyError::MissingConsumer(v, id));
                }
            }
            for s in &node.subgraphs {
                if s.graph.inputs().len() < s.captures.len() {
                    return Err(VerifyError::Captures(id));
                }
                s.graph.verify()?;
            }
        }
        for &v in self.outputs() {
            if matches!(self.value(v).source, Source::None) {
                return Err(VerifyError::NoProducer(v));
            }
        }
        self.topological_order().map(|_| ()).ok_or(VerifyError::Cycle)
    }
}
