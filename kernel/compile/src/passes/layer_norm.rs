//! Recognises layer normalisation over the last axis as exporters spell it: with d = x − mean(x), d / √(mean(d²) + ε), then
//! perhaps a scale and a bias. The quotient may be a product with the reciprocal, and d may be computed twice.

use super::{Rewrite, Rule, rewrite::other_operand};
use alloc::{sync::Arc, vec, vec::Vec};
use millstream_graph::{Node, NodeId, Op, ValueId};
use millstream_ops::{
    elementwise::{add::Add, div::Div, mul::Mul, pow::Pow, reciprocal::Reciprocal, sqrt::Sqrt, sub::Sub},
    norm::layer_normalization::LayerNormalization,
    reduce::mean::ReduceMean,
};
use millstream_tensor::{DType, Tensor};

/// Replaces the nodes around the `Sqrt` of a variance by one `LayerNormalization`.
pub(crate) struct RecogniseLayerNorm;

/// What a normalisation reads, and the value that it replaces.
struct Found {
    x: ValueId,
    epsilon: f32,
    scale: Result<ValueId, Tensor>,
    bias: Option<ValueId>,
    result: ValueId,
}

impl Rule for RecogniseLayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn apply(&self, node: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        let Some(found) = find(rewrite) else { return false };
        let scale = found.scale.unwrap_or_else(|ones| rewrite.add_constant("scale:ones", ones));
        let mut inputs = vec![Some(found.x), Some(scale)];
        inputs.extend(found.bias.map(Some));
        let new = rewrite.add(node, "LayerNormalization", Arc::new(LayerNormalization::new(-1, found.epsilon)), inputs);
        rewrite.replace(found.result, new);
        true
    }
}

fn find(rewrite: &Rewrite<'_>) -> Option<Found> {
    let root = rewrite.node().filter(|n| is::<Sqrt>(n))?;
    let (_, sum, _) = rewrite.producer::<Add>(sole(rewrite, root.input(0)?)?)?;
    let (variance, epsilon) = rewrite.with_scalar(sum)?;
    let squares = last_mean(rewrite, sole(rewrite, variance)?)?;
    let x = centred(rewrite, squared(rewrite, sole(rewrite, squares)?)?)?;
    let mut result = normalised(rewrite, root.output(0)?, x)?;
    let fact = rewrite.graph().fact(x).filter(|f| f.dtype == DType::F32)?;
    let mut scale = None;
    if let Some((vector, scaled)) = rewrite.followed_by_vector::<Mul>(result) {
        (scale, result) = (Some(Ok(vector)), scaled);
    }
    let scale = match scale {
        Some(scale) => scale,
        None => Err(ones(fact.dims.last()?.as_extent()?)?),
    };
    let mut bias = None;
    if let Some((vector, shifted)) = rewrite.followed_by_vector::<Add>(result) {
        (bias, result) = (Some(vector), shifted);
    }
    Some(Found { x, epsilon, scale, bias, result })
}

/// The value, if one node alone reads it.
fn sole(rewrite: &Rewrite<'_>, value: ValueId) -> Option<ValueId> {
    rewrite.only_reader(value).map(|_| value)
}

/// The value whose mean over the last axis, which stays, this one is.
fn last_mean(rewrite: &Rewrite<'_>, value: ValueId) -> Option<ValueId> {
    let (_, node, mean) = rewrite.producer::<ReduceMean>(value)?;
    let x = node.input(0)?;
    let axes: Vec<i64> = match node.input(1) {
        Some(axes) => rewrite.graph().fact(axes)?.ints()?,
        None => mean.axes.axes.clone()?,
    };
    let last = rewrite.graph().fact(x)?.rank().checked_sub(1)? as i64;
    (mean.axes.keepdims && matches!(axes[..], [axis] if axis == -1 || axis == last)).then_some(x)
}

/// The value of which this one is the difference from its mean.
fn centred(rewrite: &Rewrite<'_>, value: ValueId) -> Option<ValueId> {
    let (_, node, _) = rewrite.producer::<Sub>(value)?;
    let x = node.input(0)?;
    (last_mean(rewrite, node.input(1)?)? == x).then_some(x)
}

/// The value of which this one is the square.
fn squared(rewrite: &Rewrite<'_>, value: ValueId) -> Option<ValueId> {
    let (_, node) = rewrite.graph().producer(value)?;
    let (a, b) = (node.input(0)?, node.input(1)?);
    let two = || rewrite.scalar_beside(b, a) == Some(2.0);
    ((is::<Pow>(node) && two()) || (is::<Mul>(node) && a == b)).then_some(a)
}

/// The quotient of x − mean(x) and `root`, as a quotient or as a product with the reciprocal.
fn normalised(rewrite: &Rewrite<'_>, root: ValueId, x: ValueId) -> Option<ValueId> {
    let (_, next) = rewrite.only_reader(root)?;
    if is::<Div>(next) && next.input(1) == Some(root) && centred(rewrite, next.input(0)?) == Some(x) {
        return next.output(0);
    }
    let one_over = is::<Div>(next) && rewrite.with_scalar(next) == Some((root, 1.0)) && next.input(1) == Some(root);
    if !is::<Reciprocal>(next) && !one_over {
        return None;
    }
    let reciprocal = next.output(0)?;
    let (_, product) = rewrite.only_reader(reciprocal).filter(|(_, n)| is::<Mul>(n))?;
    (centred(rewrite, other_operand(product, reciprocal)?)? == x).then_some(product.output(0)?)
}

fn ones(n: usize) -> Option<Tensor> {
    Tensor::from_slice(&[n], &vec![1f32; n]).ok()
}

fn is<T: Op>(node: &Node) -> bool {
    node.op.downcast_ref::<T>().is_some()
}
