//! Computes what depends on constants alone.

use super::{Rewrite, Rule};
use alloc::vec::Vec;
use millstream_graph::{Fact, NodeId, Spec, eval_to_values};
use millstream_simd::Level;
use millstream_tensor::{DType, Tensor, Value};

/// Results of at most this many bytes are always kept; larger ones only up to [`WIDENING`] times what they came from, so
/// that no model file can ask for more memory than it has bytes.
const SMALL: usize = 64 * 1024;

/// The most that one element can grow: i8 to f64.
const WIDENING: usize = 8;

/// Replaces a node whose inputs are all constants by its outputs.
pub(crate) struct FoldConstants;

impl Rule for FoldConstants {
    fn name(&self) -> &'static str {
        "fold-constants"
    }

    fn apply(&self, node: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        let Some((outputs, tensors)) = fold(node, rewrite) else { return false };
        for (value, tensor) in outputs.into_iter().zip(tensors) {
            if let Some(value) = value {
                rewrite.set_constant(value, tensor);
            }
        }
        true
    }
}

type Outputs = (Vec<Option<millstream_graph::ValueId>>, Vec<Tensor>);

fn fold(id: NodeId, rewrite: &Rewrite<'_>) -> Option<Outputs> {
    let node = rewrite.graph().node(id)?;
    if !node.op.is_pure() || !node.subgraphs.is_empty() || node.outputs.iter().all(Option::is_none) {
        return None;
    }
    let graph = rewrite.graph();
    let facts: Vec<&Fact> = node.outputs.iter().map(|v| v.and_then(|v| graph.fact(v))).collect::<Option<_>>()?;
    if facts.iter().all(|f| f.as_const().is_some()) {
        let tensors = facts.iter().map(|f| f.as_const()?.to_tensor().ok()).collect::<Option<_>>()?;
        return Some((node.outputs.clone(), tensors));
    }
    if !node.inputs.iter().flatten().all(|&v| graph.fact(v).is_some_and(|f| f.as_const().is_some())) {
        return None;
    }
    let specs: Vec<Option<Spec>> = facts.iter().map(|f| f.shape()?.ok().map(|s| Some(Spec::row_major(f.dtype, s)))).collect::<Option<_>>()?;
    let made: usize = specs.iter().flatten().map(Spec::bytes).sum();
    let used: usize = node.inputs.iter().flatten().filter_map(|&v| graph.fact(v)?.as_const().map(|w| w.bytes_len())).sum();
    if facts.iter().any(|f| f.dtype == DType::String) || made > SMALL.max(used.saturating_mul(WIDENING)) {
        return None;
    }
    let inputs: Vec<Option<Value>> =
        node.inputs.iter().map(|v| v.map_or(Some(None), |v| rewrite.constant(v).map(|t| Some(Value::Tensor(t))))).collect::<Option<_>>()?;
    let outputs = eval_to_values(&*node.op, Level::detect(), &inputs, &specs).ok()?;
    let tensors = outputs.into_iter().map(|v| v.into_tensor().ok()).collect::<Option<_>>()?;
    Some((node.outputs.clone(), tensors))
}
