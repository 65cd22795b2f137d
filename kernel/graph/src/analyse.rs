//! Facts flow through the graph: symbolic at load, concrete when dims are bound. One function does both.

use crate::{Fact, Graph, InferCx, InferError, Node, NodeId, Spec, ValueId, eval_to_values};
use alloc::{vec, vec::Vec};
use millstream_simd::Level;
use millstream_tensor::{DType, Value};

/// Constants of at most this many elements are computed during analysis, since shapes may depend on them.
pub const FOLD_LIMIT: usize = 1024;

/// The facts of a node's outputs. Where all inputs are small known constants, the outputs' elements are computed too.
pub fn infer_node(node: &Node, inputs: &[Option<&Fact>]) -> Result<Vec<Fact>, InferError> {
    let mut facts = node.op.infer(&InferCx { path: &node.path, inputs, outputs: node.outputs.len() })?;
    if node.op.is_pure() && node.subgraphs.is_empty() && facts.iter().any(|f| f.known.is_none()) {
        fold(node, inputs, &mut facts);
    }
    Ok(facts)
}

/// Computes a node's outputs if its inputs are known and everything is small; leaves the facts alone otherwise.
fn fold(node: &Node, inputs: &[Option<&Fact>], facts: &mut [Fact]) {
    let small = |f: &Fact| matches!(f.shape(), Some(Ok(s)) if s.elements() <= FOLD_LIMIT);
    if !inputs.iter().flatten().all(|f| f.as_const().is_some() && small(f)) || !facts.iter().all(|f| small(f) && f.dtype != DType::String) {
        return;
    }
    let values: Option<Vec<Option<Value>>> =
        inputs.iter().map(|f| f.map_or(Some(None), |f| f.as_const()?.to_tensor().ok().map(|t| Some(Value::Tensor(t))))).collect();
    let specs: Option<Vec<Option<Spec>>> = facts.iter().map(|f| f.shape()?.ok().map(|s| Some(Spec::row_major(f.dtype, s)))).collect();
    let (Some(values), Some(specs)) = (values, specs) else { return };
    // An operator that fails on these elements fails again when it runs, where the error can be reported.
    let Ok(outputs) = eval_to_values(&*node.op, Level::scalar(), &values, &specs) else { return };
    for (fact, value) in facts.iter_mut().zip(outputs) {
        if let Ok(t) = value.into_tensor() {
            *fact = Fact::constant(t.into());
        }
    }
}

/// Sets the fact of every value that can be told from the inputs' and constants' facts. Values that cannot (an input
/// without a type, an operator that waits for elements) stay `None`. Returns nodes whose inputs contradict their operator.
pub fn analyse(graph: &mut Graph) -> Vec<(NodeId, InferError)> {
    let mut errors = Vec::new();
    for id in graph.topological_order().unwrap_or_default() {
        let Some(node) = graph.node(id) else { continue };
        let known = node.inputs.iter().all(|v| v.is_none_or(|v| graph.fact(v).is_some()));
        let facts = if known {
            let inputs: Vec<Option<&Fact>> = node.inputs.iter().map(|v| v.and_then(|v| graph.fact(v))).collect();
            infer_node(node, &inputs)
        } else {
            Ok(vec![])
        };
        let outputs: Vec<Option<ValueId>> = node.outputs.clone();
        let facts = facts.unwrap_or_else(|e| {
            if !matches!(e, InferError::NeedsValue(_) | InferError::NeedsDims(_)) {
                errors.push((id, e));
            }
            vec![]
        });
        let mut facts = facts.into_iter();
        for v in outputs {
            let fact = facts.next();
            if let Some(v) = v {
                graph.set_fact(v, fact);
            }
        }
    }
    errors
}
