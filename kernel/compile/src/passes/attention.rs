//! Recognises attention: a softmax over the last axis between two products, softmax(scale · Q·Kᵀ + mask) · V.
//!
//! The rule runs after all others, when scales and the transposes of heads have become part of the products.

use super::{Rewrite, Rule, rewrite::other_operand};
use alloc::{sync::Arc, vec, vec::Vec};
use millstream_gemm::Activation;
use millstream_graph::{Node, NodeId, ValueId};
use millstream_ops::{attention::fused_attention::FusedAttention, elementwise::add::Add, matmul::mat_mul::MatMul, norm::softmax::Softmax};
use millstream_tensor::DType;

/// Replaces the nodes around a `Softmax` by one `FusedAttention`.
pub(crate) struct FuseAttention;

struct Found {
    op: FusedAttention,
    inputs: Vec<Option<ValueId>>,
    result: ValueId,
}

impl Rule for FuseAttention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn apply(&self, id: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        let Some(Found { op, inputs, result }) = find(rewrite) else { return false };
        let new = rewrite.add(id, "FusedAttention", Arc::new(op), inputs);
        rewrite.replace(result, new);
        true
    }
}

fn find(rewrite: &Rewrite<'_>) -> Option<Found> {
    let node = rewrite.node()?;
    let softmax = node.op.downcast_ref::<Softmax>()?;
    let (scores, weights) = (node.input(0)?, node.output(0)?);
    let rank = rewrite.graph().fact(scores).filter(|f| f.dtype == DType::F32)?.rank();
    let axis = softmax.axis.axis;
    if rank < 2 || (axis != -1 && axis != rank as i64 - 1) {
        return None;
    }
    rewrite.only_reader(scores)?;
    let (product, mask) = match rewrite.producer::<Add>(scores) {
        Some((_, sum, _)) => {
            let product = [0, 1].into_iter().filter_map(|i| sum.input(i)).find(|&v| is_scores(rewrite, v, rank))?;
            rewrite.only_reader(product)?;
            (product, Some(other_operand(sum, product)?))
        }
        None => (scores, None),
    };
    let (_, before, first) = rewrite.producer::<MatMul>(product).filter(|_| is_scores(rewrite, product, rank))?;
    let mask = if first.has_residual() { if mask.is_some() { return None } else { before.input(3) } } else { mask };
    if let Some(fact) = mask.and_then(|m| rewrite.graph().fact(m))
        && (fact.dtype != DType::F32 || fact.rank() > rank || fact.rank() == 0)
    {
        return None;
    }
    let (_, after) = rewrite.only_reader(weights)?;
    let second = after.op.downcast_ref::<MatMul>()?;
    let [[], _, perm_y] = second.permutations() else { return None };
    let plain = second.scale() == 1.0 && second.activation() == Activation::None && !second.has_residual();
    if !plain || after.input(0) != Some(weights) || after.input(2).is_some() {
        return None;
    }
    let (q, k, v) = (before.input(0)?, before.input(1)?, after.input(1)?);
    let of_rank = |v: &ValueId| rewrite.is_dynamic(*v) && rewrite.graph().fact(*v).is_some_and(|f| f.rank() == rank);
    if ![q, k, v].iter().all(of_rank) {
        return None;
    }
    // The product saw keys as columns; attention sees them as rows.
    let [perm_q, perm_k, _] = first.permutations();
    let mut keys: Vec<usize> = if perm_k.is_empty() { (0..rank).collect() } else { perm_k.to_vec() };
    keys.swap(rank - 2, rank - 1);
    let op = FusedAttention::new([perm_q, &keys, second.permutations()[1]], perm_y, first.scale())?;
    let mut inputs = vec![Some(q), Some(k), Some(v)];
    inputs.extend(mask.map(Some));
    Some(Found { op, inputs, result: after.output(0)? })
}

/// True if the value is a product of matrices that a softmax may follow, with a mask at the most.
fn is_scores(rewrite: &Rewrite<'_>, value: ValueId, rank: usize) -> bool {
    let fits = |node: &Node, op: &MatMul| {
        let bare = op.activation() == Activation::None && op.permutations()[2].is_empty() && node.input(2).is_none();
        bare && rewrite.graph().fact(value).is_some_and(|f| f.rank() == rank)
    };
    rewrite.producer::<MatMul>(value).is_some_and(|(_, node, op)| fits(node, op))
}
