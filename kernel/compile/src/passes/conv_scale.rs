//! Folds what follows a convolution (transposed ones included) channel by channel into its weights: batch normalisation, a factor, a term.
//!
//! With scale s and shift t of output channel c: s·(W∗x + b) + t = (s·W)∗x + (s·b + t). The products are rounded once in
//! f32, so results differ from the unfolded ones by rounding only.

use super::{Rewrite, Rule, rewrite::other_operand};
use alloc::{vec, vec::Vec};
use millstream_gemm::Activation;
use millstream_graph::{Node, NodeId, ValueId};
use millstream_ops::{
    conv::{conv::Conv, conv_transpose::ConvTranspose},
    elementwise::{add::Add, mul::Mul},
    norm::batch_normalization::BatchNormalization,
};
use millstream_tensor::{DType, Tensor};

/// Folds the reader of a convolution into it.
pub(crate) struct FoldIntoConv;

/// What to do with each output channel.
struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Rule for FoldIntoConv {
    fn name(&self) -> &'static str {
        "conv-scale"
    }

    fn apply(&self, id: NodeId, rewrite: &mut Rewrite<'_>) -> bool {
        let Some(folded) = fold(rewrite) else { return false };
        let Some(node) = rewrite.node() else { return false };
        let (op, name, x) = (node.op.clone(), node.op_name.clone(), node.input(0));
        let weights = rewrite.add_constant("weights:scaled", folded.weights);
        let bias = rewrite.add_constant("bias:scaled", folded.bias);
        let conv = rewrite.add(id, &name, op, vec![x, Some(weights), Some(bias)]);
        rewrite.replace(folded.result, conv);
        true
    }
}

struct Folded {
    weights: Tensor,
    bias: Tensor,
    result: ValueId,
}

fn fold(rewrite: &Rewrite<'_>) -> Option<Folded> {
    let node = rewrite.node()?;
    let weights = rewrite.weight(node.input(1)?).filter(|w| w.dtype() == DType::F32 && w.shape().rank() > 1)?;
    let filters = Filters::of(node, weights.shape())?;
    let channels = filters.outputs * filters.groups;
    let (affine, result) = reader(rewrite, node.output(0)?, channels)?;
    let weights = weights.to_tensor().ok()?;
    let bias = match node.input(2) {
        Some(b) => rewrite.constant(b)?.as_slice::<f32>().ok()?.to_vec(),
        None => vec![0.0; channels],
    };
    let elements = weights.as_slice::<f32>().ok()?.iter().enumerate();
    let scaled: Vec<f32> = elements.map(|(i, &w)| affine.scale.get(filters.channel(i)).map(|&s| w * s)).collect::<Option<_>>()?;
    let bias: Vec<f32> = bias.iter().zip(affine.scale.iter().zip(&affine.shift)).map(|(b, (s, t))| b * s + t).collect();
    Some(Folded { weights: Tensor::from_slice(weights.shape(), &scaled).ok()?, bias: Tensor::from_slice(&[channels], &bias).ok()?, result })
}

/// Which output channel an element of the weights is for.
struct Filters {
    groups: usize,
    /// Output channels of a group.
    outputs: usize,
    /// Elements of a channel that follow each other, and how often a group's channels are passed.
    run: usize,
    passes: usize,
}

impl Filters {
    /// The weights of a convolution without residual and activation, or of a transposed one.
    fn of(node: &Node, shape: &[usize]) -> Option<Filters> {
        let elements: usize = shape.iter().product();
        if let Some(conv) = node.op.downcast_ref::<Conv>() {
            let plain = !conv.has_residual() && conv.activation() == Activation::None;
            let run = elements.checked_div(shape[0]).filter(|&run| plain && run > 0)?;
            return Some(Filters { groups: 1, outputs: shape[0], run, passes: 1 });
        }
        let conv = node.op.downcast_ref::<ConvTranspose>().filter(|c| c.activation() == Activation::None)?;
        let run = elements.checked_div(shape[0] * shape[1]).filter(|&run| run > 0)?;
        Some(Filters { groups: conv.group(), outputs: shape[1], run, passes: shape[0].checked_div(conv.group()).filter(|&p| p > 0)? })
    }

    fn channel(&self, element: usize) -> usize {
        let row = element / self.run;
        row / self.outputs / self.passes * self.outputs + row % self.outputs
    }
}

/// What the only reader of `y` does to each channel, and its result.
fn reader(rewrite: &Rewrite<'_>, y: ValueId, channels: usize) -> Option<(Affine, ValueId)> {
    let (_, next) = rewrite.only_reader(y)?;
    let result = next.output(0)?;
    if let Some(norm) = next.op.downcast_ref::<BatchNormalization>() {
        if next.outputs.iter().skip(1).any(Option::is_some) || next.input(0) != Some(y) {
            return None;
        }
        let parameter = |i| rewrite.constant(next.input(i)?)?.as_slice::<f32>().ok().filter(|p| p.len() == channels).map(<[f32]>::to_vec);
        let (gamma, beta, mean, variance) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
        let epsilon = norm.epsilon;
        // In f64, so that the rounding of the factors is the only one.
        let factor = |i: usize| f64::from(gamma[i]) / libm::sqrt(f64::from(variance[i]) + f64::from(epsilon));
        let scale = (0..channels).map(|i| factor(i) as f32).collect();
        let shift = (0..channels).map(|i| (f64::from(beta[i]) - f64::from(mean[i]) * factor(i)) as f32).collect();
        return Some((Affine { scale, shift }, result));
    }
    let rank = rewrite.graph().fact(y)?.rank();
    let values = per_channel(rewrite, other_operand(next, y)?, rank, channels)?;
    if next.op.downcast_ref::<Mul>().is_some() {
        return Some((Affine { scale: values, shift: vec![0.0; channels] }, result));
    }
    next.op.downcast_ref::<Add>()?;
    Some((Affine { scale: vec![1.0; channels], shift: values }, result))
}

/// A constant that broadcasts along axis 1 alone, one element a channel.
fn per_channel(rewrite: &Rewrite<'_>, value: ValueId, rank: usize, channels: usize) -> Option<Vec<f32>> {
    let tensor = rewrite.constant(value).filter(|t| t.dtype() == DType::F32)?;
    let shape = tensor.shape();
    let elements = tensor.as_slice::<f32>().ok()?;
    if shape.rank() > rank {
        return None;
    }
    if let [one] = elements {
        return Some(vec![*one; channels]);
    }
    let channel_axis = (shape.rank() + 1).checked_sub(rank)?;
    let only_channels = shape.iter().enumerate().all(|(i, &d)| d == if i == channel_axis { channels } else { 1 });
    only_channels.then(|| elements.to_vec())
}
